"""The mean over all tokens of an optimizer step: of all batches that it accumulates, on all ranks.

Lightning averages the means of batches and of ranks, which weights tokens of short batches too much. Here
each batch contributes its sum, and before the optimizer step the gradient is divided by the number of tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_seq.errors import InputError

NOMINAL_TOKENS = 1024.0
"""What sums are divided by until the tokens are counted: a power of two, so that nothing is rounded."""


class TokenNormalization:
    """Counts the tokens of an accumulation window, and divides its gradient by them."""

    def __init__(self) -> None:
        self.tokens: Tensor | None = None  # of the window so far, on this rank; None where no count is needed
        self.tokens_before: Tensor | None = None  # without the last batch
        self._step = -1  # the optimizer step that the window belongs to

    def loss(self, total: Tensor, tokens: Tensor, model: Any) -> Tensor:
        """Returns the batch's mean, whose gradient is that of its share in the window's.

        Args:
            total: The loss, summed over the batch's targets.
            tokens: How many of them are scored.
            model: The LightningModule that is trained.
        """
        mean = total / tokens.clamp(min=1)
        trainer = model.trainer
        if not model.automatic_optimization or (
            trainer.accumulate_grad_batches == 1 and trainer.world_size == 1
        ):
            return mean
        if self.tokens is not None and self._step != trainer.global_step:
            raise InputError(
                f"{type(model).__name__} overrides on_before_optimizer_step and does not call "
                "super().on_before_optimizer_step(optimizer): call it, it divides gradients by the tokens"
            )
        self._step = trainer.global_step
        self.tokens_before = self.tokens
        self.tokens = tokens if self.tokens is None else self.tokens + tokens
        weighted = total / NOMINAL_TOKENS
        return weighted + (mean - weighted).detach()

    def go_on(self, tokens: Tensor, step: int) -> None:
        """Takes up the window of a checkpoint, which belongs to the optimizer step ``step``."""
        self.tokens, self._step = tokens, step

    @torch.no_grad()
    def divide(self, optimizer: Optimizer, trainer: Any) -> None:
        """Makes the gradient that of the mean over the window's tokens; with several ranks, all must ask."""
        if self.tokens is None:
            return
        tokens = trainer.strategy.reduce(self.tokens, reduce_op="sum")
        factor = NOMINAL_TOKENS * trainer.accumulate_grad_batches * trainer.world_size / tokens.clamp(min=1)
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        local = [each.to_local() if hasattr(each, "to_local") else each for each in gradients]
        torch._foreach_mul_(local, factor.float())
        self.tokens = None
