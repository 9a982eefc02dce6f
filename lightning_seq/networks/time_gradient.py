"""The gradient through time: how much of one loss's gradient reaches the tokens before it, by their distance.

The loss is read at the last token alone, so that nothing but a path through time leads back to the others.
Then one backward gives the gradient at every lag: the number of tokens between an input and the loss. It is
the products of Jacobians of which Bengio et al. 1994 (https://doi.org/10.1109/72.279181) and Pascanu et al.
2013 (https://arxiv.org/abs/1211.5063) showed that they vanish or explode.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.embedded_inputs import (
    by_token,
    differentiating,
    find_logits,
    gradients,
    logits_and_leaves,
)
from lightning_seq.networks.gradient_decay import TimeGradient, describe_decay
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.recurrent_cuts import RecurrentCuts

FEWEST_TOKENS = 4
"""Inputs of the shortest sequence that a decay can be told from."""

Measured = tuple[list[int], Tensor, float]
"""Lags; norms of the gradient ``(sequences, lags)``, fp64 on the CPU; and below which no norm is precise."""


def time_gradient(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    at: str | None = None,
    exact: bool = False,
    call: NetworkCall | None = None,
) -> TimeGradient:
    """Measures how far back the gradient of the last token's loss reaches.

    Works with every module whose ``module(inputs)`` gives logits ``(batch, time, vocab)``, or something that
    begins with them or has them as ``logits``. It runs as at evaluation, eagerly and without autocast; no
    ``.grad`` is touched and no mode is left changed.

    Args:
        module: The network, or a LightningModule.
        inputs: Ids ``(sequences, time)``; more sequences make a smoother curve.
        targets: What follows the last token of each sequence, ``(sequences,)``.
        at: Name of the submodule that embeds the inputs (default: the first ``nn.Embedding``).
        exact: Whether to follow the states of ``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` instead of the inputs:
            the gradient at what is carried from one token to the next, of all layers together.
        call: How the module is called for these inputs (default: ``module(inputs)``).

    Raises:
        InputError: The module does not fit, or no finite gradient comes through.
    """
    if inputs.size(1) < FEWEST_TOKENS:
        raise InputError(f"got sequences of {inputs.size(1)} tokens: give {FEWEST_TOKENS} or more")
    with differentiating(module):
        inputs, targets = inputs.clone(), targets.clone()  # those made in inference mode have no gradient
        call = None if call is None else call.cut()  # which copies
        if exact:
            return describe_decay(*state_gradients(module, inputs, targets, call))
        return describe_decay(*input_gradients(module, inputs, targets, at, call))


def input_gradients(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    at: str | None = None,
    call: NetworkCall | None = None,
) -> Measured:
    """Returns the gradient at the embedded inputs, for all lags; see :func:`time_gradient`."""
    logits, leaves = logits_and_leaves(module, inputs, at, call)
    norms = by_token(_gradients(_loss(logits, targets), leaves), *inputs.shape[:2]).norm(dim=-1).flip(1)
    return list(range(inputs.size(1))), norms, _floor(leaves[0])


def state_gradients(
    module: nn.Module, inputs: Tensor, targets: Tensor, call: NetworkCall | None = None
) -> Measured:
    """Returns the gradient at the states of fused recurrent layers, for some lags; see :func:`time_gradient`.

    The lags are spaced by their logarithm, since each costs one more call of the kernel.
    """
    lags = log_spaced(inputs.size(1) - 1)
    with RecurrentCuts(inputs.size(1), lags) as cuts:
        output = module(inputs) if call is None else call.run(module)
        loss = _loss(find_logits(output, *inputs.shape[:2]), targets)
    if not cuts.states[1]:
        raise InputError(
            f"exact follows the states of nn.RNN, nn.GRU and nn.LSTM, and {type(module).__name__} runs none "
            "of them: leave exact out"
        )
    states = [state for lag in lags for state in cuts.states[lag]]
    squares = torch.stack([g.square().sum((0, 2)) for g in _gradients(loss, states)])  # (.., sequences)
    norms = squares.view(len(lags), -1, len(inputs)).sum(1).sqrt().T
    return lags, norms, _floor(states[0])


def _gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """In fp64, on the CPU: fp32 has no squares of what is below 1e-19."""
    return [g.cpu().double() for g in gradients(loss, tensors)]


def log_spaced(last: int) -> list[int]:
    """Returns lags from 1 to ``last``, about three to each doubling."""
    most = 3 * math.log2(last)
    return sorted({round(2 ** (i / 3)) for i in range(math.ceil(most))} | {last})


def _floor(x: Tensor) -> float:
    """Below it a number of the kind of ``x`` has lost its precision."""
    return 100 * torch.finfo(x.dtype).tiny


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits[:, -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction="sum")
