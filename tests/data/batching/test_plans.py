import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_seq.data.batching.batches import gather
from lightning_seq.data.batching.plans import BlockPlan, ContiguousPlan, Rows
from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX

PLANS = [ContiguousPlan, BlockPlan]
plans = st.sampled_from(PLANS)
sizes = {
    "tokens": st.integers(2, 600),
    "batch_size": st.integers(1, 5),
    "context_length": st.integers(1, 9),
    "world_size": st.integers(1, 3),
    "seed": st.integers(0, 2**32),
}


def make(plan, rank, sizes, **options):
    return plan(**sizes, rank=rank, **options)


def make_all(plan, sizes, **options):
    return [make(plan, rank, sizes, **options) for rank in range(sizes["world_size"])]


def trainable(sizes):
    return sizes["tokens"] - 1 >= sizes["batch_size"] * sizes["world_size"] * sizes["context_length"]


def windows(plan, epoch):
    """All starts and stops of one rank's epoch, (steps, batch)."""
    rows = plan.epoch(epoch)
    each = [rows(step) for step in range(len(plan))]
    return np.stack([x.starts for x in each]), np.stack([x.stops for x in each])


def scored(plan, epoch):
    """The positions of all targets of one rank's epoch."""
    starts, stops = windows(plan, epoch)
    ranges = zip(starts.ravel().tolist(), stops.ravel().tolist(), strict=True)
    return [position + 1 for start, stop in ranges for position in range(start, stop)]


def scored_by_all(ranks, epoch):
    return [position for plan in ranks for position in scored(plan, epoch)]


@given(plans, st.fixed_dictionaries(sizes), st.integers(0, 3))
def test_evaluation_scores_every_target_exactly_once_over_all_ranks(plan, sizes, epoch):
    ranks = make_all(plan, sizes)
    assert sorted(scored_by_all(ranks, epoch)) == list(range(1, sizes["tokens"]))
    assert len({len(each) for each in ranks}) == 1


@given(plans, st.fixed_dictionaries(sizes), st.integers(0, 3))
def test_evaluation_is_in_order_and_the_same_each_time(plan, sizes, epoch):
    for each in make_all(plan, sizes):
        starts, _ = windows(each, epoch)
        assert np.array_equal(starts, windows(each, 0)[0])
        assert (np.diff(starts, axis=0) >= 0).all()


@given(plans, st.fixed_dictionaries(sizes), st.integers(0, 3), st.booleans())
def test_training_batches_are_full_disjoint_and_equally_many(plan, sizes, epoch, shuffle):
    assume(trainable(sizes))
    ranks = make_all(plan, sizes, training=True, shuffle=shuffle)
    targets = scored_by_all(ranks, epoch)
    assert len(targets) == len(set(targets))
    assert min(targets) >= 1
    assert max(targets) < sizes["tokens"]
    assert len({len(each) for each in ranks}) == 1
    for each in ranks:
        starts, stops = windows(each, epoch)
        assert starts.shape == (len(each), sizes["batch_size"])
        assert (stops - starts == sizes["context_length"]).all()


@given(plans, st.fixed_dictionaries(sizes))
def test_training_leaves_out_less_than_one_batch_more_than_it_must(plan, sizes):
    assume(trainable(sizes))
    ranks = make_all(plan, sizes, training=True)
    rows = sizes["batch_size"] * sizes["world_size"]
    left_out = sizes["tokens"] - 1 - len(scored_by_all(ranks, 0))
    assert 0 <= left_out < (rows + 1) * sizes["context_length"]


@given(st.fixed_dictionaries(sizes), st.integers(0, 3), st.booleans())
def test_the_batches_of_a_lane_are_the_text_in_one_piece(sizes, epoch, training):
    assume(trainable(sizes))
    text = np.arange(sizes["tokens"])
    for plan in make_all(ContiguousPlan, sizes, training=training):
        rows = plan.epoch(epoch)
        batches = [gather(text, rows(step)) for step in range(len(plan))]
        for row in range(plan.batch_size):
            inputs = torch.cat([batch["inputs"][row] for batch in batches])
            targets = torch.cat([batch["targets"][row] for batch in batches])
            valid = targets != IGNORE_INDEX
            assert torch.equal(inputs[valid] + 1, targets[valid])
            assert (inputs[~valid] == 0).all()
            assert (inputs[valid].diff() == 1).all()


@given(plans, st.fixed_dictionaries(sizes), st.integers(0, 3))
def test_a_plan_depends_on_seed_and_epoch_alone(plan, sizes, epoch):
    assume(trainable(sizes))
    one, other = (make(plan, 0, sizes, training=True) for _ in range(2))
    windows(other, epoch + 1)
    assert all(map(np.array_equal, windows(one, epoch), windows(other, epoch)))


@pytest.mark.parametrize("plan", PLANS)
def test_epochs_and_seeds_differ_unless_nothing_is_shuffled(plan):
    def starts(epoch, seed=0, **options):
        options = {"training": True, **options}
        made = plan(tokens=1010, batch_size=4, context_length=16, seed=seed, **options)
        return windows(made, epoch)[0].tolist()

    assert starts(0) != starts(1)
    assert starts(0) != starts(0, seed=1)
    assert starts(0, shuffle=False) == starts(1, shuffle=False)
    assert starts(0, shuffle=False, seed=1) == starts(0, shuffle=False)
    assert starts(0, shuffle=False)[0][0] == 0


def test_blocks_are_shuffled_and_cut_at_other_places():
    plan = BlockPlan(tokens=1010, batch_size=4, context_length=16, training=True)
    assert {int(windows(plan, epoch)[0].min()) % 16 for epoch in range(200)} == set(range(16))
    starts = windows(plan, 0)[0].ravel()
    assert (np.diff(starts) < 0).any()
    assert len(set((starts % 16).tolist())) == 1


def test_every_target_is_trained_on_at_some_time():
    for plan in PLANS:
        made = plan(tokens=100, batch_size=3, context_length=8, training=True)
        assert set().union(*(scored(made, epoch) for epoch in range(300))) == set(range(1, 100))


@pytest.mark.parametrize("plan", PLANS)
def test_a_text_too_short_to_train_on_says_what_to_lower(plan):
    message = (
        r"has 1,000 tokens, too few for one batch of batch_size 32 x context_length 128, which takes 4,097; "
        r"lower batch_size to 7 or less or lower context_length to 31 or less"
    )
    with pytest.raises(InputError, match=message):
        plan(tokens=1000, batch_size=32, context_length=128, training=True)
    with pytest.raises(
        InputError, match=r"128 on 2 ranks, which takes 8,193; lower batch_size to 3 or less or"
    ):
        plan(tokens=1000, batch_size=32, context_length=128, world_size=2, training=True)
    with pytest.raises(InputError, match="; lower both, or give more text"):
        plan(tokens=10, batch_size=32, context_length=128, training=True)
    plan(tokens=1000, batch_size=7, context_length=128, training=True)
    plan(tokens=1000, batch_size=32, context_length=31, training=True)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("tokens", [0, 1])
def test_a_text_without_a_target_cannot_be_scored(plan, tokens):
    with pytest.raises(InputError, match=f"a text of {tokens} tokens has nothing to predict"):
        plan(tokens=tokens, batch_size=2, context_length=3)


@pytest.mark.parametrize("plan", [ContiguousPlan, BlockPlan])
def test_no_row_of_an_evaluation_is_wider_than_the_text_makes_it(plan):
    rows = plan(tokens=101, batch_size=2, context_length=10**9).epoch(0)(0)
    assert rows.width == (50 if plan is ContiguousPlan else 100)


def test_gather_shifts_and_pads():
    text = np.array([5, 6, 7, 8, 9], dtype=np.uint16)
    batch = gather(text, Rows(np.array([0, 3, 4]), np.array([3, 4, 4]), 3))
    assert batch["inputs"].tolist() == [[5, 6, 7], [8, 0, 0], [0, 0, 0]]
    assert batch["targets"].tolist() == [[6, 7, 8], [9, -100, -100], [-100, -100, -100]]
    assert batch["inputs"].dtype == batch["targets"].dtype == torch.int64


def starts(plan, epoch):
    """Which rows start from the initial state, (steps, batch)."""
    rows = plan.epoch(epoch)
    return np.stack([~rows(step).continues for step in range(len(plan))])


LONG = {"tokens": 64_001, "batch_size": 4, "context_length": 8, "world_size": 2, "seed": 3}


@pytest.mark.parametrize("probability", [0.02, 0.25])
def test_rows_of_a_training_start_anew_with_the_given_probability(probability):
    options = {"training": True, "reset_probability": probability}
    ranks = make_all(ContiguousPlan, LONG, **options)
    found = np.concatenate([starts(each, 0) for each in ranks], axis=1)
    assert found[0].all()
    draws = found[1:].size
    assert abs(found[1:].mean() - probability) < 4 * (probability * (1 - probability) / draws) ** 0.5
    assert len(np.unique(found, axis=1).T) == len(found.T)  # each row at its own steps
    assert not np.array_equal(starts(ranks[0], 0), starts(ranks[0], 1))
    again = [starts(each, 0) for each in make_all(ContiguousPlan, LONG, **options)]
    assert np.array_equal(found, np.concatenate(again, axis=1))
    one = ContiguousPlan(**{**LONG, "batch_size": 8, "world_size": 1}, **options)
    assert np.array_equal(found, starts(one, 0))  # however rows are divided among processes


def test_the_same_batches_in_every_epoch_start_at_the_same_rows():
    plan = make(ContiguousPlan, 0, LONG, training=True, shuffle=False, reset_probability=0.1)
    assert np.array_equal(starts(plan, 0), starts(plan, 5))


@pytest.mark.parametrize("options", [{"training": True}, {"training": False, "reset_probability": 0.5}])
def test_state_is_always_carried_without_a_probability_and_in_evaluation(options):
    assert not starts(make(ContiguousPlan, 1, LONG, **options), 0)[1:].any()
