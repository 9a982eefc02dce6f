import numpy as np
import pytest

from lightning_seq.callbacks.heads.head_numbers import alarms, is_of_head, of_heads, sentence, summary
from lightning_seq.callbacks.heads.view import LayerView


def layer(name, heads=(0, 1), **measures):
    maps = np.zeros((len(heads), 2, 2), np.float32)
    return LayerView(name, "", heads, maps, {k: np.array(v, np.float32) for k, v in measures.items()})


LAYERS = [
    layer("layer 0", entropy=[0.25, 0.75], previous_token=[0.5, 0.25], max_logit=[3.0, 5.0]),
    layer("layer 3", (1, 4), entropy=[0.5, 1.0], previous_token=[1.0, 0.0], max_logit=[-1.0, 2.0]),
    layer("saliency", (0,), entropy=[0.125], distance=[4.0]),
]


def test_each_head_has_a_key():
    numbers = of_heads(LAYERS)
    assert len(numbers) == 12
    assert numbers["attention/entropy/layer3_head4"] == 1.0
    assert numbers["attention/max_logit/layer0_head1"] == 5.0
    assert all(is_of_head(key) for key in numbers)


def test_the_summary_has_means_extremes_and_shares_of_heads():
    numbers = summary(LAYERS, threshold=0.5)
    assert numbers["attention/entropy"] == 0.625
    assert (numbers["attention/max_logit_min"], numbers["attention/max_logit_max"]) == (-1.0, 5.0)
    assert numbers["attention/previous_token_heads"] == 0.5
    assert summary(LAYERS, threshold=0.6)["attention/previous_token_heads"] == 0.25
    assert "attention/entropy_heads" not in numbers
    assert (numbers["saliency/entropy"], numbers["saliency/distance"]) == (0.125, 4.0)
    assert not any(is_of_head(key) for key in numbers)


def test_the_sentence():
    entry = summary(LAYERS, 0.5) | of_heads(LAYERS)
    assert sentence(entry) == "entropy 0.62 over 4 heads, 2 previous-token"
    assert sentence(summary(LAYERS[2:], 0.5)) == "saliency: entropy 0.12, 4.0 tokens back"


def test_alarms_name_the_layer_the_head_and_the_way_out():
    assert not list(alarms(LAYERS, 0.01, 100.0))
    assert not list(alarms(LAYERS, None, None))
    (collapse,) = alarms(LAYERS, 0.6, None)
    assert collapse[0] == "entropy of layer 0"
    assert "the mean entropy of its heads is 0.5, below 0.6 (warn_entropy_below)" in collapse[1]
    (growth,) = alarms(LAYERS, None, 4.0)
    assert growth[0] == "logits of layer 0"
    assert "layer 0, head 1, has a logit of 5, above 4 (warn_logit_above)" in growth[1]
    assert len(list(alarms(LAYERS, 0.9, 1.0))) == 4


def test_a_head_without_a_number_does_not_hide_the_others():
    nan = float("nan")
    found = list(alarms([layer("layer 0", (2, 5), entropy=[0.0, nan], max_logit=[nan, 400.0])], 0.01, 100.0))
    assert [place for place, _ in found] == ["entropy of layer 0", "logits of layer 0"]
    assert "head 5, has a logit of 400" in found[1][1]
    assert not list(alarms([layer("layer 0", entropy=[nan, nan], max_logit=[nan, nan])], 0.01, 100.0))


@pytest.mark.parametrize("value", [0.01, 100.0])
def test_an_alarm_is_only_beyond_the_threshold(value):
    at = [layer("layer 0", (0,), entropy=[value], max_logit=[value])]
    assert not list(alarms(at, float(np.float32(value)), value))
