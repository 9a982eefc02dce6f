"""Sums over tokens: the same whatever the batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.metrics import TextLoss
from lightning_seq.networks.base import IGNORE_INDEX


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_ragged_batches_give_the_corpus_mean(valid, seed):
    generator = torch.Generator().manual_seed(seed)
    metric, total, count = TextLoss(), 0.0, 0
    for n in [*valid, 3]:
        nll = torch.rand(1, 9, generator=generator)
        targets = torch.zeros(1, 9, dtype=torch.long)
        nll[:, n:], targets[:, n:] = 0, IGNORE_INDEX
        metric.update(nll, targets)
        total, count = total + nll.double().sum().item(), count + n
    result = metric.compute()
    assert result["loss"].item() == pytest.approx(total / count, rel=1e-6)
    assert result["perplexity"].item() == pytest.approx(math.exp(total / count), rel=1e-6)
    assert "bits_per_character" not in result


def test_bits_per_character_count_characters_not_tokens():
    metric = TextLoss(torch.tensor([1, 0, 2]))
    metric.update(torch.full((1, 4), math.log(2)), torch.tensor([[0, 1, 2, IGNORE_INDEX]]))
    assert metric.compute()["bits_per_character"].item() == pytest.approx(4 / 3)


def test_sums_stay_exact_over_many_batches():
    metric, nll = TextLoss(), torch.full((1, 100), 0.1)
    for _ in range(2000):
        metric.update(nll, torch.zeros(1, 100, dtype=torch.long))
    assert metric.compute()["loss"].item() == pytest.approx(0.1, rel=1e-6)


def test_nothing_scored_is_not_a_number_and_no_crash():
    metric = TextLoss()
    metric.update(torch.zeros(1, 2), torch.full((1, 2), IGNORE_INDEX))
    assert math.isnan(metric.compute()["loss"])
