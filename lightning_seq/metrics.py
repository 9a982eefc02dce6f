"""How well a text is predicted: sums over tokens, divided once at the end."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_seq.networks.base import IGNORE_INDEX

FIRST_LOADER = "/dataloader_idx_0"
"""What Lightning adds to the name of a metric of the first of several loaders."""


def of_first_loader(metrics: Mapping[str, Any], name: str) -> Any:
    """Returns the metric ``name``, of the first loader where there are several; None where there is none."""
    return metrics.get(name, metrics.get(name + FIRST_LOADER))


class TextLoss(Metric):
    """Loss in nats per token, perplexity, bits per character and accuracy of all that was seen.

    Sums and counts are kept, over batches and ranks, and divided at the end: a mean of means, or of
    perplexities, would weight short batches too much.

    Args:
        characters_per_token: How many characters each id stands for, ``(vocab,)``; None where that is
            unknown, and then there are no bits per character.
        dtype: Of the sum; fp64, except on devices that have none.
        accuracy: Whether to count the targets that were found likeliest, too.
        unknown_id: What stands for text that the tokenizer does not know; None where it knows any text.
        **kwargs: For torchmetrics' ``Metric``.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    nll: Tensor
    tokens: Tensor
    characters: Tensor
    correct: Tensor
    unknown: Tensor

    def __init__(
        self,
        characters_per_token: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        accuracy: bool = False,
        unknown_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.add_state("nll", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("characters", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("unknown", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.accuracy, self.unknown_id = accuracy, unknown_id
        self.register_buffer("characters_per_token", characters_per_token, persistent=False)
        self.characters_per_token: Tensor | None

    def update(self, nll: Tensor, targets: Tensor, predictions: Tensor | None = None) -> None:
        """Adds the negative log likelihoods of ``targets`` and, for accuracy, the likeliest tokens.

        Args:
            nll: ``(batch, time)``.
            targets: ``(batch, time)``.
            predictions: ``(batch, time)``.
        """
        scored = targets != IGNORE_INDEX
        self.nll += nll.detach().to(self.nll.dtype).sum()
        self.tokens += scored.sum()
        if self.characters_per_token is not None:
            counts = self.characters_per_token[targets.where(scored, 0)]  # (batch, time)
            self.characters += counts.where(scored, 0).sum()
        if self.unknown_id is not None:
            self.unknown += (targets == self.unknown_id).sum()
        if predictions is not None:
            self.correct += (predictions == targets).sum()  # no prediction is the ignored index

    def compute(self) -> dict[str, Tensor]:
        """Returns loss, perplexity and, where known, bits_per_character, accuracy and unknown_fraction.

        NaN where nothing was scored.
        """
        loss = self.nll / self.tokens
        result = {"loss": loss, "perplexity": loss.exp()}
        if self.characters_per_token is not None:
            result["bits_per_character"] = self.nll / math.log(2) / self.characters
        if self.accuracy:
            result["accuracy"] = self.correct / self.tokens
        if self.unknown_id is not None:
            result["unknown_fraction"] = self.unknown / self.tokens
        return {name: value.float() for name, value in result.items()}
