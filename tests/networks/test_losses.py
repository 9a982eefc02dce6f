"""Cross entropy in chunks: the same loss and gradients as over all logits at once, and far less memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.networks import losses
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.losses import linear_cross_entropy, linear_negative_log_likelihood


def problem(batch, time, width, vocab, bias=True, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, time, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocab, generator=generator, dtype=dtype, requires_grad=True) if bias else None
    targets = torch.randint(0, vocab, (batch, time), generator=generator)
    targets[torch.rand(batch, time, generator=generator) < 0.2] = IGNORE_INDEX
    return hidden, weight, offset, targets


def plain(hidden, weight, bias, targets, label_smoothing=0.0, z_loss=0.0):
    """Written out, with all logits."""
    logits = F.linear(hidden, weight, bias)
    logs = logits.log_softmax(-1)
    scored = targets != IGNORE_INDEX
    nll = -logs.gather(-1, targets.where(scored, 0)[..., None])[..., 0]
    smooth = -logs.mean(-1)
    z = logits.exp().sum(-1).log() ** 2
    return ((1 - label_smoothing) * nll + label_smoothing * smooth + z_loss * z)[scored].sum()


@given(
    batch=st.integers(1, 4),
    time=st.integers(1, 9),
    vocab=st.integers(2, 40),
    rows=st.integers(1, 12),
    bias=st.booleans(),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 0.05]),
    transposed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(
    batch, time, vocab, rows, bias, label_smoothing, z_loss, transposed
):
    inputs = problem(batch, time, 5, vocab, bias)
    if transposed:  # targets and states are often views
        inputs = (*inputs[:3], inputs[3].T.contiguous().T)
    leaves = [each for each in inputs[:3] if each is not None]
    expected = plain(*inputs, label_smoothing, z_loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "LOGITS_AT_ONCE_ON_CPU", rows * vocab)
        loss = linear_cross_entropy(*inputs, label_smoothing, z_loss)
        nll = linear_negative_log_likelihood(*inputs)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll.sum(), plain(*inputs))
    assert (nll[inputs[3] == IGNORE_INDEX] == 0).all()
    for mine, theirs in zip(
        torch.autograd.grad(3 * loss, leaves), torch.autograd.grad(3 * expected, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def chunked(monkeypatch, rows, vocab):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE_ON_CPU", rows * vocab)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_torchs_cross_entropy(monkeypatch, label_smoothing):
    chunked(monkeypatch, 3, 17)
    hidden, weight, bias, targets = problem(2, 7, 5, 17, dtype=torch.float32)
    expected = F.cross_entropy(
        F.linear(hidden, weight, bias).flatten(0, 1),
        targets.flatten(),
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    loss = linear_cross_entropy(hidden, weight, bias, targets, label_smoothing)
    torch.testing.assert_close(loss, expected)


def test_nothing_scored_is_zero_with_zero_gradients(monkeypatch):
    chunked(monkeypatch, 3, 17)
    hidden, weight, bias, targets = problem(2, 7, 5, 17)
    loss = linear_cross_entropy(hidden, weight, bias, torch.full_like(targets, IGNORE_INDEX), 0.1, 0.1)
    assert loss == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, [hidden, weight, bias]))


def test_gradients_add_up_over_two_losses_and_are_given_once(monkeypatch):
    chunked(monkeypatch, 3, 17)
    hidden, weight, bias, targets = problem(2, 7, 5, 17)
    for _ in range(2):
        linear_cross_entropy(hidden, weight, bias, targets).backward()
    twice = weight.grad.clone()
    weight.grad = None
    loss = linear_cross_entropy(hidden, weight, bias, targets)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(2 * weight.grad, twice)
    with pytest.raises(RuntimeError, match="ran through this loss before"):
        loss.backward()  # rather than a wrong gradient


def test_a_tied_matrix_gets_both_gradients(monkeypatch):
    chunked(monkeypatch, 3, 17)
    _, weight, _, targets = problem(2, 7, 5, 17, dtype=torch.float32)
    tokens = torch.randint(0, 17, (2, 7))
    grads = [
        torch.autograd.grad(f(F.embedding(tokens, weight), weight, None, targets), weight)[0]
        for f in (linear_cross_entropy, plain)
    ]
    torch.testing.assert_close(*grads)


def test_half_precision_sums_up_in_full(monkeypatch):
    chunked(monkeypatch, 3, 300)
    hidden, weight, bias, targets = problem(4, 30, 16, 300, dtype=torch.float32)
    expected = torch.autograd.grad(plain(hidden, weight, bias, targets), [hidden, weight])
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, bias, targets)
    assert loss.dtype == torch.float32
    for mine, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), expected, strict=True):
        assert mine.dtype == torch.float32
        assert F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.9999


def test_compiled_it_is_the_same(monkeypatch):
    chunked(monkeypatch, 3, 17)
    torch._dynamo.reset()
    hidden, _, _, targets = problem(2, 7, 5, 17, dtype=torch.float32)
    hidden, linear = hidden.detach().requires_grad_(), nn.Linear(5, 17)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    for f in (linear_cross_entropy, compiled):
        linear.zero_grad()
        f(hidden, linear.weight, linear.bias, targets, 0.1, 1e-3).backward()
        if f is linear_cross_entropy:
            expected = linear.weight.grad.clone()
    torch.testing.assert_close(linear.weight.grad, expected)


PEAK = """
import sys, torch
from pathlib import Path
from lightning_seq.networks import losses
if sys.argv[1] == "plain":
    losses.LOGITS_AT_ONCE_ON_CPU = 1 << 40
hidden = torch.randn(1, 2048, 32, requires_grad=True)
weight = torch.nn.Parameter(torch.randn(50_000, 32))
targets = torch.randint(0, 50_000, (1, 2048))
losses.linear_cross_entropy(hidden[:, :8], weight, None, targets[:, :8]).backward()  # loads what it needs
memory = lambda name: int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
before = memory("VmRSS")
losses.linear_cross_entropy(hidden, weight, None, targets).backward()
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process held at most"
)
def test_the_logits_are_never_held():
    def peak(how):
        return float(subprocess.check_output([sys.executable, "-c", PEAK, how], text=True))

    logits = 2048 * 50_000 * 4 / 2**20  # MiB
    assert peak("plain") > 1.8 * logits
    assert peak("chunked") < 0.6 * logits
