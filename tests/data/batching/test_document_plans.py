"""Plans that keep documents apart: coverage, disjointness, contiguity, equal lengths."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_seq.data.batching.batches import gather, separate
from lightning_seq.data.batching.document_plans import DocumentLanePlan, DocumentPlan
from lightning_seq.data.batching.plans import Rows
from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX

lengths = st.lists(st.integers(0, 30), min_size=1, max_size=40)
layout = {
    "batch_size": st.integers(1, 4),
    "context_length": st.integers(1, 9),
    "world_size": st.integers(1, 3),
    "seed": st.integers(0, 2**32),
}
layouts = st.fixed_dictionaries(layout)
plans = st.sampled_from([DocumentLanePlan, DocumentPlan])


def make_all(plan, lengths, layout, **options):
    """The plans of all ranks; those that are refused as too short are not this test's matter."""
    bounds = np.cumsum([0, *lengths])
    try:
        return [
            plan(tokens=int(bounds[-1]), documents=bounds, rank=rank, **layout, **options)
            for rank in range(layout["world_size"])
        ]
    except InputError as error:
        assume("too few" not in str(error) and "nothing to predict" not in str(error))
        raise


def batches(plan, epoch=0):
    rows = plan.epoch(epoch)
    return [rows(step) for step in range(len(plan))]


def scored(plans, epoch=0):
    return [
        position + 1
        for plan in plans
        for rows in batches(plan, epoch)
        for start, stop in zip(rows.starts.tolist(), rows.stops.tolist(), strict=True)
        for position in range(start, stop)
    ]


def all_targets(lengths):
    """Every token but the first of its document."""
    starts = np.cumsum([0, *lengths])
    return [at for i, length in enumerate(lengths) for at in range(starts[i] + 1, starts[i] + length)]


@given(plans, lengths, layouts)
def test_evaluation_scores_every_target_of_every_document_exactly_once(plan, lengths, layout):
    assert sorted(scored(make_all(plan, lengths, layout))) == all_targets(lengths)


@given(lengths, layouts, st.integers(9, 40), st.booleans())
def test_a_token_budget_is_kept_and_loses_nothing_in_evaluation(lengths, layout, budget, training):
    ranks = make_all(DocumentPlan, lengths, layout, tokens_per_batch=budget, training=training)
    if not training:
        assert sorted(scored(ranks)) == all_targets(lengths)
    for plan in ranks:
        assert all(len(rows.starts) * rows.width <= budget for rows in batches(plan))


@given(plans, lengths, layouts, st.integers(0, 3))
def test_training_is_disjoint_and_equal_in_shape_on_every_rank(plan, lengths, layout, epoch):
    ranks = make_all(plan, lengths, layout, training=True)
    targets = scored(ranks, epoch)
    assert len(targets) == len(set(targets))
    assert set(targets) <= set(all_targets(lengths))
    shapes = {tuple((len(rows.starts), rows.width) for rows in batches(each, epoch)) for each in ranks}
    assert len(shapes) == 1
    assert len({len(batches(each, other)) for each in ranks for other in range(3)}) == 1


@given(plans, lengths, layouts, st.integers(0, 3))
def test_training_rows_are_all_there(plan, lengths, layout, epoch):
    for each in make_all(plan, lengths, layout, training=True):
        assert all((rows.stops > rows.starts).all() for rows in batches(each, epoch))


@given(lengths, layouts, st.integers(0, 3), st.booleans())
def test_state_goes_on_exactly_where_the_document_does(lengths, layout, epoch, training):
    bounds = np.cumsum([0, *lengths])
    for plan in make_all(DocumentLanePlan, lengths, layout, training=training):
        before = None
        for rows in batches(plan, epoch):
            inside = rows.stops > rows.starts
            goes_on = np.zeros(len(inside), dtype=bool)
            if before is not None:
                goes_on = (rows.starts == before.stops) & ~np.isin(rows.starts, bounds) & inside
            assert rows.continues.tolist() == goes_on.tolist()
            before = rows


@given(lengths, layouts)
def test_no_row_holds_two_documents(lengths, layout):
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    for plan in (DocumentLanePlan, DocumentPlan):
        for each in make_all(plan, lengths, layout):
            for rows in batches(each):
                for start, stop in zip(rows.starts, rows.stops, strict=True):
                    assert len(set(document_of[start : stop + 1])) <= 1


def test_epochs_and_seeds_differ_and_every_row_has_its_turn():
    bounds = np.cumsum([0, *range(2, 42)])
    for plan in (DocumentLanePlan, DocumentPlan):

        def starts(epoch, plan=plan, **options):
            options = {"training": True, **options}
            made = plan(int(bounds[-1]), 3, 8, documents=bounds, **options)
            return [rows.starts.tolist() for rows in batches(made, epoch)]

        assert starts(0) == starts(0)
        assert starts(0) != starts(1)
        assert starts(0) != starts(0, seed=1)
        assert starts(0, shuffle=False) == starts(1, shuffle=False)
        seen = {start for epoch in range(100) for step in starts(epoch) for start in step}
        assert seen >= set(bounds[:-1].tolist())


def test_rows_of_similar_length_share_a_batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 200, 4000)
    bounds = np.cumsum([0, *lengths])
    plan = DocumentPlan(int(bounds[-1]), 16, 256, documents=bounds, training=True)
    area = sum(len(rows.starts) * rows.width for rows in batches(plan))
    text = sum(int((rows.stops - rows.starts).sum()) for rows in batches(plan))
    assert text / area > 0.9
    assert len({rows.width for rows in batches(plan)}) <= 16
    assert text / (lengths - 1).sum() > 0.95


def test_a_document_above_the_budget_is_named():
    bounds = np.array([0, 10, 60, 70])
    with pytest.raises(InputError, match=r"document 1 makes a row of 49 tokens, more than tokens_per_batch"):
        DocumentPlan(70, 1, 64, documents=bounds, tokens_per_batch=32)
    plan = DocumentPlan(70, 1, 32, documents=bounds, tokens_per_batch=32)
    assert max(rows.width for rows in batches(plan)) == 32


@pytest.mark.parametrize("training", [True, False])
def test_documents_without_a_target_are_refused(training):
    for plan in (DocumentPlan, DocumentLanePlan):
        with pytest.raises(InputError, match=r"nothing to predict|too few"):
            plan(3, 1, 4, documents=np.array([0, 1, 2, 3]), training=training)


def test_too_few_documents_say_what_to_lower():
    bounds = np.arange(0, 60, 5)
    with pytest.raises(InputError, match="makes 11 rows, too few for one batch of batch_size 12; lower it"):
        DocumentPlan(55, 12, 8, documents=bounds, training=True)


@given(lengths, st.integers(1, 12), st.data())
def test_documents_in_a_block_are_told_apart(lengths, width, data):
    text = sum(lengths)
    assume(text > 1)
    bounds = np.cumsum([0, *lengths])
    starts = np.array(data.draw(st.lists(st.integers(0, text - 1), min_size=1, max_size=4)))
    rows = Rows(starts, np.minimum(starts + width, text - 1), width)
    batch = gather(np.arange(text), rows)
    plain = {name: each.clone() for name, each in batch.items()}
    separate(batch, rows, bounds)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    for row in range(len(starts)):
        there = plain["targets"][row] != IGNORE_INDEX
        own = torch.from_numpy(document_of[plain["inputs"][row][there].numpy()])
        following = torch.from_numpy(document_of[plain["targets"][row][there].numpy()])
        ids = batch["document_ids"][row][there]
        assert torch.equal(ids[1:] != ids[:-1], own[1:] != own[:-1])
        assert (ids.diff() >= 0).all()
        scored = batch["targets"][row][there] != IGNORE_INDEX
        assert torch.equal(scored, own == following)
