"""LastCheckpoint: the newest state of a training, so that little is lost however it ends."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_seq.callbacks.reset_on_fit import ResetOnFit


class LastCheckpoint(ResetOnFit, Checkpoint):
    """Keeps last.ckpt: a resumed training goes on from it with the very next batch.

    It is written at every validation (where there is none, after every epoch), at the last step, and when an
    exception or Ctrl-C ends the training. It replaces the one before only when it is whole.

    Args:
        directory: Where last.ckpt goes.
    """

    def __init__(self, directory: str) -> None:
        self.path = Path(directory) / "last.ckpt"
        self.reset()

    def reset(self) -> None:
        """Takes nothing as saved."""
        self._step = 0  # of what is saved already
        self.begun = False
        """Whether there was a batch to train on, since this training began or was resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes what the training starts from as saved."""
        self._step = trainer.global_step

    def on_train_batch_start(self, *args: Any) -> None:
        """Notes that training has begun."""
        self.begun = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves at the last step, while the loop still knows where in the epoch it is."""
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, with what the other callbacks made of the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._step = -1  # also where the last step is saved already
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where no validation does."""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if last or not trainer.enable_validation:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves what would be lost; with several ranks only on what all of them get: Ctrl-C, SIGTERM."""
        together = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if trainer.state.fn == "fit" and together and self.begun and trainer.global_step > 0:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or trainer.global_step == self._step:  # type: ignore[attr-defined]
            return
        self._step = trainer.global_step
        part = self.path.with_name("last.ckpt.part")
        try:
            trainer.save_checkpoint(part, weights_only=False)  # all that a resumed training needs
            if trainer.is_global_zero:
                _put(part, self.path)
        finally:
            if trainer.is_global_zero:
                _remove(part)


def _put(part: Path, path: Path) -> None:
    """Puts a new checkpoint in the place of an old one; a distributed one is a directory."""
    if not (part.is_dir() or path.is_dir()):
        part.replace(path)
        return
    before = path.with_name(f"{path.name}.before")  # what there is if the machine stops between two renames
    if path.exists():
        _remove(before)
        path.replace(before)
    part.replace(path)
    _remove(before)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
