"""Output heads: from hidden states to logits, or straight to the loss of each token."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.networks.base import IGNORE_INDEX


class LinearHead(nn.Module):
    """A linear layer over the vocabulary.

    Args:
        hidden_size: Width of the hidden states.
        vocab_size: Number of tokens.
        embedding: Give the network's embedding to use one matrix for both (Press and Wolf 2017,
            https://arxiv.org/abs/1608.05859). Its width must be ``hidden_size``.
    """

    def __init__(self, hidden_size: int, vocab_size: int, embedding: nn.Embedding | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, vocab_size, bias=embedding is None)
        if embedding is not None:
            self.linear.weight = embedding.weight

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Returns logits, or with ``targets`` the negative log likelihood of each in nats.

        Args:
            hidden: ``(batch, time, hidden_size)``.
            targets: ``(batch, time)``.
        """
        logits: Tensor = self.linear(hidden)  # (batch, time, vocab)
        return logits if targets is None else negative_log_likelihood(logits, targets)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross entropy of each token, ``(batch, time)``, in fp32; 0 where targets are ignored."""
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(targets)
