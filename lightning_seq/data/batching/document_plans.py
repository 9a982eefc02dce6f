"""Plans that never let one document's tokens meet another's in a row or in a carried state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lightning_seq.data.batching.plans import Indices, Plan, Rows
from lightning_seq.errors import InputError

MOST_BUCKETS = 16
FEWEST_BATCHES_OF_A_BUCKET = 8  # so that what its last batch leaves over is little


class Pieces(NamedTuple):
    """Documents cut into windows of at most a context: all arrays (pieces,)."""

    starts: Indices
    stops: Indices
    follows: Indices
    """How many pieces of the same document come before."""


def cut(bounds: Indices, context_length: int, order: Indices | None = None) -> Pieces:
    """Cuts documents into windows; a document's last token is no input, since nothing follows it.

    Args:
        bounds: Where each document starts and, last, where the text ends.
        context_length: Of a piece, at most.
        order: Of the documents.
    """
    starts, stops = bounds[:-1], bounds[1:] - 1
    if order is not None:
        starts, stops = starts[order], stops[order]
    counts = np.maximum(-(-(stops - starts) // context_length), 0)
    follows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts) + follows * context_length
    return Pieces(first, np.minimum(first + context_length, np.repeat(stops, counts)), follows)


@dataclass(frozen=True, eq=False)
class DocumentLanePlan(Plan):
    """Lanes of documents one behind the other: state is carried through a document and no further.

    A document's last row is padded, so that the next document begins a row of its own.
    """

    @cached_property
    def _bounds(self) -> Indices:
        return np.array([0, self.tokens]) if self.documents is None else np.asarray(self.documents)

    @cached_property
    def _pieces(self) -> int:
        counts = -(-(np.diff(self._bounds) - 1) // self.context_length)
        return int(np.maximum(counts, 0).sum())

    def __len__(self) -> int:
        return self._pieces // self.rows if self.training else -(-self._pieces // self.rows)

    def epoch(self, epoch: int) -> Callable[[int], Rows]:
        """Returns the pieces of each step; in training the documents are in another order each epoch."""
        order = None
        if self.training and self.shuffle:
            order = self.random(epoch).permutation(len(self._bounds) - 1)
        pieces = cut(self._bounds, self.context_length, order)
        lanes = self.of_this_rank(np.arange(self.rows) * len(self))

        def rows(step: int) -> Rows:
            at = lanes + step
            there = at < len(pieces.starts)  # the last lanes of an evaluation may be shorter
            at = np.where(there, at, 0)
            starts = pieces.starts[at]
            stops = np.where(there, pieces.stops[at], starts)
            continues = (pieces.follows[at] > 0) & there & (step > 0) & self.carries_state(epoch, step)
            return Rows(starts, stops, self.context_length, continues)

        return rows

    def _remedy(self) -> str:
        return f"its documents make {self._pieces:,} rows; lower either, or give more text"


class _Bucket(NamedTuple):
    """Rows of similar length: which pieces, how many a batch takes on a rank, how wide it is."""

    pieces: Indices
    batch_size: int
    width: int
    steps: int


@dataclass(frozen=True, eq=False)
class DocumentPlan(Plan):
    """A document a row, padded; rows of similar length share a batch. A longer document takes further rows.

    Args:
        tokens_per_batch: Rows times width of a batch on each rank; batch_size does not count then.
    """

    tokens_per_batch: int | None = None

    @cached_property
    def _pieces(self) -> Pieces:
        bounds = np.array([0, self.tokens]) if self.documents is None else np.asarray(self.documents)
        return cut(bounds, self.context_length)

    @cached_property
    def _buckets(self) -> list[_Bucket]:
        lengths = self._pieces.stops - self._pieces.starts
        by_length = np.argsort(lengths, kind="stable")
        if not len(by_length):
            return []
        self._check_budget(int(by_length[-1]), int(lengths[by_length[-1]]))
        largest = self._batch_size(int(np.median(lengths))) * self.world_size * FEWEST_BATCHES_OF_A_BUCKET
        count = min(MOST_BUCKETS, max(len(by_length) // largest, 1))
        buckets = []
        for pieces in np.array_split(by_length, count):
            width = int(lengths[pieces[-1]])
            batch_size = self._batch_size(width)
            if self.tokens_per_batch is not None:  # many short rows would fit: leave none out for that
                batch_size = max(min(batch_size, len(pieces) // self.world_size), 1)
            rows = batch_size * self.world_size
            steps = len(pieces) // rows if self.training else -(-len(pieces) // rows)
            buckets.append(_Bucket(pieces, batch_size, width, steps))
        return buckets

    def _batch_size(self, width: int) -> int:
        return self.batch_size if self.tokens_per_batch is None else self.tokens_per_batch // width

    def _check_budget(self, piece: int, length: int) -> None:
        if self.tokens_per_batch is not None and length > self.tokens_per_batch:
            start = self._pieces.starts[piece]
            document = 0 if self.documents is None else np.searchsorted(self.documents, start, "right") - 1
            raise InputError(
                f"document {document:,} makes a row of {length:,} tokens, more than tokens_per_batch "
                f"{self.tokens_per_batch:,}; raise tokens_per_batch to {length:,} or more, or lower "
                f"context_length to {self.tokens_per_batch:,} or less"
            )

    def __len__(self) -> int:
        return sum(bucket.steps for bucket in self._buckets)

    def epoch(self, epoch: int) -> Callable[[int], Rows]:
        """Returns the rows of each step; in training shuffled within buckets, and the batches among them."""
        random = self.random(epoch) if self.training and self.shuffle else None
        batches: list[tuple[int, int]] = []  # bucket, batch of the bucket
        orders = []
        for i, bucket in enumerate(self._buckets):
            orders.append(bucket.pieces if random is None else random.permutation(bucket.pieces))
            batches += [(i, step) for step in range(bucket.steps)]
        if random is not None:
            random.shuffle(batches)

        def rows(step: int) -> Rows:
            i, batch = batches[step]
            bucket = self._buckets[i]
            count = bucket.batch_size * self.world_size
            # every so many-th row, so that the rows that are missing at the end are shared by all ranks
            mine = orders[i][batch * count : (batch + 1) * count][self.rank :: self.world_size]
            starts, stops = np.zeros((2, bucket.batch_size), dtype=np.int64)
            starts[: len(mine)], stops[: len(mine)] = self._pieces.starts[mine], self._pieces.stops[mine]
            return Rows(starts, stops, bucket.width)

        return rows

    def _too_short(self) -> str:
        count = len(self._pieces.starts)
        if not (self.training and count):
            return f"none of the documents of {self.tokens:,} tokens has two, so there is nothing to predict"
        needed = f"batch_size {self.batch_size}"
        if self.tokens_per_batch is not None:
            needed = f"tokens_per_batch {self.tokens_per_batch:,}"
        ranks = f" on {self.world_size} ranks" if self.world_size > 1 else ""
        return (
            f"the training text makes {count:,} rows, too few for one batch of {needed}{ranks}; lower it, "
            "or give more text"
        )
