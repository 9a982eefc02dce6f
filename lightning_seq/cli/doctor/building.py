"""Data, model and trainer of a configuration, each built apart: what one of them refuses hides no other."""

import copy
import inspect
import logging
import pkgutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lightning_seq.cli import parts, usage, wandb_runs
from lightning_seq.errors import InputError

Complain = Callable[[str], None]

_PLAIN = {"plugins": None, "strategy": "auto", "devices": 1, "accelerator": "cpu", "precision": None}
_MENDING = "change trainer.accelerator, devices, strategy or precision"


@contextmanager
def complaining(complain: Complain, mending: str = "") -> Iterator[None]:
    """Turns what cannot be into a complaint of one line, and goes on.

    Args:
        complain: Is told.
        mending: What to do, where those who complained do not say it.
    """
    try:
        yield
    except Exception as error:
        found = usage.unwrapped(error)
        line = usage.first_line(found).removesuffix(" (--debug shows where)").rstrip(".")
        line = line if isinstance(found, InputError) else f"{type(found).__name__}: {line}"
        complain(f"{line}: {mending}" if mending and not isinstance(error, InputError) else line)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning from saying what hardware it found, and from warning of what is checked here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def build_data(section: Any) -> Any:
    """Returns the DataModule, or None where none is configured."""
    return _build(LightningDataModule, "data", section) if section else None


def build_model(section: Any, vocab_size: int | None) -> Any:
    """Returns the model for data of ``vocab_size`` ids, which it is given if it takes that."""
    section = copy.deepcopy(section)
    cls = pkgutil.resolve_name(section.class_path)
    if vocab_size is not None and _takes(cls, "vocab_size"):
        section["init_args.vocab_size"] = vocab_size
    return _build(LightningModule, "model", section)


def _takes(cls: Any, name: str) -> bool:
    return any(name in inspect.signature(base.__init__).parameters for base in cls.__mro__[:-1])


def _build(base: type, key: str, section: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, key, required=False)
    return parser.instantiate_classes(_namespace({key: section}))[key]


def build_trainer(config: Any, complain: Complain) -> tuple[Trainer, list[Any]]:
    """Returns the trainer, and its loggers, apart from it: they are not to write anything.

    What this machine or the installation lacks is complained of, and then left out.
    """
    section = dict(vars(copy.deepcopy(config.trainer)))
    with tempfile.TemporaryDirectory() as directory:
        with complaining(complain):
            wandb_runs.prepare(section.get("logger"), Path(directory), None, log_text=True)
        with quiet():
            loggers: list[Any] = []
            with complaining(complain, "install it, or leave the logger out"):
                loggers = parts.as_list(_arguments({"logger": section.get("logger")}).get("logger"))
            section["logger"] = False
            for less in ({}, _PLAIN):
                section.update(less)
                with complaining(complain, _MENDING):
                    arguments = _arguments({**section, "enable_progress_bar": False})
                    arguments["callbacks"] = parts.as_list(arguments.get("callbacks"))
                    return Trainer(**{**arguments, "default_root_dir": directory}), loggers
            return Trainer(accelerator="cpu", logger=False, default_root_dir=directory), loggers


def _arguments(section: dict[str, Any]) -> dict[str, Any]:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Trainer, "trainer")
    built = parser.instantiate_classes(_namespace({"trainer": _namespace(section)})).trainer
    return dict(vars(built))


def _namespace(values: dict[str, Any]) -> Namespace:
    return Namespace(**values)  # type: ignore[no-untyped-call]
