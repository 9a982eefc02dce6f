import numpy as np
import pytest

from lightning_seq.callbacks.heads.canvas import Canvas
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


def test_tokens_at_both_sides_and_what_says_most(drawn):
    tokens = ["the", " cat", "\n", "中", "b"]
    image = draw_map(view(tokens), 0, 1)
    labels = ["the", "␣cat", "⏎", "U+4E2D", "b"]
    assert "\n".join(labels) + "\n" + "\n".join(labels) in "\n".join(drawn.texts)
    assert "layer 2, head 3, step 7" in drawn.words()
    assert "induction 0.81" in drawn.words()
    assert "first token" not in drawn.words()
    assert pixels(image).min() < 128


def test_numbers_that_are_missing_are_left_out(drawn):
    draw_map(view("ab"), 0, 0)
    assert "entropy 1.00" in drawn.words()
    assert "nan" not in drawn.words()


def test_the_brightest_cell_is_the_largest_share(drawn):
    draw_map(view("abcd"), 0, 0)
    image = drawn.pictures[0].astype(int)
    assert image.shape == (128, 128, 3)  # 32 pixels a token
    cells = image[16::32, 16::32]
    assert cells[0, 0].sum() > cells[1, 0].sum() > cells[3, 0].sum()
    assert len(set(cells[0, 1])) == 1  # grey: out of sight


@pytest.mark.parametrize(("length", "labels"), [(1, 1), (64, 64), (65, 33), (2000, 63)])
def test_long_texts_have_fewer_labels(drawn, length, labels):
    image = draw_map(view("x" * length), 0, 0)
    assert drawn.texts.count("x") == 2 * labels
    assert max(image.size) < 2000


def test_short_labels_stand_and_long_ones_are_turned(monkeypatch):
    turned = []
    monkeypatch.setattr(Canvas, "upright", lambda self, x, y, text, *args, **options: turned.append(text))
    short = draw_map(view("abc"), 0, 0)
    assert not {"a", "b", "c"} & set(turned)
    long = draw_map(view(["ab", "c", "defghijk"]), 0, 0)
    assert {"ab", "c", "defghijk"} <= set(turned)
    assert long.height > short.height + 20  # room for them, and none where they are short


def test_words_are_labelled_without_the_space_that_every_one_begins_with(drawn):
    draw_map(view(["a", " cat", " sat"]), 0, 0)
    assert drawn.texts.count("cat") == drawn.texts.count("sat") == 2


def test_a_long_title_is_not_cut_off():
    one = View("a/long/path" * 20, tuple("ab"), view("ab").layers)
    image = pixels(draw_map(one, 0, 0))
    assert (image[:, -14:] == 255).all()
    assert (image[:30, -40:-14] < 128).any()


def test_what_is_not_the_text_is_numbered(drawn):
    draw_map(view("abc", keys=5), 0, 0)
    assert "\n".join(["a", "b", "c", "0", "1", "2", "3", "4"]) in "\n".join(drawn.texts)


def test_saliency_is_no_head(drawn):
    draw_map(view("abc", name="saliency"), 0, 0)
    assert "head" not in drawn.words()
    assert "attention" not in drawn.words()
    assert "prediction" in drawn.words()


@pytest.mark.parametrize(("layer", "head", "name"), [(1, 0, "layer"), (0, 2, "head"), (-1, 0, "layer")])
def test_refuses_what_is_not_there(layer, head, name):
    with pytest.raises(InputError, match=f"{name} is"):
        draw_map(view("ab"), layer, head)
