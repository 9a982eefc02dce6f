"""Networks of users' own: what they return is checked against the targets before anything is trained."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation import Blocks, score
from lightning_seq.generation import generate
from lightning_seq.models import LanguageModel
from tests.models.training import VOCAB, Batches, lanes, trainer

ROWS, TIME = 16, 8


class Net(nn.Module):
    """Embeds and predicts; ``make`` turns logits, targets and the mode into what is returned."""

    def __init__(self, make, vocab_size=VOCAB):
        super().__init__()
        self.embedding, self.out, self.make = nn.Embedding(VOCAB, 4), nn.Linear(4, vocab_size), make

    def forward(self, tokens, state=None, targets=None):
        return self.make(self, self.out(self.embedding(tokens)), targets)


def losses(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def mean_loss(net, logits, targets):
    return (logits if targets is None else losses(logits, targets).mean()), None


def mean_loss_in_training(net, logits, targets):
    if targets is None:
        return logits, None
    found = losses(logits, targets)
    return (found.mean() if net.training else found), None


WRONG = {
    "class logits": (lambda net, x, y: (x.mean(1), None), "(16, 13) for 16 sequences of 8 tokens"),
    "classes in place of time": (
        lambda net, x, y: (x.mean(1)[:, :TIME] - 1, None),
        "(16, 8) with values below 0",
    ),
    "a loss a row": (lambda net, x, y: (x.mean((1, 2)), None), "(16,)"),
    "the last token's": (lambda net, x, y: (x[:, -1:], None), "(16, 1, 13)"),
    "one token less": (lambda net, x, y: (x[:, 1:], None), "(16, 7, 13)"),
    "rows of tokens in one": (lambda net, x, y: (x.flatten(0, 1), None), "(128, 13)"),
    "time first": (lambda net, x, y: (x.transpose(0, 1), None), "(8, 16, 13)"),
    "vocabulary in the middle": (lambda net, x, y: (x.transpose(1, 2), None), "(16, 13, 8)"),
    "too few tokens": (
        lambda net, x, y: (x[:, :, :5], None),
        "logits (16, 8, 5), of 5 tokens, and a target is 12",
    ),
    "ids": (lambda net, x, y: (x.argmax(-1), None), "(16, 8) of torch.int64"),
    "nothing": (lambda net, x, y: (None, None), "a NoneType"),
    "a dict": (lambda net, x, y: ({"logits": x}, None), "a dict"),
    "no state": (lambda net, x, y: x, "(16, 8, 13)"),
    "three things": (lambda net, x, y: (x, None, y), "a tuple of 3"),
}


def model_of(make, **options):
    torch.manual_seed(0)
    return LanguageModel(Net(make, **options))


def batches(steps=1, time=TIME):
    found = lanes(steps, ROWS, time, continues=False)
    found.batches[0]["targets"][0, 0] = VOCAB - 1
    return found


@pytest.mark.parametrize("act", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", WRONG)
def test_an_output_that_cannot_be_scored_is_refused_before_a_step(kind, act):
    make, message = WRONG[kind]
    model = model_of(make)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(InputError, match=f"^Net returned {re.escape(message)}.*: (return|build)[^\n]*$"):
        getattr(trainer(max_steps=1), act)(model, batches())
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))


def test_two_logits_that_would_unpack_are_no_output_and_state():
    """A tensor of two rows is two things to Python."""
    batch = {name: x[:2] for name, x in batches().batches[0].items()}
    with pytest.raises(InputError, match=r"Net returned \(2, 8, 13\): return \(output, state\)"):
        trainer(max_steps=1).fit(model_of(lambda net, x, y: x), Batches([batch]))


@pytest.mark.parametrize("act", ["validate", "test", "predict"])
def test_a_mean_loss_is_refused_in_evaluation(act):
    message = "Net returned () for 16 sequences of 8 tokens and their targets, in evaluation: return logits"
    with pytest.raises(InputError, match=re.escape(message)):
        getattr(trainer(), act)(model_of(mean_loss), batches())


@pytest.mark.parametrize("make", [mean_loss, mean_loss_in_training])
def test_a_mean_loss_is_refused_in_training_where_no_validation_would_find_it(make):
    with pytest.raises(
        InputError, match=r"Net returned a training loss of 2\.\d+ for 128 targets, of a mean"
    ):
        trainer(max_steps=1).fit(model_of(make), batches())


RIGHT = {
    "logits": lambda net, x, y: (x, None),
    "more logits than ids": lambda net, x, y: (F.pad(x, (0, 3), value=-9.0), None),
    "a list": lambda net, x, y: [x, None],
    "losses": lambda net, x, y: (x if y is None else losses(x, y), None),
    "their sum": lambda net, x, y: (x if y is None else losses(x, y).sum(), None),
    "their sum, of one dimension": lambda net, x, y: (x if y is None else losses(x, y).sum()[None], None),
    "half precision": lambda net, x, y: (x.bfloat16(), None),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_the_contract_allows_trains_as_before(kind):
    model = model_of(RIGHT[kind])
    batch = batches().batches[0]
    with torch.no_grad():
        expected = losses(model(batch["inputs"]).float(), batch["targets"]).mean()
    run = trainer(max_steps=1, log_every_n_steps=1)
    run.fit(model, Batches([batch]))
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_network_that_needs_targets_is_trained_and_told_of():
    def make(net, logits, targets):
        return losses(logits, targets).sum(), None

    with pytest.warns(UserWarning, match="Net gives no logits without targets .* it is not known whether"):
        trainer(max_steps=1).fit(model_of(make), batches())


def test_the_check_is_made_once():
    calls = []

    def make(net, logits, targets):
        calls.append((net.training, targets is None))
        return (logits if targets is None else losses(logits, targets).sum()), None

    trainer(max_steps=3, limit_val_batches=0).fit(model_of(make), batches(3))
    assert calls == [(True, False), (False, True), (True, False), (True, False)]


def test_targets_of_another_shape_are_refused():
    batch = {**batches().batches[0], "targets": torch.zeros(ROWS, dtype=torch.long)}  # of a classifier
    with pytest.raises(InputError, match=r"got inputs \(16, 8\) and targets \(16,\): give a target for each"):
        trainer(max_steps=1).fit(model_of(lambda net, x, y: (x.mean(1), None)), Batches([batch]))


def test_scoring_and_generation_refuse_class_logits_too():
    net = Net(lambda net, x, y: (x.mean(1), None))
    with pytest.raises(InputError, match=r"Net returned \(2, 13\) for 2 sequences of 8 tokens"):
        score(net, torch.zeros(17, dtype=torch.long), Blocks(8))
    with pytest.raises(
        InputError, match=r"Net returned \(1, 13\) for 1 sequences of 4 tokens without targets"
    ):
        generate(net, torch.zeros(1, 4, dtype=torch.long), 1)
    below = Net(lambda net, x, y: (x.mean(1)[:, :8] - 3, None))
    with pytest.raises(InputError, match=r"Net returned \(2, 8\) with values below 0"):
        score(below, torch.zeros(17, dtype=torch.long), Blocks(8))
