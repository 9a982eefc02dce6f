"""GradientClippingMonitor: how large gradients are, and how often clipping cuts them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_seq.callbacks.clipping_seam import ClippedGradient, ClippingSeam
from lightning_seq.errors import InputError


class GradientClippingMonitor(Callback):
    """Logs the norm of the gradient, and what Trainer(gradient_clip_val=...) makes of it.

    Works with any LightningModule in automatic optimization. The norm is that of the whole gradient that the
    optimizer is about to use: accumulated, unscaled, over all ranks. At every `log_every_n_steps` it logs

    - `grad/norm`: the norm before clipping;
    - `grad/norm_clipped`: the norm after clipping;
    - `grad/clipped_share`: the share of optimizer steps that were clipped since the training began.

    Without a clip value it logs `grad/norm` alone. The trained weights are the same with and without it.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._clipped: Tensor | int = 0  # on the device of the gradients, so that counting waits for nothing
        self._norm: float | None = None
        self._limit: tuple[str, float] | None = None
        self._seam: ClippingSeam | None = None
        self._warned = False

    @property
    def clipped_steps(self) -> int:
        """How many optimizer steps were clipped; a step whose norm is not finite is not one of them."""
        return int(self._clipped)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Opens the seam."""
        if stage != "fit":
            return
        count = sum(isinstance(callback, GradientClippingMonitor) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if count > 1:
            raise InputError(
                f"got {count} GradientClippingMonitor callbacks, expected one: "
                "remove the others from trainer.callbacks"
            )
        if not pl_module.automatic_optimization:
            self._warn_once(f"{type(pl_module).__name__} optimizes manually")
        elif not ClippingSeam.fits(trainer.precision_plugin):
            self._warn_once(f"{type(trainer.precision_plugin).__name__} clips gradients in its own way")
        else:
            self._seam = ClippingSeam(trainer.precision_plugin, lambda: _is_log_step(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step, and logs at log steps."""
        if self._seam is None or trainer.fit_loop._should_accumulate():
            return
        if not self._seam.reached:
            self._warn_once(f"{type(pl_module).__name__}.configure_gradient_clipping clips in its own way")
            return
        gradient, self._limit = self._seam.gradient, self._seam.limit
        self._seam.clear()
        if gradient is None:
            self.steps += self._limit is None  # else there was no gradient at all
            return
        self.steps += 1
        self._clipped = self._clipped + gradient.clipped
        if _is_log_step(trainer):
            pl_module.log_dict(self._read(gradient))

    def _read(self, gradient: ClippedGradient) -> dict[str, float | Tensor]:
        values = [gradient.norm, gradient.norm_clipped, torch.as_tensor(self._clipped).to(gradient.norm)]
        self._norm, norm_clipped, clipped = torch.stack(values).tolist()  # the only move off the device
        assert self._norm is not None
        if self._limit is None:
            return {"grad/norm": self._norm}
        share = clipped / self.steps
        return {"grad/norm": self._norm, "grad/norm_clipped": norm_clipped, "grad/clipped_share": share}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the seam."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the seam, for Lightning tears nothing down then."""
        self._restore()

    def _restore(self) -> None:
        if self._seam is not None:
            self._seam.restore()
            self._seam = None

    def state_dict(self) -> dict[str, Any]:
        """The counts, as plain numbers."""
        return {"steps": self.steps, "clipped_steps": self.clipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting where the checkpoint stopped."""
        self.steps, self._clipped = state_dict["steps"], state_dict["clipped_steps"]

    def summary(self) -> str:
        """What happened, in one line."""
        if self._norm is None:
            return "no gradient norm was logged"
        if self._limit is None:
            return f"gradient norm {self._norm:.3g} at the end, no clipping in {self.steps:,} steps"
        share = self.clipped_steps / self.steps
        algorithm, value = self._limit
        limit = f"±{value}" if algorithm == "value" else f"{value}"
        return (
            f"gradient norm {self._norm:.3g} at the end, "
            f"{share:.0%} of {self.steps:,} steps clipped at {limit}"
        )

    def _warn_once(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"GradientClippingMonitor cannot see gradient norms and logs none: {why}")


def _is_log_step(trainer: Trainer) -> bool:
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0
