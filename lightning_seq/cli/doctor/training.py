"""How long a training is, in tokens, steps, epochs and validations, and how its learning rate goes."""

import math
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_seq.cli.doctor.report import Section
from lightning_seq.cli.doctor.sizes import Text
from lightning_seq.cli.strategies import sharing_of
from lightning_seq.errors import InputError
from lightning_seq.optimization import LearningRateSchedule


@dataclass
class Length:
    """How long training is; None where it is not known."""

    ranks: int = 1
    batches: int | None = None  # of an epoch, on each rank
    steps: int | None = None  # of the optimizer, in all
    validations: int | None = None
    epochs: float | None = None

    @property
    def batches_in_all(self) -> int | None:
        """Batches that are trained on, on each rank."""
        if self.batches is None or self.epochs is None:
            return None
        return math.ceil(self.batches * self.epochs)


def ranks_of(trainer: Trainer) -> int:
    """Returns how many processes read different data."""
    if not _knows_ranks(trainer):
        return max(1, int(trainer.world_size) // sharing_of(trainer))
    return int((trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1))


def _knows_ranks(trainer: Trainer) -> bool:
    """Returns False of FSDP2, whose mesh of devices is not there before the processes are."""
    return not isinstance(trainer.strategy, ModelParallelStrategy)


def batches_of(data: Any, trainer: Trainer, text: Text, ranks: int) -> int | None:
    """Returns the batches of an epoch on each rank.

    Raises:
        InputError: The text is too short for one.
    """
    if data is None:
        return None
    if getattr(data, "streaming", False):
        count = int(data.steps_per_epoch)
    elif text.estimated or (text.tokens and not _knows_ranks(trainer)):
        count = text.tokens["train"] // (data.batch_size * data.context_length * ranks)
    elif hasattr(data, "batches"):
        data.trainer = trainer
        count = len(data.batches("train", training=True))
    else:
        return None
    limit = trainer.limit_train_batches
    return min(count, limit) if isinstance(limit, int) else int(count * limit)


def length_of(trainer: Trainer, batches: int | None, ranks: int) -> Length:
    """Returns how long ``trainer`` trains on epochs of ``batches``."""
    length = Length(ranks, batches)
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if batches == 0:
        limits.append(0)
    if batches:
        steps = math.ceil(batches / max(1, trainer.accumulate_grad_batches))
        if (epochs := trainer.max_epochs) is not None and epochs >= 0:
            limits.append(steps * epochs)
        if limits:
            length.epochs = _epochs(min(limits), steps, batches)
    length.steps = min(limits) if limits else None
    length.validations = _validations(trainer, length)
    return length


def _epochs(in_all: int, steps: int, batches: int) -> float:
    whole, rest = divmod(in_all, steps)
    return (
        whole + min(rest * -(-batches // steps), batches) / batches
    )  # the last step of an epoch may be short


def _validations(trainer: Trainer, length: Length) -> int | None:
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if not trainer.limit_val_batches:
        return 0
    if not isinstance(interval, int | float) or length.batches is None or length.epochs is None:
        return None
    batches = length.batches_in_all or 0
    if every is None:
        return int(batches // interval) if isinstance(interval, int) else None
    within = interval if isinstance(interval, int) else max(1, int(length.batches * interval))
    whole = int(length.epochs) // every
    rest = batches % length.batches if (int(length.epochs) + 1) % every == 0 else 0
    return whole * (length.batches // within) + rest // within


def training(trainer: Trainer, data: Any, length: Length, schedule: Any, estimated: bool) -> Section:
    """Returns how long training is."""
    section, accumulated = Section("training"), trainer.accumulate_grad_batches
    rows, time = getattr(data, "batch_size", None), getattr(data, "context_length", None)
    tokens = None
    if rows and time:
        tokens = rows * time * accumulated * length.ranks
        budget = getattr(data, "tokens_per_batch", None)
        tokens = tokens if budget is None else budget * accumulated * length.ranks
        how = f"{rows} x {time:,}" if budget is None else f"{budget:,}"
        most = "at most " if getattr(data, "batching", "") == "documents" else ""
        section.add(
            "tokens per step",
            tokens,
            f"{most}{tokens:,} = {how} x {accumulated} accumulated x {_number(length.ranks, 'rank')}",
        )
    about = "about " if estimated else ""
    if length.batches is not None:
        steps = math.ceil(length.batches / max(1, accumulated))
        section.add("steps per epoch", steps, f"{about}{steps:,}")
    section.add("max_steps", trainer.max_steps, "none" if trainer.max_steps < 0 else None)
    epochs = trainer.max_epochs
    section.add("max_epochs", epochs, "none" if epochs in (None, -1) else f"{epochs:,}")
    if length.steps is not None:
        section.add("steps", length.steps)
    if length.epochs is not None:
        section.add("epochs", length.epochs, f"{about}{length.epochs:,.2f}")
    if tokens is not None and length.steps is not None:
        section.add("tokens", tokens * length.steps)
    if length.validations is not None:
        section.add("validations", length.validations)
    _add_schedule(section, schedule, length.steps)
    return section


def _add_schedule(section: Section, schedule: Any, steps: int | None) -> None:
    if not isinstance(schedule, LearningRateSchedule):
        section.add("schedule", "none" if schedule is None else type(schedule).__name__)
        return
    shape = schedule._shape
    section.add("schedule", shape["schedule"])
    at = {"start": 0, "after warm-up": shape["warmup_steps"]}
    if steps:
        at |= {"middle": steps // 2, "end": steps - 1}
    rates = {name: (step, _rate(schedule, step)) for name, step in at.items()}
    section.add(
        "learning rate",
        {name: {"step": step, "rate": rate} for name, (step, rate) in rates.items()},
        [f"{rate:.3g} at step {step:,} ({name})" for name, (step, rate) in rates.items()],
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _rate(schedule: LearningRateSchedule, step: int) -> float:
    before, schedule.last_epoch = schedule.last_epoch, step
    rate = float(schedule.get_lr()[0])
    schedule.last_epoch = before
    return rate


def check_length(trainer: Trainer, length: Length) -> None:
    """Refuses a training of no step.

    Raises:
        InputError: There is nothing to train.
    """
    if length.steps == 0:
        raise InputError(
            f"nothing is trained: trainer.max_steps is {trainer.max_steps}, max_epochs {trainer.max_epochs} "
            f"and limit_train_batches {trainer.limit_train_batches}: raise what is 0"
        )
