"""Memory tasks: sequences by number, tasks that are solvable, and accuracy over what is scored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_seq.data import AddingProblem, AssociativeRecall, CopyTask, DyckBrackets, MemoryTask
from lightning_seq.data.batching.draws import Draws
from lightning_seq.data.memory_tasks import letters
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.models import LanguageModel, LSTMLanguageModel, TransformerLanguageModel
from lightning_seq.networks.base import IGNORE_INDEX

SMALL = {"batch_size": 4, "train_batches": 7, "evaluation_samples": 10}
SPLITS = ("train", "validation", "test")

TASKS = st.one_of(
    st.builds(CopyTask, length=st.integers(1, 6), delay=st.integers(0, 9), symbols=st.integers(1, 30)),
    st.builds(AddingProblem, length=st.integers(2, 30)),
    st.integers(1, 6).flatmap(
        lambda pairs: st.builds(
            AssociativeRecall,
            pairs=st.just(pairs),
            queries=st.integers(1, pairs),
            keys=st.integers(pairs, 30),
            values=st.integers(1, 20),
        )
    ),
    st.builds(
        DyckBrackets,
        kinds=st.integers(1, 6),
        depth=st.integers(1, 40),
        length=st.integers(1, 20).map(lambda half: 2 * half),
    ),
)


def words(task, batch):
    """Each row as its names, all of its tokens, and what is scored by its place."""
    names = np.array(task.names)
    for inputs, targets in zip(batch["inputs"].numpy(), batch["targets"].numpy(), strict=True):
        scored = {i + 1: names[target] for i, target in enumerate(targets) if target != IGNORE_INDEX}
        yield [*names[inputs], names[targets[-1]]], scored


def solve_copy(task, before):
    symbols = before[: task.length]
    return symbols[len(before) - before.index("recall") - 1]


def solve_adding(task, before):
    total = sum(int(word[0]) for word in before if word.endswith("*"))
    return str(total // 10 if before[-1] == "=" else total % 10)


def solve_recall(task, before):
    known = before[: before.index("recall")]
    return known[known.index(before[-1]) + 1]


def solve_brackets(task, before):
    half, stack = len(task.names) // 2, []
    for word in before:
        at = task.names.index(word)
        if at < half:
            stack.append(at)
        else:
            assert stack.pop() == at - half
    return task.names[half + stack[-1]]


SOLVERS = {
    CopyTask: solve_copy,
    AddingProblem: solve_adding,
    AssociativeRecall: solve_recall,
    DyckBrackets: solve_brackets,
}


@given(TASKS, st.integers(0, 10**6), st.sampled_from(SPLITS))
@settings(max_examples=60, deadline=None)
def test_whoever_remembers_the_beginning_finds_all_that_is_scored(task, first, split):
    batch = task.batch(split, np.arange(first, first + 5))
    assert batch["inputs"].shape == batch["targets"].shape == (5, task.context_length)
    assert batch["inputs"].dtype == batch["targets"].dtype == torch.int64
    assert task.vocab_size == len(task.names) == len(set(task.names))
    assert int(batch["inputs"].max()) < task.vocab_size
    scored = batch["targets"][:, :-1] != IGNORE_INDEX
    assert torch.equal(batch["targets"][:, :-1][scored], batch["inputs"][:, 1:][scored])  # shifted by one
    for sequence, answers in words(task, batch):
        assert answers
        for place, answer in answers.items():
            assert SOLVERS[type(task)](task, sequence[:place]) == answer


@given(TASKS, st.sampled_from(SPLITS))
@settings(max_examples=40, deadline=None)
def test_a_sample_depends_on_its_number_alone(task, split):
    numbers = np.array([3, 10**12, 0, 7])
    together = task.batch(split, numbers)
    for row, number in enumerate(numbers):
        alone = task.batch(split, np.array([number]))
        assert all(torch.equal(alone[key][0], together[key][row]) for key in together)


def test_the_shapes_of_the_sequences():
    def first(task):
        return next(words(task, task.batch("train", np.arange(1))))

    sequence, scored = first(CopyTask(length=3, delay=4, symbols=5))
    assert sequence[3:8] == [*"....", "recall"]
    assert sorted(scored) == [8, 9, 10]
    sequence, scored = first(AddingProblem(length=6))
    assert [any(word.endswith("*") for word in half) for half in (sequence[:3], sequence[3:6])] == [True] * 2
    assert sum(word.endswith("*") for word in sequence) == 2
    assert (sequence[6], sorted(scored)) == ("=", [7, 8])
    sequence, scored = first(AssociativeRecall(pairs=3, queries=2, keys=4, values=5))
    assert (sequence[6], sorted(scored)) == ("recall", [8, 10])
    assert len({*sequence[0:6:2]}) == 3
    assert len({*sequence[7::2]}) == 2


@pytest.mark.parametrize(("kinds", "depth", "length"), [(1, 1, 2), (4, 8, 64), (2, 3, 30), (6, 99, 8)])
def test_brackets_are_balanced_as_deep_as_told_and_all_closings_are_scored(kinds, depth, length):
    task = DyckBrackets(kinds=kinds, depth=depth, length=length)
    deepest = 0
    for sequence, scored in words(task, task.batch("train", np.arange(300))):
        opens = [task.names.index(word) < kinds for word in sequence]
        levels = np.cumsum(np.where(opens, 1, -1))
        assert levels.min() == levels[-1] == 0
        deepest = max(deepest, levels.max())
        assert [i for i, is_open in enumerate(opens) if not is_open] == sorted(scored)
    assert deepest == min(depth, length // 2)


@given(
    TASKS,
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 30),
)
@settings(max_examples=40, deadline=None)
def test_ranks_share_the_batches_of_one_process(task, world_size, batch_size, epochs, evaluation_samples):
    task.batch_size, task.train_batches, task.evaluation_samples = batch_size, 3, evaluation_samples
    ranks = [OnRank(task, rank, world_size) for rank in range(world_size)]
    rows = batch_size * world_size
    loaders = [rank.batches("train", training=True) for rank in ranks]
    assert {len(loader) for loader in loaders} == {3}
    for epoch in range(epochs):
        for step in range(3):
            found = torch.cat([loader.epoch(epoch)(step)["inputs"] for loader in loaders])
            numbers = np.arange(rows) + (epoch * 3 + step) * rows  # never one that was there before
            assert torch.equal(found, task.batch("train", numbers)["inputs"])

    loaders = [rank.batches("validation", training=False) for rank in ranks]
    assert len({len(loader) for loader in loaders}) == 1
    steps = range(len(loaders[0]))
    targets = torch.cat([loader.epoch(0)(step)["targets"] for step in steps for loader in loaders])
    expected = task.batch("validation", np.arange(evaluation_samples))["targets"]
    assert torch.equal(targets[:evaluation_samples], expected)  # every sample, once, and then padding
    assert (targets[evaluation_samples:] == IGNORE_INDEX).all()
    assert len(targets) - evaluation_samples < rows


class OnRank:
    """A task as one of several processes sees it."""

    def __init__(self, task, rank, world_size):
        self.task, self.rank, self.world_size = task, rank, world_size

    def __getattr__(self, name):
        return getattr(self.task, name)

    def batches(self, split, training):
        return MemoryTask.batches(self, split, training)


def test_splits_and_seeds_have_nothing_in_common():
    def rows(seed, split):
        task = CopyTask(length=20, delay=0, symbols=26, seed=seed)
        return set(map(bytes, task.batch(split, np.arange(500))["inputs"].numpy()))

    found = [rows(seed, split) for seed in (0, 1, 2**64 - 1) for split in SPLITS]
    assert all(len(each) == 500 for each in found)
    assert len(set.union(*found)) == 500 * len(found)


# -- randomness ---------------------------------------------------------------------------------------


def chi_squared(counts):
    """How many standard deviations the counts lie from what equal chances would give."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5


def test_every_number_is_as_likely_and_tells_nothing_of_its_neighbours():
    draws = Draws(0, 0, np.arange(2000)).below(10, 50)
    one_higher = Draws(1, 0, np.arange(2000)).below(10, 50)
    other_stream = Draws(0, 1, np.arange(2000)).below(10, 50)
    assert abs(chi_squared(np.bincount(draws.ravel()))) < 5
    for one, other in (
        (draws[:, 1:], draws[:, :-1]),  # the draw before
        (draws[1:], draws[:-1]),  # the sample before
        (draws[:, 2:], draws[:, :-2]),
        (draws, one_higher),
        (draws, other_stream),
    ):
        assert abs(chi_squared(np.bincount((10 * one + other).ravel(), minlength=100))) < 5


def test_every_bit_is_as_often_set_as_not():
    bits = Draws(3, 2, np.arange(1000)).bits(40)
    shares = [(bits >> np.uint64(i) & np.uint64(1)).mean() for i in range(64)]
    assert np.allclose(shares, 0.5, atol=5 * 0.5 / 200)  # of 40,000 each


def test_every_order_is_as_likely():
    orders = Draws(0, 0, np.arange(24_000)).permutations(4)
    assert (np.sort(orders, 1) == np.arange(4)).all()
    counts = np.unique(orders @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert abs(chi_squared(counts)) < 5


def test_what_was_drawn_before_is_not_drawn_again():
    draws = Draws(5, 1, np.arange(3))
    parts = np.concatenate([draws.bits(4), draws.bits(1), draws.bits(5)], 1)
    assert np.array_equal(parts, Draws(5, 1, np.arange(3)).bits(10))
    assert len(np.unique(parts)) == parts.size


def test_the_marks_lie_anywhere_in_their_halves():
    task = AddingProblem(length=7)
    marked = task.batch("train", np.arange(7000))["inputs"][:, :7].ge(10).sum(0).tolist()
    assert marked[:3] == pytest.approx([7000 / 3] * 3, rel=0.1)
    assert marked[3:] == pytest.approx([7000 / 4] * 4, rel=0.1)


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [CopyTask(), AddingProblem(), AssociativeRecall(), DyckBrackets(kinds=7)])
def test_names_go_there_and_back(task):
    ids = task.batch("test", np.arange(1))["inputs"][0].tolist()
    text = task.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == " ".join(np.array(task.names)[ids])
    assert task.tokenizer.encode(text).ids == ids


def test_letters_go_on_after_z():
    assert letters(29) == [*"abcdefghijklmnopqrstuvwxyz", "aa", "ab", "ac"]
    assert len(set(letters(1000))) == 1000


def test_a_checkpoints_tokens_must_be_the_same():
    task = CopyTask(symbols=8)
    task.adopt_tokenizer(CopyTask(symbols=8, delay=99).tokenizer.to_str())
    with pytest.raises(InputError, match=r"other ids \(11: a b c \.\.\. recall\) than .* CopyTask \(10: a b"):
        task.adopt_tokenizer(CopyTask(symbols=9).tokenizer.to_str())


# -- arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CopyTask(length=0), "length is 0; it must be at least 1"),
        (lambda: CopyTask(delay=-1), "delay is -1; it must be at least 0"),
        (lambda: CopyTask(symbols=0), "symbols is 0"),
        (lambda: AddingProblem(length=1), "length is 1; it must be at least 2"),
        (lambda: AssociativeRecall(pairs=4, queries=5), "queries is 5 and pairs is 4: no key comes twice"),
        (lambda: AssociativeRecall(pairs=9, keys=8), "pairs is 9 and keys is 8: no key comes twice"),
        (lambda: AssociativeRecall(values=0), "values is 0"),
        (lambda: DyckBrackets(kinds=0), "kinds is 0"),
        (lambda: DyckBrackets(depth=0), "depth is 0"),
        (lambda: DyckBrackets(length=0), "length is 0"),
        (lambda: DyckBrackets(length=7), "length is 7, and every bracket is closed: .* 8"),
        (lambda: AssociativeRecall(keys="8"), r"keys is '8' \(str\); it must be an int, at least 1"),
        (lambda: CopyTask(delay=4.0), r"delay is 4\.0 \(float\); it must be an int, at least 0"),
        (lambda: CopyTask(batch_size=True), r"batch_size is True \(bool\)"),
        (lambda: CopyTask(batch_size=0), "batch_size is 0"),
        (lambda: CopyTask(train_batches=0), "train_batches is 0"),
        (lambda: CopyTask(evaluation_samples=0), "evaluation_samples is 0"),
        (lambda: CopyTask(seed=-1), "seed is -1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(make, said):
    with pytest.raises(InputError, match=said) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_transformer_that_is_too_short_is_refused(quiet_trainer):
    model = TransformerLanguageModel(10, 16, 1, 2, context_length=59)
    with pytest.raises(InputError, match=r"data\.context_length is 60 and the model's context_length is 59"):
        quiet_trainer(max_steps=1).fit(model, CopyTask())


# -- training -----------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Trains on next to nothing and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["inputs"].tolist(), batch["targets"].tolist()))
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("stop", [3, 7, 12])
def test_a_resumed_run_goes_on_with_the_next_sample(quiet_trainer, tmp_path, stop):
    def run(ckpt_path=None, **options):
        model, data = Recorder(), DyckBrackets(length=10, **SMALL)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=stop, save_top_k=-1)
        trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[saver], **options)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model.seen, data.consumed_hash

    whole, consumed = run()
    assert len(whole) == 21
    assert len({str(batch) for batch in whole}) == 21  # no epoch repeats another
    assert run(max_steps=stop)[0] == whole[:stop]
    rest, again = run(tmp_path / f"step={stop}.ckpt")
    assert rest == whole[stop:]
    assert consumed == again


def test_overfitting_repeats_its_batches(quiet_trainer):
    model = Recorder()
    quiet_trainer(max_epochs=2, overfit_batches=3).fit(model, CopyTask(**SMALL))
    assert len(model.seen) == 6
    assert model.seen[:3] == model.seen[3:]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: CopyTask(delay=2, **SMALL), "delay was 40 and is 2"),
        (lambda: CopyTask(**{**SMALL, "train_batches": 8}), "train_batches was 7 and is 8"),
        (lambda: CopyTask(seed=1, **SMALL), "seed was 0 and is 1"),
    ],
)
def test_another_task_is_no_resume(quiet_trainer, tmp_path, other, said):
    trainer = quiet_trainer(max_steps=3)
    trainer.fit(Recorder(), CopyTask(**SMALL))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=f"cannot go on exactly: .*{said}"):
        quiet_trainer(max_steps=5).fit(Recorder(), other(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    more = CopyTask(**{**SMALL, "evaluation_samples": 99})  # asks for no other training
    quiet_trainer(max_steps=5).fit(Recorder(), more, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_one_may_go_on_with_another_task_on_request(quiet_trainer, tmp_path):
    trainer = quiet_trainer(max_steps=3)
    trainer.fit(Recorder(), CopyTask(**SMALL))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model, data = Recorder(), CopyTask(delay=2, strict_resume=False, **SMALL)
    quiet_trainer(max_steps=5).fit(model, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert len(model.seen) == 2


def test_a_task_of_ones_own_is_two_members(quiet_trainer):
    class Repeat(MemoryTask):
        names = ("a", "b", "c")

        def sequences(self, draws):
            return np.tile(draws.below(3, count=5), 2), np.arange(10) >= 5

    task = Repeat(**SMALL)
    assert (task.vocab_size, task.context_length) == (3, 9)
    model = Recorder()
    quiet_trainer(max_steps=2).fit(model, task)
    assert model.seen[0][1][0][:4] == [IGNORE_INDEX] * 4
    assert task.tokenizer.to_str() == names_tokenizer("abc").to_str()


# -- accuracy -----------------------------------------------------------------------------------------


def plain_accuracy(model, task, split):
    """Sample by sample, token by token."""
    right = scored = 0
    model.eval()
    with torch.no_grad():
        for i in range(task.evaluation_samples):
            sample = task.batch(split, np.array([i]))
            logits = model(sample["inputs"])[0]
            for place, target in enumerate(sample["targets"][0].tolist()):
                if target != IGNORE_INDEX:
                    scored += 1
                    right += max(range(len(logits[place])), key=logits[place].tolist().__getitem__) == target
    return right / scored


@pytest.mark.parametrize(
    "model",
    [lambda n: LSTMLanguageModel(n, 8, 8), lambda n: TransformerLanguageModel(n, 16, 1, 2)],
    ids=["LSTM", "Transformer"],
)
def test_accuracy_and_loss_are_those_of_a_plain_loop(model, quiet_trainer):
    seed_everything(0)
    task = DyckBrackets(length=12, depth=3, **SMALL)  # 10 samples in batches of 4: the last one is padded
    model = model(task.vocab_size)
    found = quiet_trainer().validate(model, task, verbose=False)[0]
    assert found["val_accuracy"] == pytest.approx(plain_accuracy(model, task, "validation"))
    found = quiet_trainer().test(model, task, verbose=False)[0]
    assert found["test_accuracy"] == pytest.approx(plain_accuracy(model, task, "test"))
    whole = task.batch("test", np.arange(10))
    nll, _ = model.network(whole["inputs"], None, whole["targets"])
    assert found["test_loss"] == pytest.approx((nll.sum() / (whole["targets"] >= 0).sum()).item(), rel=1e-5)


def test_nobody_else_pays_for_accuracy(quiet_trainer):
    class Quiet(CopyTask):
        scores_accuracy = False

    found = quiet_trainer().validate(LSTMLanguageModel(10, 8, 8), Quiet(**SMALL), verbose=False)[0]
    assert set(found) == {"val_loss", "val_perplexity"}


class Memory(nn.Module):
    """Writes what came ``back`` tokens before: a solution of one copy task, that learns nothing."""

    def __init__(self, vocab_size, back):
        super().__init__()
        self.back, self.weight = back, nn.Parameter(torch.eye(vocab_size))

    def forward(self, tokens, state=None, targets=None):
        return 9 * self.weight[tokens.roll(self.back - 1, 1)], None


def test_a_perfect_memory_has_accuracy_one(quiet_trainer):
    task = CopyTask(length=5, delay=3, **SMALL)
    for back, right in ((9, True), (8, False)):
        model = LanguageModel(Memory(task.vocab_size, back))
        accuracy = quiet_trainer().validate(model, task, verbose=False)[0]["val_accuracy"]
        assert (accuracy == 1) is right


def test_a_transformer_learns_to_copy(quiet_trainer):
    seed_everything(0)
    task = CopyTask(length=3, delay=2, symbols=4, batch_size=32, evaluation_samples=64)
    model = TransformerLanguageModel(task.vocab_size, 32, 2, 2, context_length=8, learning_rate=1e-2)
    trainer: Trainer = quiet_trainer(max_steps=150, limit_val_batches=0, gradient_clip_val=1.0)
    trainer.fit(model, task)
    assert quiet_trainer().validate(model, task, verbose=False)[0]["val_accuracy"] > 0.95
    prompt = "c a b . . recall"
    assert model.generate(prompt, max_new_tokens=3, temperature=0) == f"{prompt} c a b"
