import numpy as np
import pytest

from lightning_seq.callbacks.heads.overview_figure import draw_heads
from lightning_seq.callbacks.heads.view import LayerView, View
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels


def one_hot(heads, size):
    return np.broadcast_to(np.eye(size, dtype=np.float32), (heads, size, size)).copy()


def layer(maps, name="layer 0", heads=None, **measures):
    numbers = {key: np.array(values, np.float32) for key, values in measures.items()}
    return LayerView(name, "", heads or tuple(range(len(maps))), maps, numbers)


def view(*layers, name="step 1,500"):
    return View(name, tuple("abcdef"), layers)


def test_shows_each_head_with_its_measure_and_explains_itself(drawn):
    first = layer(one_hot(2, 6), "layer 0", entropy=[0.25, 0.5])
    second = layer(one_hot(3, 6), "layer 4", entropy=[0.125, np.nan, 1.0])
    draw_heads(view(first, second))
    for part in ("step 1,500", "query", "keys", "Bright", "entropy 0.25", "entropy 1.00", "evenly"):
        assert part in drawn.words()
    assert "nan" not in drawn.words()
    assert [text for text in drawn.texts if text.startswith("layer")] == ["layer 0", "layer 4"]
    assert len(drawn.pictures) == 2 + 3 + 1  # the heads and the scale


def test_another_measure_and_one_that_is_missing(drawn):
    maps = one_hot(1, 6)
    draw_heads(view(layer(maps, distance=[12.34])), "distance")
    assert "mean distance 12.3" in drawn.texts
    drawn.clear()
    draw_heads(view(layer(maps)), "induction")
    assert not [text for text in drawn.texts if text.startswith("induction")]


def test_heads_keep_their_numbers(drawn):
    draw_heads(view(layer(one_hot(2, 6), heads=(1, 5))))
    assert [text for text in drawn.texts if text.startswith("head")] == ["head 1", "head 5"]
    drawn.clear()
    draw_heads(view(layer(one_hot(1, 6), heads=(1,)), layer(one_hot(1, 6), heads=(7,))))
    assert [text.strip() for text in drawn.texts if text.startswith("head")] == ["head 1:", "head 7:"]


def test_saliency_is_said_in_other_words(drawn):
    draw_heads(view(layer(one_hot(1, 6), "saliency", entropy=[0.5])))
    assert "predictions depend" in drawn.words()
    assert "head" not in drawn.words()
    assert "attention" not in drawn.words()


@pytest.mark.parametrize(
    ("layers", "heads", "size"), [(1, 1, 1), (1, 1, 2), (2, 3, 64), (24, 16, 64), (1, 2, 200)]
)
def test_any_number_of_heads(layers, heads, size):
    image = pixels(draw_heads(view(*[layer(one_hot(heads, size), entropy=np.zeros(heads))] * layers)))
    assert image.shape[0] >= layers * 64
    bright = (image.astype(int).sum(-1) > 690) & (image[..., 2] < 200)  # the palette's brightest, not white
    assert bright.sum() >= layers * heads * size


def test_very_long_texts_keep_their_lines(drawn):
    assert max(draw_heads(view(*[layer(one_hot(1, 1500))] * 12)).size) < 8000
    assert all((picture[..., 0] > 250).sum() > 400 for picture in drawn.pictures[:12])


def test_layers_may_differ_in_length():
    cross = np.full((2, 6, 9), 1 / 9, np.float32)
    assert pixels(draw_heads(view(layer(one_hot(2, 6)), layer(cross)))).min() < 128


def test_unknown_measure_and_no_layer():
    with pytest.raises(InputError, match="did you mean 'entropy'"):
        draw_heads(view(layer(one_hot(1, 2))), "entropi")
    with pytest.raises(InputError, match="no layer"):
        draw_heads(view())
