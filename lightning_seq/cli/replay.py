"""What ``lightning-seq replay`` does: the step of an incident, run again from what was saved of it."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_seq import checkpoints
from lightning_seq.callbacks.incidents import files
from lightning_seq.callbacks.incidents.step import random_states, restore_random_states
from lightning_seq.callbacks.incidents.writing import versions
from lightning_seq.cli.replay_probe import Probe, saved_batches
from lightning_seq.errors import InputError

_SHOWN_ROWS = 3


def replay(
    directory: str | Path, trust: bool = False, model: LightningModule | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Runs the step of an incident again: same weights, batches, carried state, random numbers and mode.

    What ran on several ranks runs on as many processes. Nothing is compiled.

    Args:
        directory: What :class:`~lightning_seq.callbacks.gradient_incidents.GradientIncidentRecorder` saved.
        trust: Whether a class outside this package that the checkpoint names may be imported.
        model: The module that was trained, with any weights; by default it is built from the checkpoint.
        device: ``cpu``, ``cuda``, or ``auto``: the kind it was recorded on, where there is one.

    Returns:
        Plain values: what :mod:`lightning_seq.cli.replay_report` prints.

    Raises:
        InputError: It is no whole directory of an incident, or its step cannot be run again.
    """
    directory = Path(directory)
    report = _report(directory)
    kind = _device(device, report)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_arithmetic(report))
        model = _model(directory / files.CHECKPOINT, trust) if model is None else model
        stack.enter_context(_batches_as_they_are(model))
        found = _run(directory, report, model, kind)
    return _result(directory, report, found, kind)


def _report(directory: Path) -> dict[str, Any]:
    """Returns what is known of an incident, having refused what cannot be run again."""
    report = files.read_report(directory)
    if not report["complete"]:
        raise InputError(
            f"{directory} does not hold all that its step began with (training was resumed within it, or "
            "several optimizers share its batches): read its incident.json and batches-rank0.txt"
        )
    path = directory / files.CHECKPOINT
    if path.is_dir():
        raise InputError(
            f"{path} is in parts, as sharded training writes it, and replay takes a single file: let the "
            "strategy save one (save_distributed_checkpoint=False) before the next incident"
        )
    checkpoints.read(path)
    for rank in range(report["world_size"]):
        if (name := files.unsaved(files.read_batches(directory, rank)["batches"])) is not None:
            raise InputError(
                f"the batches of {directory} held a {name}, and only tensors, plain values and their "
                "containers are saved: let the data give such batches"
            )
    return report


def _device(wanted: str, report: dict[str, Any]) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and (not there or report["world_size"] > 1):
        why = "torch finds none" if not there else "several ranks are run again on the CPU alone"
        raise InputError(f"device is cuda, and {why}: give --device cpu")
    if wanted == "auto":
        return "cuda" if there and report["device"] == "cuda" and report["world_size"] == 1 else "cpu"
    return wanted


def _model(path: Path, trust: bool) -> LightningModule:
    try:
        model: LightningModule = checkpoints.load(path, trust)
    except TypeError as error:  # arguments that it did not keep
        raise InputError(
            f"{path} does not hold what its class is built with ({error}): call save_hyperparameters() in "
            "its __init__, or give a model to lightning_seq.cli.replay.replay"
        ) from error
    return model


def _run(directory: Path, report: dict[str, Any], model: LightningModule, kind: str) -> list[dict[str, Any]]:
    """Returns what each rank's probe found."""
    ranks = report["world_size"]
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(directory, report["evaluating"], Path(folder))
        try:
            trainer = _trainer(report, kind, probe)
            batches = saved_batches(directory, report, trainer)
            trainer.fit(model, batches, ckpt_path=directory / files.CHECKPOINT, weights_only=True)
        except Exception as error:
            if not probe.has_found(ranks):  # else it was the probe that ended the training
                raise InputError(f"the step cannot be run again: {_line(error)}") from error
        if not probe.has_found(ranks):
            raise InputError(f"{directory} holds no step: its training_step returned no loss when run again")
        return probe.found(ranks)


def _trainer(report: dict[str, Any], kind: str, probe: Probe) -> Trainer:
    ranks, precision = report["world_size"], report["precision"]
    half_on_cpu = precision == "16-mixed" and kind == "cpu"  # which Lightning refuses by name
    how: dict[str, Any] = {"precision": precision}
    if half_on_cpu:
        how = {"plugins": [MixedPrecision("16-mixed", "cpu")]}
    return Trainer(
        accelerator="gpu" if kind == "cuda" else "cpu",
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        accumulate_grad_batches=report["accumulate_grad_batches"],
        max_epochs=report["max_epochs"],
        max_steps=report["max_steps"],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[probe],
        **how,
    )


def _result(
    directory: Path, report: dict[str, Any], found: list[dict[str, Any]], kind: str
) -> dict[str, Any]:
    rows = [{"rank": rank, **row} for rank, each in enumerate(found) for row in each["rows"]]
    rows.sort(key=lambda row: row["order"], reverse=True)
    usual = {name: before for name, (_, before) in report["layers"].items()}
    layers = [[name, norm, usual.get(name)] for name, norm in found[0]["layers"].items()]
    return {
        "incident": str(directory),
        **{name: report[name] for name in ("step", "reasons", "model", "precision", "batches")},
        "ranks": report["world_size"],
        "recorded_on": report["device"],
        "replayed_on": kind,
        "versions": {"recorded": report["versions"], "replayed": versions()},
        "loss": {"recorded": report["loss"], "replayed": found[0]["loss"]},
        "norm": {"recorded": report["norm"], "replayed": found[0]["norm"]},
        "layers": layers,
        "first_not_finite": next((each["broken"] for each in found if each["broken"]), None),
        "weights_not_finite": found[0]["weights"],
        "rows": [{k: v for k, v in row.items() if k != "order"} for row in rows[:_SHOWN_ROWS]],
    }


@contextmanager
def _batches_as_they_are(model: Any) -> Iterator[None]:
    """Keeps hooks from changing batches that they have changed before they were saved."""
    names = ("on_before_batch_transfer", "on_after_batch_transfer")
    kept = {name: vars(model)[name] for name in names if name in vars(model)}
    vars(model).update({name: lambda batch, dataloader_idx: batch for name in names})
    try:
        yield
    finally:
        for name in names:
            vars(model).pop(name)
        vars(model).update(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """No advertisements, and no trace in random numbers."""
    names = ("lightning.pytorch", "lightning.fabric", "torch.multiprocessing.spawn")
    loggers = [logging.getLogger(name) for name in names]
    levels, device = [each.level for each in loggers], torch.device("cpu")
    states = random_states(device)
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        restore_random_states(states, device)
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def _arithmetic(report: dict[str, Any]) -> Iterator[None]:
    """Lets sums be taken in the order, and products as precisely, as they were; nothing is compiled."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    # threads do not survive the forks of several ranks
    torch.set_num_threads(report["threads"] if report["world_size"] == 1 else 1)
    torch.set_float32_matmul_precision(report["matmul_precision"])
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _line(error: BaseException) -> str:
    """The last line that says something: that of a process is under its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
