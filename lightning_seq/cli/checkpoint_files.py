"""Checkpoint files that are whole or not there."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lightning_seq.errors import InputError


class WholeFiles(TorchCheckpointIO):
    """Writes beside the old file and then takes its place: whatever happens meanwhile, one of them is whole.

    Lightning's own writes to the temporary directory, often another disk, and copies from there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to a local ``path``; anything else is left to Lightning.

        Raises:
            InputError: It cannot be written; what was there before is as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch's of a full disk is a RuntimeError
            part.unlink(missing_ok=True)
            raise InputError(
                f"cannot write the checkpoint {path} ({str(error).splitlines()[0]}): make room there; the "
                "one before, if there is one, is whole"
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_whole_files(trainer: Trainer) -> None:
    """Gives the trainer :class:`WholeFiles`, unless it, or its strategy, has its own way."""
    strategy: Any = trainer.strategy
    if type(getattr(strategy, "_checkpoint_io", None)) in (TorchCheckpointIO, type(None)):
        strategy._checkpoint_io = WholeFiles()
