"""The base of every DataModule: batches that are counted, so that a stopped training goes on exactly."""

from abc import ABC, abstractmethod
from typing import Any
from weakref import WeakSet

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from lightning_seq.data.batching.batches import Batches
from lightning_seq.data.batching.loaders import SequenceLoader, TrainingLoader, counters_of
from lightning_seq.data.sources.documents import Split
from lightning_seq.data.trainer_progress import align_progress
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
        self._resume: dict[str, Any] | None = None
        self._latest: TrainingLoader | None = None
        self._made: WeakSet[TrainingLoader] = WeakSet()  # since this training began

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

    @property
    def _training(self) -> TrainingLoader | None:
        """The loader that is trained on: the trainer's, whoever else asked for one to look at."""
        used = getattr(self.trainer, "train_dataloader", None)
        return used if isinstance(used, TrainingLoader) and used in self._made else self._latest

    @property
    def _under_way(self) -> bool:
        return self.trainer is not None and any(counters_of(self.trainer)() or ())

    @property
    def _fit_begins(self) -> bool:
        """Whether Lightning asks for the first loader of a fit, and not a callback or the next epoch."""
        trainer: Any = self.trainer
        return trainer is not None and trainer.state.fn == "fit" and trainer.fit_loop._combined_loader is None

    def setup(self, stage: str) -> None:
        """Forgets where another training stood; what a checkpoint says of this one comes after it."""
        if stage == "fit" and not self._under_way:
            self._begin_at(None)

    def _begin_at(self, resume: dict[str, Any] | None) -> None:
        self._resume, self._latest, self._made = resume, None, WeakSet()

    def train_dataloader(self) -> TrainingLoader:
        """Returns the training batches, from where training stands."""
        before = self._training if self._under_way else None
        batches = self.batches("train", training=True)
        if self._fit_begins:
            align_progress(self.trainer, len(batches))
        if before is None:
            self._check_checkpoint()
        counters = counters_of(self.trainer) if self.trainer else None
        loader = TrainingLoader(batches, self._pin_memory, counters)
        if before is not None:  # a new loader for the next epoch of the same training
            loader.load_marks(before.marks())
        elif self._resume:
            loader.load_state_dict(self._resume)
            ranks = self._resume.get("ranks", [])
            loader.load_marks(ranks[self.rank] if len(ranks) == self.world_size else [])
        self._latest = loader
        self._made.add(loader)
        return loader

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

    @property
    def deals_out_rows(self) -> bool:
        """Whether all ranks together get the same rows, however many they are, if batch_size makes up for it.

        Rows are then dealt out by rank, the first batch_size of them to the first rank: what is carried from
        batch to batch follows them. A subclass whose ranks read apart says False.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """Returns where training stands on every rank, for a checkpoint; with several, all must ask."""
        if self._training is None:
            return {}
        marks: list[Any] = [self._training.marks()]
        if self.world_size > 1:
            marks = _of_data_ranks(self.rank, self.world_size, marks[0])
        return {**self._training.state_dict(), "identity": self._identity(), "ranks": marks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from where a checkpoint stood, unless it is only to be evaluated."""
        if self.trainer is None or self.trainer.state.fn in (None, "fit"):
            self._begin_at(state_dict)

    def _identity(self) -> dict[str, Plain]:
        return {**self.identity(), "world_size": self.world_size}

    def _check_checkpoint(self) -> None:
        """Compares what a checkpoint's training was fed with, if there is one, with what this one will be."""
        if self._resume:
            before, now = self._resume.get("identity", {}), self._identity()
            changes = [name for name in before if name in now and before[name] != now[name]]
            dealt = changes and self.deals_out_rows and set(changes) <= {"batch_size", "world_size"}
            if dealt and _rows_in(before) == _rows_in(now):
                changes = []
                rank_zero_info(
                    f"resume: {_rows_of(before)} rows (processes x batch_size) are now {_rows_of(now)}: the "
                    "same batches, dealt out anew; dropout is drawn anew, and consumed_hash begins anew"
                )
            what = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changes)
        else:
            elsewhere = self._under_way and self.trainer is not None and self.trainer.ckpt_path
            what = f"the data was none of a {type(self).__name__}" if elsewhere else ""
        if what and self.strict_resume:
            raise InputError(
                f"the checkpoint's training cannot go on exactly: {what}; set it back, or give "
                "data.strict_resume false to go on with the other batches"
            )
        if what:
            rank_zero_info(f"resume: {what}, so the batches are not the ones that an unbroken run would see")
            self._go_on_after_as_many_rows()

    def _go_on_after_as_many_rows(self) -> None:
        """Moves Lightning's count of batches to where as much of the epoch is consumed as it was."""
        before, now = (self._resume or {}).get("identity", {}), self._identity()
        trainer: Any = self.trainer
        if trainer is None or not {"batch_size", "world_size"} <= before.keys() & now.keys():
            return
        if _rows_in(before) == _rows_in(now):
            return
        progress, window = trainer.fit_loop.epoch_loop.batch_progress.current, trainer.accumulate_grad_batches
        batches = progress.ready * _rows_in(before) // _rows_in(now) // window * window
        shift = batches - progress.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, max(0, getattr(progress, name) + shift))


def _rows_in(identity: dict[str, Any]) -> int:
    return int(identity["batch_size"] * identity["world_size"])


def _rows_of(identity: dict[str, Any]) -> str:
    return f"{identity['world_size']} x {identity['batch_size']}"


def _of_data_ranks(rank: int, world_size: int, mine: Any) -> list[Any]:
    """Gathers what each data rank has; ranks that share their data have the same."""
    everybody: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybody, (rank, mine))
    found = dict(everybody)
    return [found[each] for each in range(world_size)]
