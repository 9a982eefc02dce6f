"""The loss of a step is the mean over its tokens, however they are spread over batches and ranks."""

import os
from itertools import pairwise

import pytest
import torch
from torch.utils._pytree import tree_map

from lightning_seq.errors import InputError
from lightning_seq.models import GRULanguageModel, LSTMLanguageModel, TransformerLanguageModel
from lightning_seq.networks.base import finite_lanes
from tests.models.training import SMALL, VOCAB, Batches, build, lanes, ragged, rows_of, trainer, weights
from tests.ranks import run_ranks

STEPS = 3
SGD = {"optimizer": "sgd", "learning_rate": 0.5}  # AdamW would make much of a rounded gradient near 0


class WithExtraLoss(LSTMLanguageModel):
    """Punishes large embeddings: a loss of its own, the same for each token."""

    def extra_loss(self, batch):
        return 0.1 * self.network.embedding.weight.square().mean()


def train(parts, cls=LSTMLanguageModel, world=1, rank=0):
    """Trains on batches of eight rows, each in so many parts, this rank's share of them."""
    cuts = [8 * i // (parts * world) for i in range(parts * world + 1)]
    batches = []
    for step in range(STEPS):
        whole = ragged(8, seed=step)
        pieces = [rows_of(whole, *edge) for edge in pairwise(cuts)]
        batches += [pieces[part * world + rank] for part in range(parts)]
    family = LSTMLanguageModel if issubclass(cls, LSTMLanguageModel) else cls
    torch.manual_seed(0)
    model = cls(VOCAB, **SMALL[family], **SGD)
    run = trainer(
        max_steps=-1,
        max_epochs=1,
        accumulate_grad_batches=parts,
        gradient_clip_val=0.5,
        devices=world,
        strategy="ddp" if world > 1 else "auto",
    )
    run.fit(model, Batches(batches))
    assert run.global_step == STEPS
    return weights(model)


def train_on_a_rank(parts, cls):
    return train(parts, cls, 2, int(os.environ["RANK"]))


@pytest.mark.parametrize(
    "cls", [LSTMLanguageModel, GRULanguageModel, TransformerLanguageModel, WithExtraLoss]
)
def test_four_accumulated_batches_equal_one(cls):
    whole = train(1, cls)
    torch.testing.assert_close(train(4, cls), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(train(8, cls), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("cls", [LSTMLanguageModel, WithExtraLoss])
def test_two_ranks_equal_one(parts, cls):
    whole = train(1, cls)
    first, second = run_ranks(train_on_a_rank, parts, cls)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, atol=1e-6, rtol=0)


def test_a_mean_of_means_would_not():
    """That is: the batches of these tests are ragged enough to tell."""
    batch = ragged(8)
    model = build(LSTMLanguageModel).eval()
    nll = model.network(batch["inputs"], None, batch["targets"])[0]
    counts = (batch["targets"] >= 0).sum(1)
    means = (nll.sum(1) / counts).mean()
    assert abs(means - nll.sum() / counts.sum()) > 0.003


def test_half_a_window_at_the_end_is_divided_by_its_own_tokens():
    """Six batches in windows of four: Lightning alone would halve the last step."""
    batches = [rows_of(ragged(8, seed=i // 4), 2 * (i % 4), 2 * (i % 4) + 2) for i in range(6)]
    one, other = build(LSTMLanguageModel, **SGD), build(LSTMLanguageModel, **SGD)
    trainer(max_steps=-1, max_epochs=1, accumulate_grad_batches=4).fit(one, Batches(batches))
    whole = [ragged(8, seed=0), rows_of(ragged(8, seed=1), 0, 4)]
    trainer(max_steps=-1, max_epochs=1).fit(other, Batches(whole))
    torch.testing.assert_close(weights(one), weights(other), atol=1e-6, rtol=0)


def test_what_a_step_returns_and_logs_is_the_mean_loss():
    seen = []

    class Spy(LSTMLanguageModel):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen.append(outputs["loss"].item() * 2)  # Lightning divides by the number of batches
            super().on_train_batch_end(outputs, batch, batch_idx)

    torch.manual_seed(0)
    model = Spy(13, 8, 8, learning_rate=1e-12)
    run = trainer(max_steps=1, accumulate_grad_batches=2, log_every_n_steps=1)
    batches = [ragged(4, seed=0), ragged(4, time=3, seed=1)]
    run.fit(model, Batches(batches))
    model.eval()
    nll = [model.network(b["inputs"], None, b["targets"])[0] for b in batches]
    counts = [(b["targets"] >= 0).sum() for b in batches]
    assert seen == pytest.approx([(n.sum() / c).item() for n, c in zip(nll, counts, strict=True)], rel=1e-5)
    together = (nll[0].sum() + nll[1].sum()) / (counts[0] + counts[1])
    assert run.callback_metrics["train_loss"].item() == pytest.approx(together.item(), rel=1e-5)


def test_a_step_without_any_target_changes_nothing():
    batch = ragged(4)
    batch["targets"] = torch.full_like(batch["targets"], -100)
    model = build(LSTMLanguageModel, learning_rate=0.1, weight_decay=0.0)
    before = weights(model)
    trainer(max_steps=1, accumulate_grad_batches=2).fit(model, Batches([batch, batch]))
    assert torch.equal(weights(model), before)


class Forgetful(LSTMLanguageModel):
    def on_before_optimizer_step(self, optimizer):
        self.seen = True


class Mindful(LSTMLanguageModel):
    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.seen = True


def test_a_subclass_that_forgets_super_is_told_so():
    torch.manual_seed(0)
    message = (
        r"Forgetful overrides on_before_optimizer_step and does not call super\(\)\.on_before_optimizer_step"
    )
    with pytest.raises(InputError, match=message):
        train(2, Forgetful)
    train(1, Forgetful)  # where nothing is accumulated there is nothing to forget
    torch.testing.assert_close(train(2, Mindful), train(2))


def test_the_clipped_norm_is_that_of_the_mean():
    """Monitors and clipping see the gradient that the optimizer uses, not sums."""
    norms = []

    class Spy(LSTMLanguageModel):
        def configure_gradient_clipping(self, optimizer, *args, **kwargs):
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.parameters()]).item())
            super().configure_gradient_clipping(optimizer, *args, **kwargs)

    train(1, Spy)
    train(4, Spy)
    assert norms[:STEPS] == pytest.approx(norms[STEPS:], rel=1e-4)


def test_a_window_that_changes_its_length_half_way_is_refused():
    class Changes(LSTMLanguageModel):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            self.trainer.accumulate_grad_batches = 3

    torch.manual_seed(0)
    run = trainer(accumulate_grad_batches=2)
    message = "accumulate_grad_batches became 3 while 2 batches were accumulated: change it between"
    with pytest.raises(InputError, match=message):
        run.fit(Changes(VOCAB, 8, 8), Batches([ragged(4)] * 4))


def test_an_interrupt_in_a_forward_pass_counts_what_was_accumulated():
    class Stops(LSTMLanguageModel):
        def extra_loss(self, batch):
            if self.trainer.fit_loop.epoch_loop.batch_idx == 2:
                raise MemoryError
            return 0.0

    torch.manual_seed(0)
    model, batches = Stops(VOCAB, 8, 8), [ragged(4, seed=i) for i in range(4)]
    with pytest.raises(MemoryError):
        trainer(accumulate_grad_batches=4).fit(model, Batches(batches))
    assert model._carried.undone(model)
    counted = sum((b["targets"] >= 0).sum() for b in batches[:2])
    assert model._normalization.tokens_before == counted


WITHOUT_DECAY = {**SGD, "weight_decay": 0.0}


class Skipping(LSTMLanguageModel):
    """Skips the batches of these numbers, before or after the loss of its base is computed."""

    def log_dict(self, dictionary, **kwargs):
        self.logged.append(float(dictionary.get("train_loss", -1)))
        super().log_dict(dictionary, **kwargs)

    def training_step(self, batch, batch_idx):
        if batch_idx in self.skipped and not self.computes:
            return None
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx in self.skipped else loss


def skip(batches, skipped=(), computes=True, **settings):
    torch.manual_seed(0)
    model = Skipping(VOCAB, 8, 8, **WITHOUT_DECAY)
    model.skipped, model.computes, model.logged = skipped, computes, []
    run = trainer(max_steps=-1, max_epochs=1, log_every_n_steps=1, **settings)
    run.fit(model, Batches(batches))
    return model, run


NONE_RETURNED = pytest.mark.filterwarnings("ignore:.training_step. returned .None.")


@NONE_RETURNED
@pytest.mark.parametrize("computes", [True, False])
@pytest.mark.parametrize("skipped", [(0,), (1,), (3,), (0, 3), (1, 2)])
def test_a_skipped_batch_counts_neither_in_the_step_nor_in_the_log(skipped, computes):
    """Of four batches that make a step, the others weigh as if those that are skipped were not there."""
    batches = [ragged(2, time=3 + 2 * i, seed=i) for i in range(4)]
    model, run = skip(batches, skipped, computes, accumulate_grad_batches=4)
    plain = build(LSTMLanguageModel)
    rest = [batch for i, batch in enumerate(batches) if i not in skipped]
    nll = sum(plain.network(b["inputs"], None, b["targets"])[0] for b in rest)
    loss = nll / sum((b["targets"] >= 0).sum() for b in rest)
    loss.backward()
    expected = weights(plain) - 0.5 * torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(weights(model), expected, atol=1e-6, rtol=0)
    assert run.callback_metrics["train_loss"].item() == pytest.approx(loss.item(), rel=1e-5)


@NONE_RETURNED
@pytest.mark.parametrize("computes", [True, False])
def test_steps_of_skipped_batches_alone_change_nothing_and_log_no_loss(computes):
    batches = [ragged(2, seed=i) for i in range(4)]
    model, run = skip(batches, (0, 1, 2, 3), computes, accumulate_grad_batches=2)
    assert torch.equal(weights(model), weights(build(LSTMLanguageModel)))
    assert "train_loss" not in run.callback_metrics
    model, run = skip(batches, (1,), computes)
    apart, _ = skip([batches[0], *batches[2:]])
    assert torch.equal(weights(model), weights(apart))
    assert model.logged == [apart.logged[0], -1, *apart.logged[1:]]


@NONE_RETURNED
def test_a_training_goes_on_behind_a_skipped_batch_that_broke_the_state():
    """A loss that is not finite leaves such a state: rows that carry it begin anew, and the others go on."""

    class Careful(LSTMLanguageModel):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                state = self._carried._states["train"]
                broken = tree_map(lambda x: x.clone().index_fill_(0, row, torch.nan), state)
                self._carried._states["train"] = broken
            loss = super().training_step(batch, batch_idx)
            self.states.append(finite_lanes(self._carried._states["train"], 4, loss.device).tolist())
            return loss if loss.isfinite() else None

    row, batches = torch.tensor([2]), lanes(steps=4)
    torch.manual_seed(0)
    model = Careful(VOCAB, 8, 8)
    model.states = []
    run = trainer(max_steps=-1, max_epochs=1, log_every_n_steps=1)
    run.fit(model, batches)
    assert model.states == [[True] * 4, [True, True, False, True], [True] * 4, [True] * 4]
    assert weights(model).isfinite().all()
    assert run.callback_metrics["train_loss"].isfinite()
