"""Which tokens make which batch: plans that are pure functions of (seed, epoch, step, rank, world size).

A plan gives every row of every batch as a window [start, stop): the row's inputs are tokens[start:stop] and
its targets tokens[start + 1:stop + 1]. Nothing here knows of files or of Lightning.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_seq.data.batching.draws import Draws
from lightning_seq.errors import InputError

FEWEST_TOKENS = 2  # one to read, one to predict

Batching = Literal["contiguous", "blocks", "documents"]
Indices = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """One batch of a rank: the windows of its rows (batch,), and how wide it is."""

    starts: Indices
    stops: Indices
    width: int
    continues: npt.NDArray[np.bool_] | None = None
    """Whether each row goes on where the same row of the batch before ended; None without carried state."""


@dataclass(frozen=True, eq=False)
class Plan(ABC):
    """The batches of one split on one rank: every rank has equally many, of the same shapes.

    Training batches are full, and what is left over at the end changes from epoch to epoch. Evaluation scores
    every target exactly once over all ranks; what fills up the last rows is marked in the targets.

    Args:
        tokens: Length of the text in tokens.
        batch_size: Rows of a batch on each rank.
        context_length: Columns of a batch.
        rank: This process.
        world_size: All processes.
        training: Full batches in another order each epoch, rather than every target once in order.
        shuffle: Set to False for training batches that are the same in every epoch.
        seed: Of the order of training batches.
        documents: Where each document starts and, last, where the text ends; None for one document.
        reset_probability: Probability that a row of a training batch starts from the initial state although
            its text continues; only for plans that carry state.
    """

    tokens: int
    batch_size: int
    context_length: int
    rank: int = 0
    world_size: int = 1
    training: bool = False
    shuffle: bool = True
    seed: int = 0
    documents: Indices | None = field(default=None, repr=False)
    reset_probability: float = 0.0

    def __post_init__(self) -> None:
        if len(self) < 1:
            raise InputError(self._too_short())

    @property
    def rows(self) -> int:
        """Rows of a step over all ranks."""
        return self.batch_size * self.world_size

    @property
    def targets(self) -> int:
        """All tokens but the first are targets."""
        return max(self.tokens - 1, 0)

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch, the same in every epoch and on every rank."""

    @abstractmethod
    def epoch(self, epoch: int) -> Callable[[int], Rows]:
        """Returns the function from a step of ``epoch`` to this rank's rows."""

    def random(self, epoch: int) -> np.random.Generator:
        """Returns the source of all randomness of ``epoch``."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))

    def of_this_rank(self, rows: Indices) -> Indices:
        """Picks this rank's rows out of those of all ranks (..., rows)."""
        return rows[..., self.rank * self.batch_size : (self.rank + 1) * self.batch_size]

    def carries_state(self, epoch: int, step: int) -> npt.NDArray[np.bool_]:
        """Returns which of this rank's rows keep their carried state at ``step``, (batch,).

        A training that reads its text once would otherwise start from the initial state at its first step
        alone, and a network that never learns to start cannot continue a prompt.
        """
        if not (self.training and self.reset_probability):
            return np.full(self.batch_size, True)
        rows = self.of_this_rank(step * self.rows + np.arange(self.rows))
        draws = Draws(self.seed, epoch if self.shuffle else 0, rows).bits(1)[:, 0]
        return draws >= np.uint64(self.reset_probability * 2.0**64)

    def _too_short(self) -> str:
        if not self.training:
            return f"a text of {self.tokens:,} tokens has nothing to predict; give at least {FEWEST_TOKENS}"
        ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
        return (
            f"the training text has {self.tokens:,} tokens, too few for one batch of batch_size "
            f"{self.batch_size} x context_length {self.context_length}{ranks}, which takes "
            f"{self.rows * self.context_length + 1:,}; {self._remedy()}"
        )

    def _remedy(self) -> str:
        batch_size = self.targets // (self.context_length * self.world_size)
        context_length = self.targets // self.rows
        remedies = [f"lower batch_size to {batch_size} or less"] if batch_size else []
        remedies += [f"lower context_length to {context_length} or less"] if context_length else []
        return " or ".join(remedies or ["lower both"]) + ", or give more text"


class ContiguousPlan(Plan):
    """Lanes: row i of a batch continues row i of the batch before, for state carried through the text."""

    def __len__(self) -> int:
        if self.training:
            return self.targets // self.rows // self.context_length
        return -(-self._lane_length() // self.context_length)

    def _lane_length(self) -> int:
        if self.training:
            return len(self) * self.context_length
        return -(-self.targets // self.rows)

    def epoch(self, epoch: int) -> Callable[[int], Rows]:
        """Returns the columns of lanes that lie one behind the other in the text."""
        length, end = self._lane_length(), self.targets
        offset = 0
        if self.training and self.shuffle:
            offset = int(self.random(epoch).integers(end - self.rows * length + 1))
        lanes = self.of_this_rank(offset + np.arange(self.rows) * length)
        ends = np.minimum(lanes + length, end)

        def rows(step: int) -> Rows:
            starts = np.minimum(lanes + step * self.context_length, ends)
            stops = np.minimum(starts + self.context_length, ends)
            width = min(self.context_length, length)
            return Rows(starts, stops, width, self.carries_state(epoch, step) & (step > 0))

        return rows


class BlockPlan(Plan):
    """Independent windows that overlap by the one token that is a target here and an input there."""

    def __len__(self) -> int:
        if self.training:
            return self.targets // self.context_length // self.rows
        return -(-self.targets // (self.context_length * self.rows))

    def epoch(self, epoch: int) -> Callable[[int], Rows]:
        """Returns the windows of each step: in training shuffled, and cut at other places each epoch."""
        needed, length = len(self) * self.rows, self.context_length
        starts = np.arange(needed) * length
        if self.training and self.shuffle:
            random = self.random(epoch)
            # of the text alone, where there is room: an epoch goes on in its order with other rows a step
            phase = min(int(random.integers(length)), self.targets - needed * length)
            starts = phase + random.permutation((self.targets - phase) // length)[:needed] * length
        mine = self.of_this_rank(np.minimum(starts, self.targets).reshape(len(self), self.rows))

        def rows(step: int) -> Rows:
            width = min(length, self.targets)
            return Rows(mine[step], np.minimum(mine[step] + length, self.targets), width)

        return rows
