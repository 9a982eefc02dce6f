"""One new directory for each run, the same on every rank, never one that exists."""

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lightning_seq import recipes
from lightning_seq.errors import InputError

VARIABLE = "LIGHTNING_SEQ_RUN_DIR"
"""Tells the processes that Lightning starts for the other ranks what rank zero chose."""


def run_name(configs: list[str], model: str, subcommand: str) -> str:
    """Returns what to name a run: after the last config file that names a model, or else after its model."""
    if len(configs) > 1:
        configs = [each for each in configs if "model" in recipes.content(Path(each))] or configs
    path = Path(configs[-1]) if configs else Path(model.rpartition(".")[2])
    name = path.stem
    if name == "config":  # the resolved configuration of an earlier run
        name = re.sub(r"-\d+$", "", path.resolve().parent.name)
    name = re.sub(r"[^\w.-]", "_", name)  # no colons, no separators: it becomes a directory
    return name if subcommand == "fit" else f"{name}-{subcommand}"


def create(name: str, chosen: str | None = None) -> Path:
    """Makes and returns ``runs/<name>-<n>`` with the first free number, or the directory ``chosen``.

    Raises:
        InputError: ``chosen`` exists.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return Path(os.environ.get(VARIABLE, chosen or f"runs/{name}"))
    path = _make(Path(chosen)) if chosen else _first_free(name)
    os.environ[VARIABLE] = str(path)
    return path


def _make(path: Path) -> Path:
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(
            f"run_dir {path} exists already: give a new directory, nothing is overwritten"
        ) from error
    return path


def remove_what_is_ours(path: Path) -> None:
    """Removes a run's directory if it holds nothing but what every run begins with."""
    for name in ("config.yaml", "hparams.yaml", "metrics.csv"):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else is there: it stays
        path.rmdir()


def _first_free(name: str) -> Path:
    for number in itertools.count(1):
        path = Path("runs", f"{name}-{number}")
        try:
            path.mkdir(parents=True)  # fails where another process took the number: no look before the leap
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")
