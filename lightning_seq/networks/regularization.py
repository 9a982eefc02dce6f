"""What keeps recurrent language models from learning by heart: the dropouts and penalties of AWD-LSTM.

Merity, Keskar and Socher 2017, https://arxiv.org/abs/1708.02182.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.networks.base import IGNORE_INDEX


class VariationalDropout(nn.Module):
    """Dropout with one mask for all time steps (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287).

    Args:
        p: Probability of dropping a feature of a sequence.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, time, features)`` in and out."""
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(x.size(0), 1, x.size(2)), self.p)

    def extra_repr(self) -> str:
        """Shows p where the module is printed."""
        return f"p={self.p}"


def embed(embedding: nn.Embedding, tokens: Tensor, p: float) -> Tensor:
    """Embeds ``tokens``, each word of the vocabulary dropped as a whole with probability ``p``.

    Args:
        embedding: Drops only in training mode.
        tokens: ``(batch, time)``.
        p: A word that is dropped is so wherever it occurs in the batch.

    Returns:
        ``(batch, time, embedding_dim)``.
    """
    x: Tensor = embedding(tokens)
    if not embedding.training or p == 0:
        return x
    kept = F.dropout(x.new_ones(embedding.num_embeddings), p)
    return x * kept[tokens][..., None]


def activation_penalty(
    output: Tensor, dropped: Tensor, targets: Tensor, activation: float, temporal: float
) -> Tensor:
    """Returns activation (AR) and temporal activation (TAR) penalties, summed over the scored targets.

    Args:
        output: What the last layer gave, ``(batch, time, hidden)``.
        dropped: The same after dropout.
        targets: ``(batch, time)``; where nothing is scored nothing is punished.
        activation: Factor of the mean square of ``dropped``.
        temporal: Factor of the mean square of the change of ``output`` from step to step.
    """
    scored = targets != IGNORE_INDEX
    penalty = output.new_zeros((), dtype=torch.float32)
    if activation:
        penalty = activation * dropped.float().square().mean(-1).where(scored, 0).sum()
    if temporal and output.size(1) > 1:
        change = output.float().diff(dim=1).square().mean(-1)  # (batch, time - 1)
        penalty = penalty + temporal * change.where(scored[:, 1:], 0).sum()
    return penalty
