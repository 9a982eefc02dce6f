"""What every run has unless its recipe says otherwise: metrics.csv, checkpoints, a progress bar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from lightning_seq.callbacks import LastCheckpoint, ProgressBar, StopOnSignal, WandbRun
from lightning_seq.cli.enduring_loggers import enduring
from lightning_seq.models import LanguageModel


def callbacks(
    trainer: Any, model: LightningModule, run_directory: Path, log_text: bool = True
) -> list[Callback]:
    """Returns the recipe's callbacks, and what shows a training, ends it at a signal, keeps checkpoints."""
    found = as_list(trainer.get("callbacks"))
    for each in found if not log_text else ():
        if hasattr(each, "log_text"):
            each.log_text = False
    if _has(as_list(trainer.get("logger")), WandbLogger) and not _has(found, WandbRun):
        found.append(WandbRun(run_directory / "config.yaml", log_text))
    if trainer.get("enable_progress_bar") is not False and not _has(found, AnyProgressBar):
        found.append(ProgressBar())
    if not _has(found, StopOnSignal):
        found.append(StopOnSignal())
    if trainer.get("enable_checkpointing") is not False:
        found += _checkpoints(found, model, str(run_directory / "checkpoints"))
    return found


def _checkpoints(found: list[Callback], model: LightningModule, directory: str) -> Iterator[Callback]:
    if isinstance(model, LanguageModel) and not _has(found, ModelCheckpoint):
        yield _best(directory)
    if not _has(found, LastCheckpoint):
        yield LastCheckpoint(directory)


def _best(directory: str) -> ModelCheckpoint:
    return ModelCheckpoint(
        directory,
        filename="best",
        monitor="val_loss",
        enable_version_counter=False,
        save_on_train_epoch_end=False,  # an epoch may end before the first validation
    )


def loggers(trainer: Any, run_directory: Path) -> list[Logger] | bool:
    """Returns the recipe's loggers, behind one that writes metrics.csv into the run's directory."""
    chosen = trainer.get("logger")
    if chosen is False:
        return False
    found = as_list(chosen)
    if not _has(found, CSVLogger):
        found = [CSVLogger(str(run_directory), name="", version=""), *found]
    return [enduring(each) for each in found]


def as_list(value: Any) -> list[Any]:
    """Returns what Lightning takes as one thing, many or none as a list."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _has(values: list[Any], kind: type) -> bool:
    return any(isinstance(value, kind) for value in values)
