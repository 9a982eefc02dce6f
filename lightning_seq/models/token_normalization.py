"""The mean over all tokens of an optimizer step: of all batches that it accumulates, on all ranks.

Lightning averages the means of batches and of ranks, which weights tokens of short batches too much. Here
each batch contributes its sum, and before the optimizer step the gradient is divided by the number of tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_seq.errors import InputError

NOMINAL_TOKENS = 1024.0
"""What sums are divided by until the tokens are counted: a power of two, so that nothing is rounded."""


def on_backward(loss: Tensor, act: Callable[[], None]) -> None:
    """Calls ``act`` when the gradient of ``loss`` is computed; at once where there is none, or in a graph."""
    if loss.requires_grad and not torch.compiler.is_compiling():
        loss.register_hook(lambda gradient: act())  # type: ignore[no-untyped-call]
    else:
        act()


class TokenNormalization:
    """Counts the tokens of an accumulation window, and divides its gradient by them."""

    def __init__(self) -> None:
        self.tokens: Tensor | None = None  # of the window so far, on this rank; None where no count is needed
        self.tokens_before: Tensor | None = None  # without the last batch
        self._step, self._batches = -1, 1  # the optimizer step that the window belongs to, and its batches

    def begin_batch(self) -> None:
        """Remembers the count, in case an exception comes before the batch to come is trained on."""
        self.tokens_before = self.tokens

    def loss(self, total: Tensor, tokens: Tensor, model: Any) -> Tensor:
        """Returns the batch's mean, whose gradient is that of its share in the window's.

        The tokens count once that gradient is computed: those of a batch that ``training_step`` skips, by
        returning None, never do.

        Args:
            total: The loss, summed over the batch's targets.
            tokens: How many of them are scored.
            model: The LightningModule that is trained.
        """
        mean = total / tokens.clamp(min=1)
        trainer = model.trainer
        alone = trainer.accumulate_grad_batches == trainer.world_size == 1 and self.tokens is None
        hidden = isinstance(trainer.strategy, DeepSpeedStrategy)  # its gradients are nobody's to divide
        if alone or hidden or not model.automatic_optimization:
            return mean
        if self.tokens is not None and self._step != trainer.global_step:
            raise InputError(
                f"{type(model).__name__} overrides on_before_optimizer_step and does not call "
                "super().on_before_optimizer_step(optimizer): call it, it divides gradients by the tokens"
            )
        if self.tokens is not None and self._batches != trainer.accumulate_grad_batches:
            raise InputError(
                f"trainer.accumulate_grad_batches became {trainer.accumulate_grad_batches} while "
                f"{self._batches} batches were accumulated: change it between optimizer steps"
            )
        weighted = total / NOMINAL_TOKENS
        loss = weighted + (mean - weighted).detach()
        on_backward(loss, partial(self._count, tokens, trainer))
        return loss

    def _count(self, tokens: Tensor, trainer: Any) -> None:
        self._step, self._batches = trainer.global_step, trainer.accumulate_grad_batches
        self.tokens = tokens if self.tokens is None else self.tokens + tokens

    def go_on(self, tokens: Tensor, step: int, batches: int) -> None:
        """Takes up the window of a checkpoint, of ``batches`` batches, that belongs to the optimizer step."""
        self.tokens, self._step, self._batches = tokens, step, batches

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
        if local:  # there is none where every batch was skipped
            torch._foreach_mul_(local, factor.float())
        self.tokens = None
