"""A run that was stopped, entered again: which checkpoint it goes on from, and what it logged so far."""

import csv
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_seq import distributed_checkpoints
from lightning_seq.cli.run_directory import of_job
from lightning_seq.errors import InputError

METRICS = "metrics.csv"


def enter(config: Any, name: str) -> Path | None:
    """Returns the directory of a run that was stopped and is to go on in it, from its newest checkpoint.

    None where a new run is to begin: also with ``resume``, where there is no run yet.

    Args:
        config: Of ``fit``; its run_dir and ckpt_path are settled.
        name: What a new run would be named after.

    Raises:
        InputError: The run cannot be known, is not there, or has no whole checkpoint.
    """
    if config.run_dir is None:
        config.run_dir = of_job(name)
    last = config.ckpt_path == "last" and config.run_dir is not None
    if not (last or config.resume or was_requeued()):
        return None
    if config.run_dir is None or (config.ckpt_path and not last):
        raise InputError(
            "resume goes on with a training in its own directory: give --run_dir, and no --ckpt_path FILE"
        )
    run, config.ckpt_path = Path(config.run_dir), None
    if not run.is_dir():
        if last:
            raise InputError(f"ckpt_path is 'last', and there is no run in {run}: give the run_dir of one")
        return None
    if (checkpoint := newest_checkpoint(run)) is not None:
        config.ckpt_path, config.weights = str(checkpoint), None
        rank_zero_info(f"resume: {run} goes on from {checkpoint.name}")
    return run


def was_requeued() -> bool:
    """Whether a scheduler started this job again after it was stopped."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def newest_checkpoint(run: Path) -> Path | None:
    """Returns the newest whole checkpoint of a run; of one that is broken it says so.

    Raises:
        InputError: There are some, and none is whole.
    """
    found = sorted(_checkpoints(run), key=lambda path: path.stat().st_mtime, reverse=True)
    broken: list[str] = []
    for path in found:
        try:
            distributed_checkpoints.read(path)
        except InputError:
            broken.append(path.name)
            continue
        if broken:
            rank_zero_info(f"resume: {', '.join(broken)} is broken; {path} is the newest whole checkpoint")
        return path
    if broken:
        raise InputError(
            f"no checkpoint in {run / 'checkpoints'} is whole ({', '.join(broken)}): begin anew, in another "
            "run_dir"
        )
    return None


def _checkpoints(run: Path) -> Iterator[Path]:
    yield from run.glob("checkpoints/*.ckpt")
    yield from run.glob("checkpoints/*.ckpt.before")  # a distributed one, between two renames


class Before:
    """What the run logged before it was stopped, which Lightning's logger would delete.

    Args:
        run: The run's directory.
        step: How many steps the training goes on after: what was logged later is logged once more.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / METRICS
        self._rows: list[dict[str, str]] = []
        if self._path.exists():
            text = self._path.read_text(encoding="utf-8")
            self._rows = [row for row in csv.DictReader(io.StringIO(text)) if _is_before(row, step)]

    def log_on(self, logger: CSVLogger) -> None:
        """Begins metrics.csv with what it held."""
        with warnings.catch_warnings():  # of the files that are there
            warnings.simplefilter("ignore")
            writer: Any = logger.experiment
        if not self._rows:
            return
        names = [name for name in self._rows[0] if name]
        part = self._path.with_name(f".{METRICS}.part")
        with part.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, names, extrasaction="ignore")
            rows.writeheader()
            rows.writerows(self._rows)
        part.replace(self._path)
        writer.metrics_keys = names

    def keep(self, config: Path) -> None:
        """Keeps the configuration that the run had, beside the one that it goes on with."""
        if config.exists():
            config.replace(config.with_name("config.before.yaml"))


def _is_before(row: dict[str, str], step: int) -> bool:
    try:
        at = int(row["step"])
    except (KeyError, ValueError, TypeError):  # cut short by whatever stopped the run
        return False
    return at < step or (at == step and not row.get("train_loss"))
