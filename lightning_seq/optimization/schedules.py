"""Learning-rate schedules counted in optimizer steps."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from lightning_seq.optimization.schedule_options import Schedule, schedule_options


def learning_rate_factor(
    step: int,
    schedule: Schedule,
    warmup_steps: int = 0,
    max_steps: int = -1,
    final_learning_rate_share: float = 0.1,
    decay_steps: int = 1,
    decay_start: int = 0,
    decay_interval: int = 1,
    decay_factor: float = 1.0,
    reductions: int = 0,
) -> float:
    """Returns what the learning rate is multiplied by at ``step``, counted from 0.

    Args:
        step: Optimizer steps done before this one.
        schedule: See :class:`LearningRateSchedule`, as for all that follows.
        warmup_steps: Steps of the linear rise.
        max_steps: Where ``cosine``, ``linear`` and ``wsd`` end.
        final_learning_rate_share: What they leave.
        decay_steps: Length of the fall of ``wsd``.
        decay_start: First step that ``step`` has reduced.
        decay_interval: Steps between its reductions.
        decay_factor: What a reduction of ``step`` or ``plateau`` leaves.
        reductions: How many ``plateau`` has made.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt(warmup_steps / step)
    if schedule == "step":
        reductions = max(0, (step - decay_start) // decay_interval + 1)
    if schedule in ("step", "plateau"):
        return float(decay_factor**reductions)
    start = max(warmup_steps, max_steps - decay_steps) if schedule == "wsd" else warmup_steps
    progress = min(1.0, max(0, step - start) / max(1, max_steps - start))
    falling = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return final_learning_rate_share + (1 - final_learning_rate_share) * falling


class LearningRateSchedule(LRScheduler):
    """Multiplies the learning rates of an optimizer, after a linear warm-up, by one of seven shapes.

    To be stepped once an optimizer step. ``state_dict`` holds the position and what validations have shown,
    plain values; all else is what this object was made with, also after ``load_state_dict``, which sets the
    optimizer's learning rates anew.

    Args:
        optimizer: Its learning rates are the highest that the schedule reaches.
        schedule: After the warm-up, stay (``constant``); fall until ``max_steps`` along half a ``cosine`` or
            a line (``linear``); stay, and fall along a line in the last ``decay_steps`` (``wsd``, Hu et al.
            2024, https://arxiv.org/abs/2404.06395); fall like 1 / sqrt(step) (``inverse_sqrt``, Vaswani et
            al. 2017, https://arxiv.org/abs/1706.03762); be multiplied by ``decay_factor`` at regular steps
            (``step``, as in Zaremba et al. 2014, https://arxiv.org/abs/1409.2329) or whenever a validation
            brings no new best (``plateau``, as in PyTorch's word_language_model).
        warmup_steps: Steps over which the rate rises from near 0.
        max_steps: Length of the training; -1 if unknown.
        final_learning_rate_share: The share of the rate that ``cosine``, ``linear`` and ``wsd`` leave at the
            end (default: 0.1).
        decay_steps: Length of the fall of ``wsd`` (default: a tenth of ``max_steps``, as in the paper).
        decay_start: First step that ``step`` has reduced (default: ``decay_interval`` after the warm-up).
        decay_interval: Steps between two reductions of ``step``.
        decay_factor: What a reduction leaves (default: 0.5 for ``step``, 0.25 for ``plateau``).
        patience: Validations without a new best that ``plateau`` bears before it reduces (default: 0).

    Raises:
        InputError: An option is missing, out of range, or not one of this schedule.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        max_steps: int = -1,
        *,
        final_learning_rate_share: float | None = None,
        decay_steps: int | None = None,
        decay_start: int | None = None,
        decay_interval: int | None = None,
        decay_factor: float | None = None,
        patience: int | None = None,
    ) -> None:
        options = {
            "final_learning_rate_share": final_learning_rate_share,
            "decay_steps": decay_steps,
            "decay_start": decay_start,
            "decay_interval": decay_interval,
            "decay_factor": decay_factor,
            "patience": patience,
        }
        given = {name: value for name, value in options.items() if value is not None}
        self._shape: dict[str, Any] = schedule_options(schedule, warmup_steps, max_steps, given)
        self._patience: int = self._shape.pop("patience", 0)
        self._shape.update(schedule=schedule, warmup_steps=warmup_steps, max_steps=max_steps)
        self.best, self.failures, self.reductions = math.inf, 0, 0
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Returns the learning rate of each parameter group at the present step."""
        factor = learning_rate_factor(self.last_epoch, reductions=self.reductions, **self._shape)
        return [base * factor for base in self.base_lrs]

    def validated(self, loss: float) -> None:
        """Takes the loss of a validation into account: only ``plateau`` minds, and reduces at once.

        Args:
            loss: The same on all ranks. One that is no finite number is no new best.
        """
        if self._shape["schedule"] != "plateau":
            return
        loss = float(loss)
        if math.isfinite(loss) and loss < self.best:
            self.best, self.failures = loss, 0
        else:
            self.failures += 1
        if self.failures > self._patience:
            self.failures, self.reductions = 0, self.reductions + 1
            self._apply()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Makes ``learning_rate`` the highest that the schedule reaches, in all parameter groups."""
        self.base_lrs = [learning_rate] * len(self.base_lrs)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position and what validations have shown."""
        names = ("last_epoch", "_step_count", "best", "failures", "reductions")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a position, also from that of one of torch's schedulers."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict.get("_step_count", self.last_epoch + 1)
        self.best = state_dict.get("best", math.inf)
        self.failures = state_dict.get("failures", 0)
        self.reductions = state_dict.get("reductions", 0)
        self._apply()

    def _apply(self) -> None:
        self._last_lr = self.get_lr()
        for group, base, lr in zip(self.optimizer.param_groups, self.base_lrs, self._last_lr, strict=True):
            group["initial_lr"], group["lr"] = base, lr
