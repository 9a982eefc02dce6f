import numpy as np
import pytest

from lightning_seq.callbacks.heads.training_figure import draw_training
from lightning_seq.callbacks.heads.view import MEASURES
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels

TITLES = {measure.title for measure in MEASURES.values()}


def entry(step, value, heads=((0, 0), (0, 1)), measures=("entropy",)):
    keys = [f"attention/{measure}/layer{layer}_head{head}" for measure in measures for layer, head in heads]
    return {"step": step, "attention/entropy": 0.5, "attention/entropy_min": 0.1} | dict.fromkeys(keys, value)


def titles(drawn):
    return [text for text in drawn.texts if text in TITLES]


def test_a_panel_a_measure_and_a_row_a_head(drawn):
    history = [entry(0, 0.1, measures=("induction", "entropy")), entry(10, 0.9, measures=("entropy",))]
    draw_training(history)
    assert titles(drawn) == ["entropy", "induction"]
    assert "evenly" in drawn.words()
    assert [text for text in drawn.texts if "head " in text] == ["layer 0, head 0", "head 1"]
    entropy, _, induction, _ = (picture.astype(int) for picture in drawn.pictures)  # and their scales
    assert len(entropy) == 2 * 16
    assert entropy[0, 0].sum() < entropy[0, -1].sum()
    assert len(set(induction[0, -1])) == 1  # grey: not measured


def test_looks_are_at_their_true_steps(drawn):
    draw_training([entry(0, 0.0), entry(10, 0.5), entry(100, 1.0)])
    image = drawn.pictures[0].astype(int)
    changes = np.flatnonzero((np.diff(image[0], axis=0) != 0).any(-1)) / image.shape[1]
    # from -5 to 145, half the way to the next
    assert changes == pytest.approx([10 / 150, 60 / 150], abs=0.01)
    assert {"0", "50", "100"} <= set(drawn.texts)


def test_head_sets_may_differ(drawn):
    history = [entry(0, 0.3), entry(5, float("nan"), heads=((1, 2),)), entry(9, 0.4, heads=((1, 2),))]
    draw_training(history)
    names = [text for text in drawn.texts if "head " in text]
    assert names == ["layer 0, head 0", "head 1", "layer 1, head 2"]


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_one_look_is_enough(value):
    assert pixels(draw_training([entry(7, value, measures=("entropy", "distance"))])).min() < 128


def test_saliency(drawn):
    draw_training([{"step": i, "saliency/entropy": 0.5, "saliency/distance": i} for i in range(4)])
    assert titles(drawn) == ["entropy", "mean distance"]
    assert "head" not in drawn.words().lower()


def test_many_heads_and_looks(drawn):
    heads = [(layer, head) for layer in range(12) for head in range(12)]
    image = draw_training([entry(step, 0.5, heads) for step in range(256)])
    names = [text for text in drawn.texts if text.startswith("layer")]
    assert names == [f"layer {layer}" for layer in range(12)]
    assert image.height > 144


@pytest.mark.parametrize("history", [[], [{"step": 0, "attention/entropy": 0.5}]])
def test_refuses_a_history_of_nothing(history):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_training(history)
