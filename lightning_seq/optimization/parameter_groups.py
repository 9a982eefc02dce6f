"""Which parameters decay."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns up to two groups: matrices, which decay, and biases and gains, which do not.

    A shared parameter is in them once, a frozen one not at all, and no group is empty.

    Args:
        module: What is trained.
        weight_decay: Of the matrices.
    """
    return decay_groups((p for p in module.parameters() if p.requires_grad), weight_decay)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Returns what :func:`parameter_groups` does, of ``parameters`` alone."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay is for ``parameter``: a bias or a gain, being a vector, is left alone."""
    return parameter.dim() >= 2
