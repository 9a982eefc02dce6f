"""Output heads: from hidden states to logits, or straight to the loss."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.losses import (
    cross_entropy,
    linear_cross_entropy,
    linear_negative_log_likelihood,
    spread_cross_entropy,
)


class LinearHead(nn.Module):
    """A linear layer over the vocabulary.

    Args:
        hidden_size: Width of the hidden states.
        vocab_size: Number of tokens.
        embedding: Give the network's embedding to use one matrix for both (Press and Wolf 2017,
            https://arxiv.org/abs/1608.05859). Its width must be ``hidden_size``.
        bias: Whether each token has a bias (default: where the matrix is not shared).
        label_smoothing: See :func:`~lightning_seq.networks.losses.linear_cross_entropy`.
        z_loss: See :func:`~lightning_seq.networks.losses.linear_cross_entropy`.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        embedding: nn.Embedding | None = None,
        bias: bool | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.linear = nn.Linear(hidden_size, vocab_size, bias=embedding is None if bias is None else bias)
        if embedding is not None:
            if embedding.embedding_dim != hidden_size:
                raise InputError(
                    f"embedding_dim is {embedding.embedding_dim} and the hidden width {hidden_size}, and "
                    "tied weights need one width: project the hidden states, or do not tie"
                )
            self.linear.weight = embedding.weight
            if self.linear.bias is not None:
                nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Returns logits, or with ``targets`` the loss, never holding more than a chunk of the logits.

        Args:
            hidden: ``(batch, time, hidden_size)``.
            targets: ``(batch, time)``.

        Returns:
            ``(batch, time, vocab)``; with ``targets``, in evaluation, each one's negative log likelihood
            ``(batch, time)``; in training the loss, label smoothing and z-loss included, summed over all
            targets that are scored.
        """
        weight, bias = self.linear.weight, self.linear.bias
        if isinstance(weight, DTensor):  # tensor parallel: each rank has the logits of a part of the words
            return self._spread(self.linear(hidden), targets)
        if targets is None:
            logits: Tensor = self.linear(hidden)
            return logits
        if self.training:
            return linear_cross_entropy(hidden, weight, bias, targets, self.label_smoothing, self.z_loss)
        return linear_negative_log_likelihood(hidden, weight, bias, targets)

    def _spread(self, logits: Any, targets: Tensor | None) -> Tensor:
        if targets is None:
            whole: Tensor = logits.full_tensor()
            return whole
        flat, penalties = logits.flatten(0, 1), (self.label_smoothing, self.z_loss)
        if not self.training:
            return spread_cross_entropy(flat, targets.flatten(), "none").view_as(targets)
        if any(penalties):  # which torch does not compute from parts
            return cross_entropy(flat.full_tensor(), targets.flatten(), *penalties)
        return spread_cross_entropy(flat, targets.flatten(), "sum")


class AdaptiveHead(nn.Module):
    """Adaptive softmax (Grave et al. 2017, https://arxiv.org/abs/1609.04309): rare tokens cost less.

    Tokens are expected by frequency, the most frequent first, as word tokenizers number them.

    Args:
        hidden_size: Width of the hidden states.
        vocab_size: Number of tokens.
        cutoffs: The first id of each cluster of rarer tokens, ascending; what lies before the first is the
            head. Each cluster's width is a quarter of the one before.
    """

    def __init__(self, hidden_size: int, vocab_size: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        ascending = [0, *cutoffs, vocab_size]
        if not cutoffs or sorted(set(ascending)) != ascending:
            raise InputError(
                f"adaptive_cutoffs are {list(cutoffs)}: give ascending ids between 0 and vocab_size "
                f"{vocab_size}, such as [2000, 10000]"
            )
        if hidden_size < 4 ** len(cutoffs):
            raise InputError(
                f"adaptive_cutoffs are {list(cutoffs)}, which leaves the last cluster none of the hidden "
                f"width {hidden_size}: give fewer cutoffs, or a width of {4 ** len(cutoffs)} or more"
            )
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(hidden_size, vocab_size, list(cutoffs))

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Returns log probabilities as logits, or with ``targets`` the loss: see :class:`LinearHead`."""
        device = hidden.device.type
        with torch.autocast(device, enabled=False):  # torch's layer mixes dtypes under autocast
            flat = hidden.flatten(0, 1).to(self.softmax.head.weight.dtype)
            if targets is None:
                logits: Tensor = self.softmax.log_prob(flat)
                return logits.view(*hidden.shape[:2], -1)
            scored = targets != IGNORE_INDEX
            nll: Tensor = -self.softmax(flat, targets.where(scored, 0).flatten()).output
            if (
                self.training
            ):  # torch leaves clusters out that have no target, and DDP waits for each gradient
                nll = nll + 0.0 * sum(p.sum() for p in self.softmax.tail.parameters())
        nll = nll.view(targets.shape).float().where(scored, 0)
        return nll.sum() if self.training else nll


def build_head(
    hidden_size: int,
    vocab_size: int,
    embedding: nn.Embedding | None = None,
    bias: bool | None = None,
    adaptive_cutoffs: Sequence[int] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> nn.Module:
    """Returns the head that a network's arguments ask for: linear, tied to ``embedding``, or adaptive.

    Raises:
        InputError: The arguments contradict one another.
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing is {label_smoothing}: give a share in [0, 1)")
    if not 0 <= z_loss < float("inf"):
        raise InputError(f"z_loss is {z_loss}: give a factor of 0 or more, such as 1e-4")
    if adaptive_cutoffs is None:
        return LinearHead(hidden_size, vocab_size, embedding, bias, label_smoothing, z_loss)
    for name, value in (
        ("tie_weights", embedding is not None),
        ("label_smoothing", label_smoothing),
        ("z_loss", z_loss),
    ):
        if value:
            raise InputError(
                f"adaptive_cutoffs and {name} ({value}) exclude one another: an adaptive softmax has no "
                f"single matrix of logits; leave one of them out"
            )
    return AdaptiveHead(hidden_size, vocab_size, adaptive_cutoffs)
