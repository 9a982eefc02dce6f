"""The gradient through time: how much of one loss's gradient reaches the tokens before it, by their distance.

The loss is read at the last token alone, so that nothing but a path through time leads back to the others.
Then one backward gives the gradient at every lag: the number of tokens between an input and the loss. It is
the products of Jacobians of which Bengio et al. 1994 (https://doi.org/10.1109/72.279181) and Pascanu et al.
2013 (https://arxiv.org/abs/1211.5063) showed that they vanish or explode.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.networks.base import evaluating
from lightning_seq.networks.gradient_decay import TimeGradient, describe_decay
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

    Raises:
        InputError: The module does not fit, or no finite gradient comes through.
    """
    if inputs.size(1) < FEWEST_TOKENS:
        raise InputError(f"got sequences of {inputs.size(1)} tokens: give {FEWEST_TOKENS} or more")
    with _differentiating(module):
        inputs, targets = inputs.clone(), targets.clone()  # those made in inference mode have no gradient
        if exact:
            return describe_decay(*state_gradients(module, inputs, targets))
        return describe_decay(*input_gradients(module, inputs, targets, at))


def input_gradients(module: nn.Module, inputs: Tensor, targets: Tensor, at: str | None = None) -> Measured:
    """Returns the gradient at the embedded inputs, for all lags; see :func:`time_gradient`."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: Any, output: Any) -> Any:
        embedded = output[0] if isinstance(output, tuple) else output
        leaves.append(embedded.detach().requires_grad_())
        whole = leaves[-1].clone()  # which may be changed in place, unlike a leaf
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    embedding = find_embedding(module, at)
    handle = embedding.register_forward_hook(cut)
    try:
        loss = _loss(module, inputs, targets)
    finally:
        handle.remove()
    if not leaves:
        raise InputError(
            f"{type(module).__name__} does not call its {at or 'first nn.Embedding'}: name as `at` what "
            "embeds the inputs"
        )
    norms = _by_time(_gradients(loss, leaves), *inputs.shape[:2]).flip(1)
    return list(range(inputs.size(1))), norms, _floor(leaves[0])


def state_gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> Measured:
    """Returns the gradient at the states of fused recurrent layers, for some lags; see :func:`time_gradient`.

    The lags are spaced by their logarithm, since each costs one more call of the kernel.
    """
    lags = log_spaced(inputs.size(1) - 1)
    with RecurrentCuts(inputs.size(1), lags) as cuts:
        loss = _loss(module, inputs, targets)
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
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    pairs = zip(tensors, found, strict=True)
    return [(torch.zeros_like(x) if g is None else g).cpu().double() for x, g in pairs]


def log_spaced(last: int) -> list[int]:
    """Returns lags from 1 to ``last``, about three to each doubling."""
    most = 3 * math.log2(last)
    return sorted({round(2 ** (i / 3)) for i in range(math.ceil(most))} | {last})


def find_embedding(module: nn.Module, at: str | None = None) -> nn.Module:
    """Returns the submodule called ``at``, or the first ``nn.Embedding``.

    Raises:
        InputError: There is none.
    """
    named: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        named[name.replace("_orig_mod.", "")] = child  # which torch.compile puts there
    if at:
        if at not in named:
            raise InputError(
                f"{type(module).__name__} has no submodule {at!r}{did_you_mean(at, named)}: give the name of "
                "what embeds its inputs"
            )
        return named[at]
    found = next((m for m in named.values() if isinstance(m, nn.Embedding)), None)
    if found is None:
        raise InputError(f"{type(module).__name__} has no nn.Embedding: name as `at` what embeds its inputs")
    return found


@contextmanager
def _differentiating(module: nn.Module) -> Iterator[None]:
    """Evaluation, with gradients: cuDNN's recurrent kernels have none then, and make way for torch's own."""
    kind = next((p.device.type for p in module.parameters()), "cpu")
    cudnn = torch.backends.cudnn.enabled
    with (
        evaluating(module),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kind, enabled=False),
    ):
        torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = cudnn


def _floor(x: Tensor) -> float:
    """Below it a number of the kind of ``x`` has lost its precision."""
    return 100 * torch.finfo(x.dtype).tiny


def _loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(module(inputs), *inputs.shape[:2])[:, -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction="sum")


def _logits(output: Any, batch: int, time: int) -> Tensor:
    """Finds ``(batch, time, vocab)`` in what a model returns."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    output = getattr(output, "logits", output)
    if isinstance(output, list | tuple) and output:
        output = output[0]
    if isinstance(output, Tensor):
        if output.dim() == 2 and len(output) == batch * time:
            return output.view(batch, time, -1)
        if output.dim() == 3 and output.shape[:2] == (batch, time):
            return output
        if output.dim() == 3 and output.shape[:2] == (time, batch):
            return output.transpose(0, 1)
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise InputError(
        f"the model returned {got} for {batch} sequences of {time} tokens; logits (batch, time, vocab) are "
        "expected"
    )


def _by_time(gradients: Sequence[Tensor], batch: int, time: int) -> Tensor:
    """Returns the gradient's norm at each token, ``(batch, time)``, of what the calls of an embedding gave.

    One call may embed all tokens or, in a loop over time, one after the other; and all may be embedded again:
    what a token is used for twice adds up.
    """
    parts = []
    for gradient in gradients:
        g = gradient[:, None] if gradient.dim() == 2 else gradient
        g = g.transpose(0, 1) if len(g) != batch and g.size(1) == batch else g
        if g.dim() != 3 or len(g) != batch:
            raise InputError(
                f"the embedding gave shape {tuple(gradient.shape)} for {batch} sequences of {time} tokens, "
                "and (batch, time, width) is expected: name as `at` what embeds the inputs"
            )
        parts.append(g)
    whole = torch.cat(parts, 1)
    if whole.size(1) % time:
        raise InputError(
            f"the embedding was called for {whole.size(1)} tokens in sequences of {time}: name as `at` what "
            "embeds the inputs"
        )
    norms: Tensor = whole.view(batch, -1, time, whole.size(-1)).sum(1).norm(dim=-1)
    return norms
