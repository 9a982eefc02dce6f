import numpy as np
import pytest

from lightning_seq.callbacks.heads.map_figure import draw_map
from lightning_seq.callbacks.heads.view import LayerView, View
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels


def view(tokens, keys=None, name="layer 2"):
    maps = np.tri(len(tokens), keys or len(tokens), dtype=np.float32)
    maps /= maps.sum(1, keepdims=True)
    measures = {"entropy": [1, 0.5], "induction": [np.nan, 0.81], "first_token": [0.2, 0.1]}
    numbers = {key: np.array(values, np.float32) for key, values in measures.items()}
    return View("step 7", tuple(tokens), (LayerView(name, "", (0, 3), np.stack([maps, maps]), numbers),))


def names(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def words(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_tokens_at_both_sides_and_what_says_most():
    figure = draw_map(view(["the", " cat", "\n", "中", "$"]), 0, 1)
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        assert names(axis) == ["the", "␣cat", "⏎", "U+4E2D", "\\$"]
    assert "layer 2, head 3, step 7" in words(figure)
    assert "induction 0.81" in words(figure)
    assert "first token" not in words(figure)
    assert "nan" not in words(draw_map(view("ab"), 0, 0))
    assert pixels(figure).min() < 128


def test_the_brightest_cell_is_the_largest_share():
    image = draw_map(view("abcd"), 0, 0).axes[0].images[0].get_array()
    assert image.shape[:2] == (4, 4)
    assert image[0, 0].sum() > image[1, 0].sum() > image[3, 0].sum()
    assert len(set(image[0, 1])) == 1  # grey: out of sight


@pytest.mark.parametrize(("length", "labels"), [(1, 1), (64, 64), (65, 33), (2000, 63)])
def test_long_texts_have_fewer_labels(length, labels):
    figure = draw_map(view("x" * length), 0, 0)
    assert len(names(figure.axes[0].yaxis)) == labels
    assert figure.get_size_inches().max() < 25
    pixels(figure)


def test_what_is_not_the_text_is_numbered():
    figure = draw_map(view("abc", keys=5), 0, 0)
    assert names(figure.axes[0].xaxis) == ["0", "1", "2", "3", "4"]
    assert names(figure.axes[0].yaxis) == ["a", "b", "c"]


def test_saliency_is_no_head():
    figure = draw_map(view("abc", name="saliency"), 0, 0)
    assert "head" not in words(figure)
    assert "prediction" in words(figure)


@pytest.mark.parametrize(("layer", "head", "name"), [(1, 0, "layer"), (0, 2, "head"), (-1, 0, "layer")])
def test_refuses_what_is_not_there(layer, head, name):
    with pytest.raises(InputError, match=f"{name} is"):
        draw_map(view("ab"), layer, head)
