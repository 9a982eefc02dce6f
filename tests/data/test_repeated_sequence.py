"""RepeatedSequence: what is scored is determined by what was said before, and by nothing simpler."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.data import RepeatedSequence
from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX

SPLITS = ("train", "validation", "test")


@st.composite
def tasks(draw):
    min_period = draw(st.integers(1, 8))
    max_period = draw(st.integers(min_period, 12))
    symbols = draw(st.integers(max_period, 30))
    return RepeatedSequence(draw(st.integers(max_period + 2, 40)), min_period, max_period, symbols)


def whole(batch):
    """All tokens of each row: inputs and the last target, which is always scored."""
    return torch.cat([batch["inputs"], batch["targets"][:, -1:]], 1).tolist()


def period_of(row):
    """How many different symbols come before one comes again."""
    return next((i for i, token in enumerate(row) if token in row[:i]), len(row))


def induced(before):
    """What followed the last symbol when it was said before; None if it was not."""
    *past, last = before
    return before[past.index(last) + 1] if last in past else None


@given(tasks(), st.integers(0, 10**6), st.sampled_from(SPLITS))
@settings(max_examples=60, deadline=None)
def test_scored_is_what_an_induction_head_knows_and_it_knows_it(task, first, split):
    batch = task.batch(split, np.arange(first, first + 5))
    assert batch["inputs"].shape == batch["targets"].shape == (5, task.context_length)
    assert batch["inputs"].dtype == batch["targets"].dtype == torch.int64
    assert task.vocab_size == len(task.names) == len(set(task.names)) == task.symbols
    for row, targets in zip(whole(batch), batch["targets"].tolist(), strict=True):
        assert len(row) == task.length
        assert set(row) <= set(range(task.symbols))
        for place, target in enumerate(targets, 1):
            known = induced(row[:place])
            assert target == (IGNORE_INDEX if known is None else known)
            assert target in (IGNORE_INDEX, row[place])


@given(tasks(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_each_sample_has_a_period_within_the_bounds(task, first):
    for row in whole(task.batch("train", np.arange(first, first + 20))):
        period = period_of(row)
        assert task.min_period <= period <= task.max_period
        assert row[period:] == row[:-period]


def test_each_period_and_each_symbol_is_as_likely():
    task = RepeatedSequence(length=12, min_period=3, max_period=6, symbols=8)
    rows = whole(task.batch("train", np.arange(4000)))
    periods = np.bincount([period_of(row) for row in rows])
    assert periods[3:].tolist() == pytest.approx([1000] * 4, rel=0.15)
    for place in (0, 2):
        counts = np.bincount([row[place] for row in rows], minlength=8)
        assert counts.tolist() == pytest.approx([500] * 8, rel=0.2)


@given(tasks(), st.sampled_from(SPLITS))
@settings(max_examples=40, deadline=None)
def test_a_sample_depends_on_its_number_alone(task, split):
    numbers = np.array([3, 10**12, 0, 7])
    together = task.batch(split, numbers)
    for row, number in enumerate(numbers):
        alone = task.batch(split, np.array([number]))
        assert all(torch.equal(alone[key][0], together[key][row]) for key in together)


def test_splits_and_seeds_have_nothing_in_common():
    found = [
        set(map(tuple, whole(RepeatedSequence(seed=seed).batch(split, np.arange(300)))))
        for seed in (0, 1)
        for split in SPLITS
    ]
    assert all(len(each) == 300 for each in found)
    assert len(set.union(*found)) == 300 * len(found)


def test_names_go_there_and_back():
    task = RepeatedSequence()
    ids = task.batch("test", np.arange(1))["inputs"][0].tolist()
    assert task.tokenizer.encode(task.tokenizer.decode(ids, skip_special_tokens=False)).ids == ids


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"min_period": 0}, "min_period is 0; it must be at least 1"),
        ({"min_period": 9, "max_period": 8}, "max_period is 8; it must be at least 9"),
        ({"max_period": 40, "symbols": 39}, "symbols is 39; it must be at least 40"),
        ({"max_period": 32, "length": 33}, "length is 33; it must be at least 34"),
        ({"length": 64.0}, r"length is 64\.0 \(float\); it must be an int"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(sizes, said):
    with pytest.raises(InputError, match=said) as raised:
        RepeatedSequence(**sizes)
    assert "\n" not in str(raised.value)
