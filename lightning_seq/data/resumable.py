"""The base of every DataModule: batches that are counted, so that a stopped training goes on exactly."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from lightning_seq.data.batching.batches import Batches
from lightning_seq.data.batching.loaders import SequenceLoader, TrainingLoader, counters_of
from lightning_seq.data.sources.documents import Split
from lightning_seq.errors import InputError

Plain = str | int | float | bool | None


class ResumableDataModule(LightningDataModule, ABC):
    """A DataModule whose training goes on, after any stop, with the very next batch.

    A subclass says what its batches are, as pure functions of epoch and step, and what they depend on::

        class Noise(ResumableDataModule):
            vocab_size = 10

            def batches(self, split, training):
                return NoiseBatches(self.rank, self.world_size, training)

            def identity(self):
                return {"vocab_size": self.vocab_size}

    Args:
        strict_resume: Whether to refuse to go on from a checkpoint where the data, or how it is laid out, is
            another one: the batches to come would not be the ones that were left.
    """

    def __init__(self, strict_resume: bool = True) -> None:
        super().__init__()
        self.strict_resume = strict_resume
        self._training: TrainingLoader | None = None
        self._resume: dict[str, Any] | None = None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many ids there are. It may be asked for before anything is set up, on every rank."""

    @abstractmethod
    def batches(self, split: Split, training: bool) -> Batches:
        """Returns this rank's batches of ``split``: for training, or each target once for evaluation."""

    @abstractmethod
    def identity(self) -> dict[str, Plain]:
        """Returns all that the order and content of training batches depend on, by the arguments' names."""

    @property
    def rank(self) -> int:
        """This process among those that read different data."""
        return int(self._ranks.get("rank", 0))

    @property
    def world_size(self) -> int:
        """How many processes read different data."""
        return int(self._ranks.get("num_replicas", 1))

    @property
    def _ranks(self) -> dict[str, Any]:
        return (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}

    @property
    def consumed_hash(self) -> int | None:
        """A running CRC-32 of all inputs that this rank trained on, the same however often it was stopped."""
        return self._training.consumed_hash if self._training else None

    def setup(self, stage: str) -> None:
        """Forgets where the training before stood; what a checkpoint says comes after this."""
        if stage == "fit":
            self._resume = self._training = None

    def train_dataloader(self) -> TrainingLoader:
        """Returns the training batches, from where training stands."""
        if self._resume:
            self._check_identity(self._resume.get("identity", {}))
        counters = counters_of(self.trainer) if self.trainer else None
        before = self._training if counters and any(counters() or ()) else None
        self._training = TrainingLoader(self.batches("train", training=True), self._pin_memory, counters)
        if before is not None:  # a new loader for the next epoch of the same training
            self._training.load_marks(before.marks())
        elif self._resume:
            self._training.load_state_dict(self._resume)
            ranks = self._resume.get("ranks", [])
            if len(ranks) == self.world_size:
                self._training.load_marks(ranks[self.rank])
        return self._training

    def val_dataloader(self) -> SequenceLoader:
        """Returns the validation split, each target once."""
        return self._evaluation("validation")

    def test_dataloader(self) -> SequenceLoader:
        """Returns the test split, each target once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> SequenceLoader:
        """Returns the test split, each target once."""
        return self._evaluation("test")

    def _evaluation(self, split: Split) -> SequenceLoader:
        return SequenceLoader(self.batches(split, training=False), self._pin_memory)

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def state_dict(self) -> dict[str, Any]:
        """Returns where training stands on every rank, for a checkpoint; with several, all must ask."""
        if self._training is None:
            return {}
        marks: list[Any] = [self._training.marks()]
        if self.world_size > 1:
            marks = _of_data_ranks(self.rank, self.world_size, marks[0])
        return {**self._training.state_dict(), "identity": self._identity(), "ranks": marks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from where a checkpoint stood."""
        self._resume = state_dict or None
        self._training = None

    def _identity(self) -> dict[str, Plain]:
        return {**self.identity(), "world_size": self.world_size}

    def _check_identity(self, before: dict[str, Plain]) -> None:
        now = self._identity()
        changes = [name for name in before if name in now and before[name] != now[name]]
        if not changes:
            return
        what = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changes)
        if self.strict_resume:
            raise InputError(
                f"the checkpoint's training cannot go on exactly: {what}; set it back, or give "
                "data.strict_resume false to go on with the other batches"
            )
        rank_zero_info(f"resume: {what}, so the batches are not the ones that an unbroken run would see")


def _of_data_ranks(rank: int, world_size: int, mine: Any) -> list[Any]:
    """Gathers what each data rank has; ranks that share their data have the same."""
    everybody: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybody, (rank, mine))
    found = dict(everybody)
    return [found[each] for each in range(world_size)]
