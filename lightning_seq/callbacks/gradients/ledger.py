"""The books of gradient clipping: how many steps were cut, how large gradients were, and by which layers."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

KEPT, RECENT = 10_000, 100
"""Steps whose norms are kept, and steps that count as recent."""


class Row(NamedTuple):
    """One optimizer step; ``threshold`` is NaN where none is known."""

    norm: float
    norm_clipped: float
    threshold: float

    @property
    def clipped(self) -> bool:
        """Whether the gradient became smaller; one that is not finite did not."""
        return bool(np.isfinite(self.norm)) and self.norm_clipped < self.norm


class ClippingLedger:
    """Counts all steps of an optimizer, and keeps the norms of the last :data:`KEPT`.

    Attributes:
        steps: How many there were.
        clipped: How many of them were clipped.
        nonfinite: How many had a gradient that was not finite; none of these counts as clipped.
        algorithm: How the last one was clipped: see
            :class:`~lightning_seq.callbacks.gradients.seam.GradientStep`.
        rows: The last steps.
    """

    def __init__(self) -> None:
        self.steps = self.clipped = self.nonfinite = 0
        self.algorithm: str | None = None
        self.manual = False  # whether the module optimizes by itself, and may clip out of sight
        self.out_of_sight: list[str] = []  # what else may
        self.rows: deque[Row] = deque(maxlen=KEPT)
        self._shares: dict[
            str, list[float]
        ] = {}  # of the squared norm: summed over all steps, and clipped ones

    def add(self, row: Row, squares: dict[str, float]) -> None:
        """Enters a step: ``squares`` are the squared norms of the groups' gradients."""
        self.steps += 1
        self.clipped += row.clipped
        self.rows.append(row)
        if not np.isfinite(row.norm):
            self.nonfinite += 1
            return
        total = sum(squares.values()) or 1.0
        for group, square in squares.items():
            sums = self._shares.setdefault(group, [0.0, 0.0])
            sums[0] += square / total
            sums[1] += square / total * row.clipped

    @property
    def clipped_share(self) -> float:
        """Of all steps."""
        return self.clipped / max(1, self.steps)

    @property
    def clipped_share_recent(self) -> float:
        """Of the last :data:`RECENT` steps."""
        recent = list(self.rows)[-RECENT:]
        return sum(row.clipped for row in recent) / max(1, len(recent))

    def finite_norms(self) -> NDArray[np.float64]:
        """Norms before clipping of the steps that are kept."""
        norms = np.array([row.norm for row in self.rows])
        finite: NDArray[np.float64] = norms[np.isfinite(norms)]
        return finite

    def causes(self) -> list[tuple[str, float]]:
        """The groups' mean shares of the squared norm, largest first: in clipped steps, if there were any."""
        which, count = (1, self.clipped) if self.clipped else (0, self.steps - self.nonfinite)
        shares = [(group, sums[which] / max(1, count)) for group, sums in self._shares.items()]
        return sorted(shares, key=lambda each: -each[1])

    def state_dict(self) -> dict[str, Any]:
        """Everything, as numbers, strings and one tensor."""
        return {
            "steps": self.steps,
            "clipped": self.clipped,
            "nonfinite": self.nonfinite,
            "algorithm": self.algorithm,
            "rows": torch.tensor(list(self.rows), dtype=torch.float64).reshape(-1, 3),
            "shares": {group: list(sums) for group, sums in self._shares.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""
        self.steps, self.clipped = state_dict["steps"], state_dict["clipped"]
        self.nonfinite, self.algorithm = state_dict["nonfinite"], state_dict["algorithm"]
        self.rows = deque((Row(*each) for each in state_dict["rows"].tolist()), maxlen=KEPT)
        self._shares = {group: list(sums) for group, sums in state_dict["shares"].items()}
