"""The two ways in: ``run`` for the console script, ``from_recipe`` for notebooks."""

import json
import logging
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_seq.cli import out_of_memory, usage
from lightning_seq.cli.freed_memory import keep_freed_memory
from lightning_seq.cli.sequence_cli import SequenceCLI
from lightning_seq.cli.strategies import leave_group
from lightning_seq.errors import InputError, did_you_mean

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")
_SECTIONS = ("model", "data", "trainer", "seed_everything", "run_dir", "log_text", "weights")


def run(argv: list[str]) -> None:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``."""
    _quieten()
    keep_freed_memory()
    try:
        SequenceCLI(argv)
    except SIGTERMException as stop:  # which would exit with 0
        raise SystemExit(128 + signal.SIGTERM) from stop
    except SystemExit as stop:  # how Lightning ends a training at Ctrl-C
        raise KeyboardInterrupt if isinstance(stop.__context__, KeyboardInterrupt) else stop from None
    except Exception as error:
        _leave_progress_bars()
        explained = (
            out_of_memory.explained(argv[1:]) if out_of_memory.is_out_of_memory(error) else _explained(error)
        )
        if explained is error:
            raise
        raise explained from error
    finally:
        leave_group()


def _leave_progress_bars() -> None:
    """Lets what is said next begin on a line of its own."""
    bars = list(getattr(tqdm, "_instances", ()))
    for bar in bars:
        bar.close()
    if bars:
        sys.stdout.flush()
        print(file=sys.stderr)


def _explained(error: Exception) -> Exception:
    """Returns what a user can mend as an :class:`InputError`, and any other error as it is."""
    line = usage.first_line(error).rstrip(".")
    if isinstance(error, MisconfigurationException):
        return InputError(line)
    if type(error).__module__.startswith("wandb"):
        return InputError(f"W&B: {line}; or stay off the network by --trainer.logger.offline true")
    if isinstance(error, RuntimeError) and any(words in line for words in _LOST):
        return InputError(
            f"another process of this training died or no longer answers ({line}): what it said is above, or "
            "in its own log; go on from the newest checkpoint, with the same command, --run_dir and "
            "--resume true"
        )
    if isinstance(error, RuntimeError) and "loading state_dict" in line:
        details = str(error).split("\n\t")[1:2] or [line]
        return InputError(
            f"the checkpoint's weights do not fit the model as configured ({details[0].strip()}): leave out "
            "the options that change its shape"
        )
    if isinstance(error, ValueError) and "loaded state dict" in line:
        return InputError(
            f"the checkpoint's optimizer had other parameters than this model ({line}): leave out the "
            "options that change the model or its optimizer, or start anew without --ckpt_path"
        )
    return error


def from_recipe(name: str, **overrides: Any) -> tuple[Trainer, LightningModule, LightningDataModule]:
    """Builds what a recipe describes, ready for ``trainer.fit(model, data)``.

    Args:
        name: A recipe's name, or the path of a .yaml file.
        **overrides: What to change, nested or dotted: ``trainer={"max_steps": 10}`` or
            ``**{"data.batch_size": 8}``; ``model="LSTMLanguageModel"`` takes another class.

    Returns:
        Trainer, model and DataModule.

    Raises:
        InputError: There is no such recipe, or something in it does not fit.
    """
    _quieten()
    keep_freed_memory()
    for key in overrides:
        if key.partition(".")[0] not in _SECTIONS:
            hint = did_you_mean(key, _SECTIONS)
            raise InputError(f"a recipe has no section {key!r}{hint}: it has {', '.join(_SECTIONS)}")
    # classes before their arguments, in whatever order they were given
    options = sorted(_as_options("", overrides), key=lambda option: option.partition("=")[0].count("."))
    try:
        cli = SequenceCLI(["--config", name, *options], run=False)
    except ArgumentError as error:
        raise InputError(error.message) from error
    return cli.trainer, cli.model, cli.datamodule


def _as_options(prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and "class_path" not in value:
            yield from _as_options(f"{prefix}{key}.", value)
        else:
            yield f"--{prefix}{key}={_as_word(prefix + key, value)}"


def _as_word(key: str, value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    try:
        return json.dumps(value)
    except TypeError as error:
        raise InputError(
            f"{key} holds an object, and a recipe takes plain values and classes by name: give "
            '{"class_path": ..., "init_args": {...}}, or change what from_recipe returns, as by '
            "trainer.callbacks.append(...)"
        ) from error


def _quieten() -> None:
    """Keeps advertisements and other libraries' deprecations out of a user's terminal."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model that")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # resumed
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has its own
    warnings.filterwarnings("ignore", message="The number of training batches")  # a short text, no mistake
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _no_advertisement not in logger.filters:
        logger.addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
