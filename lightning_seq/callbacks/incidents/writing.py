"""Saving an incident, on all ranks together, so that nothing that goes wrong with it ends the training."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_seq.callbacks.incidents import files
from lightning_seq.callbacks.incidents.figure import Incident, draw_incident
from lightning_seq.callbacks.incidents.step import StepWindow
from lightning_seq.figures import png_bytes


def save(
    trainer: Trainer,
    module: LightningModule,
    window: StepWindow,
    incident: Incident,
    most: int,
    more: Mapping[str, Any],
) -> str:
    """Saves an incident and notes in it where; returns why not, if not. All ranks must ask.

    Args:
        trainer: In the middle of the step, before the optimizer moves anything.
        module: What is trained.
        window: The batches of the step.
        incident: What happened.
        most: How many incidents a run directory may hold.
        more: What the report says besides.
    """
    part, problem = files.begin(trainer, incident.step.step, most)
    if part is None:
        return problem
    try:
        files.write_batches(part, trainer.global_rank, window, module, incident.step.step)
    except Exception as error:  # of a disk, or of somebody else's batches
        problem = repr(error)
    problem = _save_checkpoint(trainer, module, window, part / files.CHECKPOINT) or problem
    if trainer.is_global_zero and not problem:
        try:
            files.write_report(part, _report(trainer, module, window, incident) | dict(more))
            (part / files.PICTURE).write_bytes(png_bytes(draw_incident(incident)))
        except Exception as error:
            problem = repr(error)
    return _finish(trainer, part, incident, problem)


def _save_checkpoint(trainer: Trainer, module: LightningModule, window: StepWindow, path: Path) -> str:
    try:
        with window.undone(trainer, module):
            trainer.save_checkpoint(path, weights_only=False)
    except Exception as error:
        # the other ranks wait for this one at the end of save_checkpoint
        trainer.strategy.barrier("incident")
        return repr(error)
    return ""


def _finish(trainer: Trainer, part: Path, incident: Incident, problem: str) -> str:
    """Gives the directory its name where all ranks have written theirs, and removes it where not."""
    everywhere = trainer.strategy.reduce_boolean_decision(not problem, all=True)
    if not everywhere:
        problem = problem or "another rank could not write"
    if trainer.is_global_zero and problem:
        shutil.rmtree(part, ignore_errors=True)
    elif trainer.is_global_zero:
        try:
            files.finish(part)
        except OSError as error:
            problem = repr(error)
    incident.directory = "" if problem else str(part).removesuffix(files.PART)
    return problem


def _report(
    trainer: Trainer, module: LightningModule, window: StepWindow, incident: Incident
) -> dict[str, Any]:
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return {
        "step": incident.step.step,
        "reasons": incident.reasons,
        "loss": incident.step.loss,
        "norm": incident.step.norm,
        "loss_limit": incident.loss_limit,
        "norm_limit": incident.norm_limit,
        "epoch": trainer.current_epoch,
        "first_batch": batch - len(window.batches) + 1,
        "batches": len(window.batches),
        "complete": window.complete and not window.steps_taken,
        "optimizer": incident.optimizer,
        "model": type(module).__name__,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "batches_per_epoch": trainer.num_training_batches,
        "last_of_epoch": trainer.fit_loop.epoch_loop.batch_progress.is_last_batch,
        "precision": trainer.precision,
        "device": module.device.type,
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "versions": versions(),
        "evaluating": [name for name, part in module.named_modules() if not part.training],
        "layers": incident.layers,
        "history": [list(step) for step in incident.before],
    }


def versions() -> dict[str, str]:
    """Returns the versions of what a step depends on."""
    return {name: version(name) for name in ("torch", "lightning")}


@rank_zero_only
def redraw(incident: Incident) -> None:
    """Draws the picture anew, with the steps that have come since."""
    if incident.directory and incident.after:
        with suppress(OSError):  # of a directory that was moved away
            picture = Path(incident.directory) / files.PICTURE
            picture.write_bytes(png_bytes(draw_incident(incident)))
