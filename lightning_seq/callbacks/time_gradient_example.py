"""The sequences of a batch at which a gradient through time is measured."""

from collections.abc import Mapping
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
        rows: Which sequences of the batch they are; None where there is none.
        window: The first token that they are cut to, and the one after the last.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor | None = None
    window: tuple[int, int] = (0, 0)


def example_of(batch: Any, n_sequences: int, max_lag: int) -> Example | None:
    """Returns the first sequences of a batch, up to a token that all of them score; None if it has none.

    Where the batch has no targets of the inputs' shape, the inputs are their own, one token later.
    """
    inputs = inputs_of(batch)
    if inputs is None or inputs.dim() < 2:
        return None
    whole, targets = inputs, _targets_of(batch, inputs)
    inputs = inputs[:n_sequences]
    if targets is None:
        inputs, targets = inputs[:, :-1], _following(batch, whole)[:n_sequences]
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
    part = inputs[rows, start : end + 1].detach().clone(), targets[rows, end].detach().clone()
    return Example(*part, rows.nonzero().flatten().cpu(), (start, end + 1))


def _following(batch: Any, inputs: Tensor) -> Tensor:
    """Returns what follows each token in the inputs, ignored where the batch says that it is padding."""
    following = inputs[:, 1:]
    for name, padding in (("attention_mask", 0), ("labels", IGNORE_INDEX)):
        marks = batch.get(name) if isinstance(batch, Mapping) else None
        if isinstance(marks, Tensor) and marks.shape == inputs.shape[:2] == inputs.shape:
            following = following.masked_fill(marks[:, 1:].to(inputs.device) == padding, IGNORE_INDEX)
    return following


def _targets_of(batch: Any, inputs: Tensor) -> Tensor | None:
    targets = batch.get("targets") if isinstance(batch, dict) else None
    if isinstance(batch, list | tuple) and len(batch) > 1:
        targets = batch[1]
    fits = isinstance(targets, Tensor) and targets.shape == inputs.shape[:2]
    return targets if fits else None
