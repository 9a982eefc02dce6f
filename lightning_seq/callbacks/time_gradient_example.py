"""The sequences of a batch at which a gradient through time is measured."""

from typing import Any, NamedTuple

from torch import Tensor

from lightning_seq.callbacks.probe import inputs_of
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.time_gradient import FEWEST_TOKENS


class Example(NamedTuple):
    """Sequences, and what follows the last token of each.

    Attributes:
        inputs: ``(sequences, time)``.
        targets: ``(sequences,)``.
    """

    inputs: Tensor
    targets: Tensor


def example_of(batch: Any, n_sequences: int, max_lag: int) -> Example | None:
    """Returns the first sequences of a batch, up to a token that all of them score; None if it has none.

    Where the batch has no targets of the inputs' shape, the inputs are their own, one token later.
    """
    inputs = inputs_of(batch)
    if inputs is None or inputs.dim() < 2:
        return None
    inputs, targets = inputs[:n_sequences], _targets_of(batch, inputs)
    if targets is None:
        inputs, targets = inputs[:, :-1], inputs[:, 1:]
    targets = targets[:n_sequences]
    scored = targets != IGNORE_INDEX
    counts = scored.sum(0)
    if targets.dim() != 2 or targets.is_floating_point() or not counts.numel() or not counts.any():
        return None
    end = int((counts == counts.max()).nonzero().max())
    if end + 1 < FEWEST_TOKENS:
        return None
    rows = scored[:, end]
    start = max(0, end - max_lag)
    return Example(inputs[rows, start : end + 1].detach().clone(), targets[rows, end].detach().clone())


def _targets_of(batch: Any, inputs: Tensor) -> Tensor | None:
    targets = batch.get("targets") if isinstance(batch, dict) else None
    if isinstance(batch, list | tuple) and len(batch) > 1:
        targets = batch[1]
    fits = isinstance(targets, Tensor) and targets.shape == inputs.shape[:2]
    return targets if fits else None
