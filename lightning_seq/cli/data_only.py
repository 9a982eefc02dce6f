"""The DataModule of a recipe and its options, without model, trainer and run directory."""

import json
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

import lightning_seq.data  # noqa: F401  (classes that are known by name without their path)
from lightning_seq.cli import usage
from lightning_seq.cli.configs import configs_first
from lightning_seq.errors import InputError

CONFIG = "--config="


def build_data(words: list[str], command: str = "prepare") -> Any:
    """Returns the DataModule that ``fit`` would train on with the same recipe and options.

    Args:
        words: The command line after the command: ``--config`` and ``--data`` options.
        command: Which command asks, for what it says of wrong options.

    Raises:
        InputError: Something in it does not fit.
        ArgumentError: An option is none.
    """
    parser = _parser()
    try:
        config = parser.parse_args(list(_data_options(configs_first(words), command)))
    except ArgumentError as error:
        explained = usage.explain(error.message, parser._option_string_actions)
        raise ArgumentError(None, explained.replace("lightning-seq fit", "lightning-seq prepare")) from error
    if not config.get("data"):
        raise InputError("no data is chosen: give --config RECIPE or --data CLASS, say --data TextDataModule")
    try:
        return parser.instantiate_classes(config).data
    except Exception as error:
        unwrapped = usage.unwrapped(error)
        if unwrapped is error:
            raise
        raise unwrapped from error


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq prepare",
        description="Download and tokenize what a recipe trains on, so that training starts at once.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", "-c", help="A recipe's name, or a .yaml file; only its data section is read."
    )
    parser.add_subclass_arguments(LightningDataModule, "data", required=False)
    return parser


def _data_options(words: list[str], command: str) -> Iterator[str]:
    """Yields the line with each file's data section in place of the file."""
    for word in words:
        option = word.partition("=")[0]
        if word.startswith(CONFIG):
            yield from _section(Path(word.removeprefix(CONFIG)))
        elif option.startswith(("--model", "--trainer")):
            raise InputError(f"{command} builds only the data: leave {option} out, or give a --data option")
        else:
            yield word


def _section(file: Path) -> Iterator[str]:
    section = yaml.safe_load(file.read_text(encoding="utf-8")).get("data")
    if isinstance(section, str):
        yield f"--data={section}"
    elif section is not None:
        yield f"--data={json.dumps(section)}"
