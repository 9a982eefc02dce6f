"""Cross entropy over large vocabularies without ever holding all logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel

from lightning_seq.networks.base import IGNORE_INDEX

LOGITS_AT_ONCE = 13 << 20
"""Most logits that are held at a time, 52 MiB of fp32: a chunk has as many tokens as fit."""
LOGITS_AT_ONCE_ON_CPU = 7 << 20
"""The same on a CPU, 28 MiB: from 32 MiB on, glibc takes fresh pages from the system for each tensor."""


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross entropy of each token, ``(batch, time)``, in fp32; 0 where targets are ignored."""
    losses = F.cross_entropy(
        _full(logits.flatten(0, 1)), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(targets)


def linear_negative_log_likelihood(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """Returns the cross entropy of each token under ``softmax(hidden @ weight.T + bias)``, in chunks.

    Gradients flow, but only at the price of all logits: this is for evaluation.

    Args:
        hidden: ``(batch, time, hidden_size)``.
        weight: ``(vocab, hidden_size)``.
        bias: ``(vocab,)``.
        targets: ``(batch, time)``.
    """
    rows = _tokens_at_once(weight)
    hidden, flat = hidden.flatten(0, 1)[None], targets.reshape(1, -1)  # (1, batch * time, ...)
    chunks = zip(torch.split(hidden, rows, 1), torch.split(flat, rows, 1), strict=True)
    losses = [negative_log_likelihood(F.linear(x, weight, bias), y) for x, y in chunks]
    return torch.cat(losses, 1).view_as(targets)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Returns the training loss, summed over the targets that are not ignored, in fp32.

    Each token costs ``(1 - s) * nll + s * (mean of -log p over the vocabulary) + z * log(Z)^2``, where Z is
    the softmax's denominator. Where not all logits are held at once, gradients are computed along with the
    loss, chunk by chunk, as Hsu et al. 2024 do (Liger Kernel, https://arxiv.org/abs/2410.10989): no chunk's
    logits are kept or computed again.

    Args:
        hidden: ``(batch, time, hidden_size)``.
        weight: ``(vocab, hidden_size)``.
        bias: ``(vocab,)``.
        targets: ``(batch, time)``.
        label_smoothing: s, the share of a target that is spread over the vocabulary (Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567).
        z_loss: z, which keeps logits from drifting (Chowdhery et al. 2022, PaLM,
            https://arxiv.org/abs/2204.02311).
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    if len(hidden) > _tokens_at_once(weight) and torch.is_grad_enabled():
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, label_smoothing, z_loss)  # type: ignore[no-untyped-call]
        return loss
    return cross_entropy(F.linear(hidden, weight, bias), targets, label_smoothing, z_loss)


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """Returns the loss of :func:`linear_cross_entropy` from logits ``(tokens, vocab)``."""
    logits = _full(logits)
    loss = F.cross_entropy(
        logits, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    if z_loss:
        scored = targets != IGNORE_INDEX
        loss = loss + z_loss * (logits.logsumexp(-1).square() * scored).sum()
    return loss


def spread_cross_entropy(logits: DTensor, targets: Tensor, reduction: str) -> Tensor:
    """Returns the cross entropy of logits that are spread over ranks by their words, ``(tokens, vocab)``.

    Its backward, too, must run inside ``torch.distributed.tensor.parallel.loss_parallel()``.
    """
    with loss_parallel():
        loss: Any = F.cross_entropy(_full(logits), targets, ignore_index=IGNORE_INDEX, reduction=reduction)
    return loss.to_local()  # type: ignore[no-any-return]  # the same on all ranks


def _full(x: Tensor) -> Tensor:
    """Returns ``x`` in fp32, where it has no more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _tokens_at_once(weight: Tensor) -> int:
    logits = LOGITS_AT_ONCE_ON_CPU if weight.device.type == "cpu" else LOGITS_AT_ONCE
    return max(1, logits // len(weight))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The loss and, times a gradient of 1, the gradients of its inputs; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float,
        z_loss: float,
    ) -> Tensor:
        device = hidden.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else hidden.dtype
        rows = _tokens_at_once(weight)
        loss = torch.zeros((), device=hidden.device, dtype=torch.promote_types(hidden.dtype, torch.float32))
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=loss.dtype)  # a sum of many in half would round
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=loss.dtype)
        with torch.autocast(device, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            chunks = zip(*(torch.split(each, rows) for each in (hidden, targets, grad_hidden)), strict=True)
            for x, y, grad_x in chunks:
                x, scored = x.to(dtype), (y != IGNORE_INDEX)[:, None]
                part, gradient = _loss_and_gradient(
                    _full(F.linear(x, matrix, offset)), y, label_smoothing, z_loss
                )
                loss += part
                if grad_bias is not None:
                    grad_bias += gradient.T @ scored[:, 0].to(gradient.dtype)
                gradient, x = gradient.to(dtype), x * scored  # nothing comes from what is not scored
                if dtype == grad_weight.dtype == grad_x.dtype:
                    torch.mm(gradient, matrix, out=grad_x).mul_(scored)
                    grad_weight.addmm_(gradient.T, x)
                else:
                    grad_x.copy_((gradient @ matrix) * scored)
                    grad_weight += gradient.T @ x
                del gradient  # before there are the next chunk's logits
        grad_bias = None if bias is None or grad_bias is None else grad_bias.to(bias.dtype)
        ctx.gradients = grad_hidden, grad_weight.to(weight.dtype), grad_bias
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        # in place, and let go: the weight's gradient may be the largest tensor there is, and what nobody else
        # holds becomes weight.grad without a copy
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("backward ran through this loss before: compute the loss again")
        return (*(None if each is None else each.mul_(grad_loss) for each in gradients), None, None, None)


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Returns the loss of one chunk, and the gradient of its logits, as if all targets were scored."""
    scored = targets != IGNORE_INDEX  # (tokens,)
    index = targets.where(scored, 0)[:, None]  # (tokens, 1)
    log_probabilities = logits.log_softmax(1)  # (tokens, vocab)
    found = log_probabilities.gather(1, index)
    losses = (label_smoothing - 1) * found[:, 0]
    if label_smoothing:
        losses = losses - label_smoothing * log_probabilities.mean(1)
    normalizer = logits.gather(1, index) - found  # (tokens, 1)
    del logits  # nobody else has them: their memory is free again
    gradient = log_probabilities.exp_()
    if z_loss:
        losses = losses + z_loss * normalizer[:, 0].square()
        gradient.mul_(1 + 2 * z_loss * normalizer)
    if label_smoothing:
        gradient.sub_(label_smoothing / gradient.size(1))
    gradient.scatter_add_(1, index, gradient.new_full((1, 1), label_smoothing - 1).expand_as(index))
    return losses.where(scored, 0).sum(), gradient
