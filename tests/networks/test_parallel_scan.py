"""The linear recurrence: equal to the loop, at any length, for any gate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.networks import parallel_scan
from lightning_seq.networks.parallel_scan import linear_recurrence


def loop(a, b, h):
    states = []
    for t in range(a.size(1)):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def draw(seed, batch, time, hidden, dtype=torch.float64):
    """Gates over the whole range, with many of exactly 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    a = (4 * torch.randn(batch, time, hidden, generator=generator)).sigmoid()
    chance = torch.rand(a.shape, generator=generator)
    a = torch.where(chance < 0.1, 0.0, torch.where(chance > 0.8, 1.0, a))
    b = torch.randn(a.shape, generator=generator)
    h = torch.randn(batch, hidden, generator=generator)
    return tuple(x.to(dtype).requires_grad_() for x in (a, b, h))


def with_gradients(function, inputs, seed=0):
    states = function(*inputs)
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return states, *torch.autograd.grad(states, inputs, weight.to(states.dtype))


def relative_errors(got, expected):
    pairs = zip(got, expected, strict=True)
    return [((x.double() - y).abs().max() / y.abs().max()).item() for x, y in pairs]


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    time=st.integers(1, 90),
    hidden=st.integers(1, 5),
    length=st.sampled_from([2, 3, 8, 16, 1000]),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_loop_forwards_and_backwards(seed, batch, time, hidden, length):
    inputs = draw(seed, batch, time, hidden)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel_scan, "_chunk_length", lambda b: length)
        got = with_gradients(linear_recurrence, inputs)
    for mine, loops in zip(got, with_gradients(loop, inputs), strict=True):
        torch.testing.assert_close(mine, loops)


@pytest.mark.parametrize("time", [1, 2, 9])
def test_gradients_pass_the_numerical_check(time, monkeypatch):
    monkeypatch.setattr(parallel_scan, "_chunk_length", lambda b: 2)
    assert torch.autograd.gradcheck(linear_recurrence, draw(0, 1, time, 2))


@pytest.mark.parametrize("wide_enough", [0, 10**9])
@pytest.mark.parametrize("gates", ["mixed", "ones", "zeros", "tiny", "nearly_one"])
def test_long_sequences_keep_their_precision(gates, wide_enough, monkeypatch):
    """All kinds of gates, 8192 steps, both ways of walking: 1e-5 of fp64, with the gradients."""
    monkeypatch.setattr(parallel_scan, "_WIDE_ENOUGH", wide_enough)
    a, b, h = draw(0, 1, 8192, 4, torch.float32)
    fill = {"ones": 1.0, "zeros": 0.0, "tiny": 1e-30, "nearly_one": 1 - 1e-5}
    if gates != "mixed":
        a = torch.full_like(a, fill[gates]).requires_grad_()
    got = with_gradients(linear_recurrence, (a, b, h))
    exact = with_gradients(linear_recurrence, tuple(x.detach().double().requires_grad_() for x in (a, b, h)))
    assert all(x.isfinite().all() for x in got)
    assert max(relative_errors(got, exact)) < 1e-5


def test_positive_sums_keep_their_precision():
    """A gate of 1 and inputs of one sign: where rounding could add up."""
    b = torch.rand(1, 8192, 4, generator=torch.Generator().manual_seed(0))
    sums = linear_recurrence(torch.ones_like(b), b, torch.zeros(1, 4))
    exact = b.double().cumsum(1)
    assert ((sums - exact).abs() / exact).max() < 1e-5


def test_half_precision_is_computed_in_fp32_and_given_back_as_the_state_is():
    a, b, h = (x.detach() for x in draw(0, 2, 50, 3, torch.bfloat16))
    exact = linear_recurrence(a.float(), b.float(), h.float())
    assert torch.equal(linear_recurrence(a, b, h.float()), exact)
    assert torch.equal(linear_recurrence(a, b, h), exact.bfloat16())


@pytest.mark.parametrize("requires_grad", [True, False])
def test_is_one_operation_to_the_compiler(requires_grad):
    torch.compiler.reset()
    compiled = torch.compile(
        lambda a, b, h: linear_recurrence(a, b.sin(), h) * 2, fullgraph=True, backend="aot_eager"
    )
    inputs = [x.requires_grad_(requires_grad) for x in (y.detach() for y in draw(0, 2, 30, 3))]
    expected = 2 * loop(inputs[0], inputs[1].sin(), inputs[2])
    got = compiled(*inputs)
    torch.testing.assert_close(got, expected)
    if requires_grad:
        for mine, loops in zip(
            torch.autograd.grad(got.sum(), inputs),
            torch.autograd.grad(expected.sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(mine, loops)


def test_keeps_the_gates_and_the_states_alone():
    kept = []
    inputs = draw(0, 2, 100, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        linear_recurrence(*inputs)
    assert sum(kept) == 2 * 100 * 3 + 2 * 101 * 3


@pytest.mark.gpu
@pytest.mark.parametrize("time", [1, 64, 1000, 8192])
def test_gpu_equals_cpu(time):
    inputs = draw(0, 4, time, 64, torch.float32)
    there = tuple(x.detach().cuda().requires_grad_() for x in inputs)
    got = [x.cpu() for x in with_gradients(lambda a, b, h: linear_recurrence(a, b, h).cpu(), there)]
    exact = with_gradients(linear_recurrence, tuple(x.detach().double().requires_grad_() for x in inputs))
    assert max(relative_errors(got, exact)) < 1e-5
