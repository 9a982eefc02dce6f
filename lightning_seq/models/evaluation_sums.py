"""The sums of a validation or a test: one TextLoss for each loader."""

import math
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_seq.errors import InputError
from lightning_seq.metrics import FIRST_LOADER, TextLoss


class EvaluationSums:
    """Sums the losses of each loader, and logs each loader's figures by the names that Lightning gives them.

    With one loader the figures are logged at the end of the epoch. With several each loader's figures are
    logged with its last batch, where Lightning knows the loader and adds ``/dataloader_idx_0`` and so on.

    Args:
        module: Whose evaluation it is.
        prefix: "val" or "test".
        new_loss: Makes the sums of a loader.
    """

    def __init__(self, module: LightningModule, prefix: str, new_loss: Any) -> None:
        self._module, self._prefix = module, prefix
        self._batches = batches_of_loaders(module.trainer)
        self.losses: list[TextLoss] = [new_loss() for _ in self._batches]
        self._figures: dict[int, dict[str, Tensor]] = {}
        if len(self._batches) > 1 and math.inf in self._batches:
            raise InputError(
                f"loader {self._batches.index(math.inf)} of {len(self._batches)} {prefix} loaders has no "
                f"length, so its end is not known: give it a __len__, or the trainer limit_{prefix}_batches"
            )

    def end_batch(self, batch_idx: int, dataloader_idx: int) -> None:
        """Logs a loader's figures with its last batch, where there are several loaders."""
        if len(self._batches) > 1 and batch_idx + 1 == self._batches[dataloader_idx]:
            self._log(dataloader_idx)

    def end(self) -> float:
        """Logs the figures of a single loader, and returns the loss of the first loader."""
        if len(self._batches) == 1:
            self._log(0)
        for i, batches in enumerate(self._batches):
            if batches and i not in self._figures:
                raise InputError(
                    f"{self._prefix} loader {i} did not reach the last of its {batches} batches: "
                    "its __len__ is too large, or an override of the step does not pass dataloader_idx on"
                )
        return float(self._figures[min(self._figures)]["loss"])

    def _log(self, i: int) -> None:
        self._figures[i] = self.losses[i].compute()
        for name, value in self._figures[i].items():
            shown = name in ("loss", "accuracy")
            self._module.log(
                f"{self._prefix}_{name}", value, on_epoch=True, prog_bar=shown, sync_dist=True, batch_size=1
            )


def batches_of_loaders(trainer: Any) -> list[int | float]:
    """Returns how many batches of each loader the present evaluation takes."""
    loops = {"validate": trainer.validate_loop, "test": trainer.test_loop}
    loop = loops.get(trainer.state.fn, trainer.fit_loop.epoch_loop.val_loop)
    return list(loop.max_batches)


def check_monitors(trainer: Any, followers: list[str]) -> None:
    """Refuses callbacks that monitor a name without a loader where there are several loaders.

    Args:
        trainer: Begins a training.
        followers: What else follows the validation loss: the first loader's, which is said.
    """
    loaders = len(trainer.fit_loop.epoch_loop.val_loop._max_batches)
    if loaders < 2:
        return
    for callback in trainer.callbacks:
        monitor = str(getattr(callback, "monitor", None))
        if monitor.startswith("val_") and "/" not in monitor:
            name = type(callback).__name__
            raise InputError(
                f"{name} monitors {monitor!r}, and each of {loaders} validation loaders has one of its own: "
                f"give trainer.callbacks a {name} with monitor {monitor + FIRST_LOADER!r}"
            )
    if followers:
        what = " and ".join(followers)
        rank_zero_info(f"{what}: of {loaders} validation loaders the first counts, val_loss{FIRST_LOADER}")
