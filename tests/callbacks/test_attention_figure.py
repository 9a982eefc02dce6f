import numpy as np
import pytest

from lightning_seq.callbacks.attention_figure import draw_heads
from lightning_seq.figures import pixels


def one_hot(heads, size):
    return np.broadcast_to(np.eye(size, dtype=np.float32), (heads, size, size)).copy()


def test_shows_each_head_with_its_entropy_and_explains_itself():
    maps = [one_hot(2, 6), one_hot(3, 6)]
    entropies = [np.array([0.25, 0.5], np.float32), np.array([0.125, 0.75, 1.0], np.float32)]
    figure = draw_heads(maps, entropies, 1500)
    texts = " ".join(text.get_text() for text in [*figure.texts, *figure.axes[0].texts])
    for part in ("step 1,500", "query", "keys", "Bright", "entropy 0.25", "entropy 1.00"):
        assert part in texts
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["layer 0", "layer 1"]
    assert len(figure.axes) == 2  # all maps in one, and the scale


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, 2), (2, 3, 64), (14, 16, 64), (1, 2, 200)])
def test_any_number_of_heads(layers, heads, size):
    image = pixels(draw_heads([one_hot(heads, size)] * layers, [np.zeros(heads, np.float32)] * layers, 0))
    assert image.shape[2] == 3
    assert image.shape[0] >= layers * 64
    bright = (image.astype(int).sum(-1) > 690) & (image[..., 2] < 200)  # the palette's brightest, not white
    assert bright.sum() >= layers * heads * size


def test_layers_may_differ_in_length():
    maps = [one_hot(2, 6), np.full((2, 6, 9), 1 / 9, np.float32)]
    pixels(draw_heads(maps, [np.zeros(2, np.float32)] * 2, 0))
