"""Parameter groups, the optimizer and learning-rate schedules counted in steps."""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_seq.errors import InputError

Schedule = Literal["constant", "cosine", "linear"]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Returns two groups: matrices, which decay, and biases and gains, which do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(
    module: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float], fused: bool
) -> torch.optim.AdamW:
    """Returns AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) for ``module``."""
    groups = [group for group in parameter_groups(module, weight_decay) if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def set_hyperparameters(
    optimizer: Any, schedule: Any, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> None:
    """Lets these values win over the ones that a checkpoint gave to optimizer and schedule."""
    schedule.base_lrs = [learning_rate] * len(optimizer.param_groups)
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        decays = group["params"][0].dim() >= 2
        group["lr"] = learning_rate * factor(schedule.last_epoch)
        group["initial_lr"], group["betas"] = learning_rate, betas
        group["weight_decay"] = weight_decay if decays else 0.0


def learning_rate_factor(
    step: int, schedule: Schedule, warmup_steps: int, max_steps: int, final_share: float
) -> float:
    """Returns what the learning rate is multiplied by at ``step``, counted from 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    falling = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return final_share + (1 - final_share) * falling


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    warmup_steps: int,
    max_steps: int,
    final_share: float,
) -> LambdaLR:
    """Returns a scheduler to be stepped once an optimizer step.

    Args:
        optimizer: Its learning rates are the highest that the schedule reaches.
        schedule: After the warm-up, stay (``constant``) or fall until ``max_steps`` along half a
            ``cosine`` or a line (``linear``).
        warmup_steps: Steps over which the rate rises from near 0.
        max_steps: Length of the training; -1 if unknown.
        final_share: The share of the rate that is left at the end.

    Raises:
        InputError: The rate is to fall until an end that is not known.
    """
    if schedule != "constant" and max_steps < 0:
        raise InputError(
            f"schedule {schedule!r} falls until the last step, and trainer.max_steps is not set: "
            "set it, or take schedule: constant"
        )
    return LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, schedule, warmup_steps, max_steps, final_share)
    )
