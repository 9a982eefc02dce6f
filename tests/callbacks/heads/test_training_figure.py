import numpy as np
import pytest

from lightning_seq.callbacks.heads.training_figure import draw_training
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels


def entry(step, value, heads=((0, 0), (0, 1)), measures=("entropy",)):
    keys = [f"attention/{measure}/layer{layer}_head{head}" for measure in measures for layer, head in heads]
    return {"step": step, "attention/entropy": 0.5, "attention/entropy_min": 0.1} | dict.fromkeys(keys, value)


def panels(figure):
    return {axes.get_title(loc="left").strip(): axes for axes in figure.axes if axes.get_title(loc="left")}


def test_a_panel_a_measure_and_a_row_a_head():
    history = [entry(0, 0.1, measures=("induction", "entropy")), entry(10, 0.9, measures=("entropy",))]
    shown = panels(draw_training(history))
    assert list(shown) == ["entropy", "induction"]
    assert "evenly" in shown["entropy"].texts[0].get_text()
    names = [text.get_text() for text in shown["entropy"].get_yticklabels()]
    assert names == ["layer 0, head 0", "head 1"]
    image = shown["entropy"].images[0].get_array().astype(int)
    assert image.shape[0] == 2
    assert image[0, 0].sum() < image[0, -1].sum()
    assert len(set(shown["induction"].images[0].get_array()[0, -1])) == 1  # grey: not measured


def test_looks_are_at_their_true_steps():
    axes = panels(draw_training([entry(0, 0.0), entry(10, 0.5), entry(100, 1.0)]))["entropy"]
    image = axes.images[0].get_array()
    width = image.shape[1]
    changes = np.flatnonzero((np.diff(image[0].astype(int), axis=0) != 0).any(-1)) / width
    assert changes == pytest.approx([0.05, 0.55], abs=0.01)


def test_head_sets_may_differ():
    history = [entry(0, 0.3), entry(5, float("nan"), heads=((1, 2),)), entry(9, 0.4, heads=((1, 2),))]
    names = [text.get_text() for text in panels(draw_training(history))["entropy"].get_yticklabels()]
    assert names == ["layer 0, head 0", "head 1", "layer 1, head 2"]


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_one_look_is_enough(value):
    assert pixels(draw_training([entry(7, value, measures=("entropy", "distance"))])).min() < 128


def test_saliency():
    figure = draw_training([{"step": i, "saliency/entropy": 0.5, "saliency/distance": i} for i in range(4)])
    assert list(panels(figure)) == ["entropy", "mean distance"]
    assert "head" not in " ".join(text.get_text() for text in figure.texts).lower()


def test_many_heads_and_looks():
    heads = [(layer, head) for layer in range(12) for head in range(12)]
    figure = draw_training([entry(step, 0.5, heads) for step in range(256)])
    names = [text.get_text() for text in panels(figure)["entropy"].get_yticklabels()]
    assert names == [f"layer {layer}" for layer in range(12)]
    assert pixels(figure).shape[0] > 144


@pytest.mark.parametrize("history", [[], [{"step": 0, "attention/entropy": 0.5}]])
def test_refuses_a_history_of_nothing(history):
    with pytest.raises(InputError, match="nothing to draw"):
        draw_training(history)
