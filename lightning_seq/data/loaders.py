"""Loaders that Lightning leaves alone, and that go on after a stop with the very next batch."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lightning_seq.data.batching import Batch, Plan, gather
from lightning_seq.data.token_store import TokenStore

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Counters = Callable[[], "tuple[int, int] | None"]


class SequenceLoader:
    """The batches of a plan, in order.

    It is no torch DataLoader: Lightning would swap a DataLoader's sampler, and worker processes cost more
    than reading the memory map does.
    """

    def __init__(self, plan: Plan, store: TokenStore, pin_memory: bool = False) -> None:
        self.plan = plan
        self.store = store
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches(epoch=0, first=0)

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        tokens, (starts, stops) = self.store.tokens, self.plan.windows(epoch)
        for step in range(first, len(self)):
            batch = gather(tokens, starts[step], stops[step], self.plan.context_length)
            if self.plan.carries_state:
                batch["continues"] = torch.full((self.plan.batch_size,), step > 0)
            yield {name: each.pin_memory() for name, each in batch.items()} if self.pin_memory else batch


class TrainingLoader(SequenceLoader):
    """The batches of one epoch after another, wherever training stands.

    Where it stands is asked of the trainer's own counters: a loader's own would count a batch that was
    fetched but not trained on when an exception came. Without a trainer it counts for itself.
    """

    def __init__(
        self, plan: Plan, store: TokenStore, pin_memory: bool = False, counters: Counters | None = None
    ) -> None:
        super().__init__(plan, store, pin_memory)
        self._counters = counters
        self._epoch = 0
        self._position = 0
        self._resumed = False

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing may happen before the first batch is asked for, since Lightning makes the
        # iterator before it has restored its counters.
        self._epoch, self._position = self._where()
        self._resumed = False
        for batch in self._batches(self._epoch, self._position):
            self._position += 1
            yield batch

    def _where(self) -> tuple[int, int]:
        """Returns the epoch to run and the batch to begin it with."""
        if self._counters is not None and (found := self._counters()) is not None:
            return found
        if self._resumed and self._position < len(self):
            return self._epoch, self._position
        return self._epoch + (self._position > 0), 0

    def state_dict(self) -> dict[str, int]:
        """Returns where training stands: the same on every rank, since only rank 0's is saved."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from ``state`` when next iterated over without a trainer that knows better."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._resumed = True


def counters_of(trainer: "Trainer") -> Counters:
    """Returns a function that gives (epoch, batches done) while ``trainer`` fits, else None."""

    def counters() -> tuple[int, int] | None:
        if trainer.state.fn != "fit":
            return None
        epochs: Any = trainer.fit_loop.epoch_progress.current  # declared narrower than it is
        return epochs.processed, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    return counters
