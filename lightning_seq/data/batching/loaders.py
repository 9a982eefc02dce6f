"""Loaders that Lightning leaves alone, and that go on after a stop with the very next batch."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lightning_seq.data.batching.batches import Batch, Batches

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@runtime_checkable
class Stateful(Protocol):
    """Batches of a stream: where it stands is not to be told from the number of a step."""

    def state_dict(self) -> dict[str, Any]:
        """Returns where it stands."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``."""


Counters = Callable[[], "tuple[int, int] | None"]
Mark = dict[str, Any]


class SequenceLoader:
    """The batches of one epoch, in order.

    It is no torch DataLoader: Lightning would swap a DataLoader's sampler, and worker processes cost more
    than reading the memory map does.
    """

    def __init__(self, batches: Batches, pin_memory: bool = False) -> None:
        self.batches = batches
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._pinned, self._read(epoch=0, first=0))

    def _read(self, epoch: int, first: int) -> Iterator[Batch]:
        if first < len(self):
            yield from map(self.batches.epoch(epoch), range(first, len(self)))

    def _pinned(self, batch: Batch) -> Batch:
        return {name: each.pin_memory() for name, each in batch.items()} if self.pin_memory else batch


class TrainingLoader(SequenceLoader):
    """The batches of one epoch after another, wherever training stands.

    Where it stands is asked of the trainer's own counters: a loader's own would count a batch that was
    fetched but not trained on when an exception came. Without a trainer it counts for itself.
    """

    def __init__(self, batches: Batches, pin_memory: bool = False, counters: Counters | None = None) -> None:
        super().__init__(batches, pin_memory)
        self._counters = counters
        self._stream = batches if isinstance(batches, Stateful) else None
        self._epoch = 0
        self._position = 0
        self._resumed = False
        self._hash = 0
        # Of the last batch and the one before: it may turn out that the last was not trained on.
        self._marks: deque[Mark] = deque(maxlen=2)

    @property
    def consumed_hash(self) -> int:
        """A running CRC-32 of all inputs that this rank was given since training began."""
        return self._hash

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing may happen before the first batch is asked for, since Lightning makes the
        # iterator before it has restored its counters.
        self._epoch, self._position = self._where()
        self._resumed = False
        self._return_to_mark()
        for batch in self._read(self._epoch, self._position):
            self._position += 1
            self._hash = zlib.crc32(np.ascontiguousarray(batch["inputs"].numpy()).data, self._hash)
            self._set_mark()
            yield self._pinned(batch)

    def _where(self) -> tuple[int, int]:
        """Returns the epoch to run and the batch to begin it with."""
        if self._counters is not None and (found := self._counters()) is not None:
            return found
        if self._resumed and self._position < len(self):
            return self._epoch, self._position
        return self._epoch + (self._position > 0), 0

    def _return_to_mark(self) -> None:
        """Takes up what was so at this very position, or else after the last batch."""
        here = [mark for mark in self._marks if (mark["epoch"], mark["position"]) == self._here]
        for mark in here or list(self._marks)[-1:]:
            self._hash = mark["hash"]
            stream = mark.get("stream")
            if stream and self._stream is not None and stream != self._stream.state_dict():
                self._stream.load_state_dict(stream)
        self._set_mark()

    def _set_mark(self) -> None:
        epoch, position = self._here
        mark: Mark = {"epoch": epoch, "position": position, "hash": self._hash}
        if self._stream is not None:
            mark["stream"] = self._stream.state_dict()
        self._marks.append(mark)

    @property
    def _here(self) -> tuple[int, int]:
        return self._epoch, self._position

    def marks(self) -> list[Mark]:
        """Returns what this rank alone knows of where it stands: for its own checkpoint's entry."""
        return list(self._marks)

    def state_dict(self) -> dict[str, int]:
        """Returns where training stands: the same on every rank, since only rank 0's is saved."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from ``state``, where no trainer knows better."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._resumed = True

    def load_marks(self, marks: list[Mark]) -> None:
        """Takes this rank's entry of a checkpoint."""
        self._marks.extend(marks)
        self._hash = marks[-1]["hash"] if marks else 0


def counters_of(trainer: "Trainer") -> Counters:
    """Returns a function that gives (epoch, batches done) while ``trainer`` fits, else None."""

    def counters() -> tuple[int, int] | None:
        if trainer.state.fn != "fit":
            return None
        epochs: Any = trainer.fit_loop.epoch_progress.current  # declared narrower than it is
        return epochs.processed, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    return counters
