"""The linear recurrence h_t = a_t * h_{t-1} + b_t over a whole sequence, without a step in Python's graph.

Time is cut into chunks that are walked side by side: first for what each chunk does to the state that
enters it; then, from these states (a shorter recurrence of the same kind), for the states themselves. The
gradient is the same recurrence backwards, so nothing but ``a`` and the states is kept. There is no logarithm
and no division: gates of exactly 0 and 1 are exact. (In log space, as in Heinsen 2023,
https://arxiv.org/abs/2311.06281, fp32 loses 5e-5 at 1,000 steps and all of the gates' gradient, and takes 10
to 25 times as long on a CPU.)
"""

from typing import Any

import torch
from torch import Tensor

_WIDE_ENOUGH = 2048
"""Elements of one step from which a CPU is busy without chunks (measured)."""


def linear_recurrence(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """Returns every h_t of h_t = a_t * h_{t-1} + b_t, ``(batch, time, hidden)``, in the dtype of ``h0``.

    Half precisions are computed in fp32. It differentiates once.

    Args:
        a: Gates, ``(batch, time, hidden)``.
        b: What is added, ``(batch, time, hidden)``.
        h0: The state before the first step, ``(batch, hidden)``.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    states = _LinearRecurrence.apply(a.to(dtype), b.to(dtype), h0.to(dtype))  # type: ignore[no-untyped-call]
    return states.to(h0.dtype)  # type: ignore[no-any-return]


class _LinearRecurrence(torch.autograd.Function):
    """With g the gradient of h, d_t = g_t + a_{t+1} * d_{t+1} is that of b; and d_t * h_{t-1} that of a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        states: Tensor = scan(a, b, h0, False)  # (batch, 1 + time, hidden)
        ctx.save_for_backward(a, states)
        return states[:, 1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, states = ctx.saved_tensors
        d = scan(a[:, 1:], gradient[:, :-1], gradient[:, -1], True)  # (batch, time, hidden)
        return d * states[:, :-1], d, a[:, 0] * d[:, 0]


@torch.library.custom_op("lightning_seq::scan", mutates_args=())
def scan(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    """Returns ``start`` and the states after it (before it if ``reverse``), ``(batch, 1 + time, hidden)``.

    One operation to the compiler, which would otherwise unroll every step.
    """
    states = b.new_empty(b.size(0), b.size(1) + 1, b.size(2))
    _fill(a, b, start, states, _chunk_length(b), reverse)
    return states


@scan.register_fake
def _(a: Tensor, b: Tensor, start: Tensor, reverse: bool) -> Tensor:
    return b.new_empty(b.size(0), b.size(1) + 1, b.size(2))


def _chunk_length(b: Tensor) -> int:
    """Steps in a chunk: few where a launch costs more than its work, all where the caches rule."""
    if b.device.type != "cpu":
        return 8
    return 16 if b.size(0) * b.size(2) < _WIDE_ENOUGH else b.size(1) + 1


def _fill(a: Tensor, b: Tensor, start: Tensor, states: Tensor, length: int, reverse: bool) -> None:
    """Writes the recurrence's states to ``states``, ``start`` among them."""
    states[:, -1 if reverse else 0] = start
    states = states[:, :-1] if reverse else states[:, 1:]
    time = b.size(1)
    if time < 4 * length:
        _walk(a.unbind(1), b.unbind(1), start, states.unbind(1), reverse)
        return
    chunks = -(-time // length)
    # the j-th step of every chunk; the last chunk in walking order may have none
    steps = [slice((time - 1 - j) % length, time - j, length) for j in range(length)]
    if not reverse:
        steps = [slice(j, None, length) for j in range(length)]
    entering = b.new_empty(b.size(0), chunks, b.size(2))
    decay, added = _effect_of_chunks(a, b, steps, chunks - 1, reverse)
    _fill(decay, added, start, entering, length, reverse)
    for step in steps:
        target = states[:, step]
        entering = _first(entering, target.size(1), reverse)
        torch.addcmul(b[:, step], a[:, step], entering, out=target)
        entering = target


def _walk(
    a: tuple[Tensor, ...], b: tuple[Tensor, ...], h: Tensor, states: tuple[Tensor, ...], reverse: bool
) -> None:
    order = range(len(b) - 1, -1, -1) if reverse else range(len(b))
    for t in order:
        h = torch.addcmul(b[t], a[t], h, out=states[t])


def _effect_of_chunks(
    a: Tensor, b: Tensor, steps: list[slice], chunks: int, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Returns what each of the first ``chunks`` chunks multiplies its state by, and what it adds."""
    decay = _first(a[:, steps[0]], chunks, reverse).clone()
    added = _first(b[:, steps[0]], chunks, reverse).clone()
    for step in steps[1:]:
        gate = _first(a[:, step], chunks, reverse)
        torch.addcmul(_first(b[:, step], chunks, reverse), gate, added, out=added)
        decay.mul_(gate)
    return decay, added


def _first(x: Tensor, count: int, reverse: bool) -> Tensor:
    return x[:, x.size(1) - count :] if reverse else x[:, :count]
