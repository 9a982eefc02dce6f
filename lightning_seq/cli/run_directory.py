"""One new directory for each run, the same on every rank, never one that exists."""

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

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


def of_job(name: str) -> str | None:
    """Returns where a batch job of SLURM writes: all of its processes, also when it is requeued, know it."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    return f"runs/{name}-job{f'{array}_{task}' if array and task else job}"


def create(name: str, chosen: str | None = None) -> Path:
    """Makes and returns ``runs/<name>-<n>`` with the first free number, or the directory ``chosen``.

    Raises:
        InputError: ``chosen`` exists, or this process cannot know what the first one makes.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return _of_rank_zero(chosen)
    path = _make(Path(chosen)) if chosen else _first_free(name)
    tell(path)
    return path


def tell(path: Path) -> None:
    """Tells the other ranks where this run writes."""
    os.environ[VARIABLE] = str(path)
    if (store := _agents_store()) is not None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        store.set(VARIABLE, str(path))


def _of_rank_zero(chosen: str | None) -> Path:
    if chosen or VARIABLE in os.environ:
        return Path(os.environ.get(VARIABLE) or str(chosen))
    if (store := _agents_store()) is not None:
        return Path(store.get(VARIABLE).decode())
    raise InputError(
        "several processes were started from outside, and none but the first knows its run directory: give "
        "--run_dir, one for all"
    )


def _agents_store() -> Any:
    """The store of torchrun's agent, which all of its processes can ask before they form a group."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    stores: Any = distributed  # which does not export them explicitly
    store = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return stores.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


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
