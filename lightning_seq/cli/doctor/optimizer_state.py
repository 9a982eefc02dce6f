"""What an optimizer keeps for each parameter, found by one step on parameters of a few numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_seq.optimization import NTASGD

FEW = 12  # rows and columns at most: two, three or four gates are equal parts of it


def optimizers_of(configured: Any) -> list[Optimizer]:
    """Returns the optimizers in what a model's ``configure_optimizers`` returned."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return optimizers_of(configured.get("optimizer"))
    if isinstance(configured, list | tuple):
        return [each for part in configured for each in optimizers_of(part)]
    return []


def schedule_of(configured: Any) -> Any:
    """Returns the first schedule in what a model's ``configure_optimizers`` returned, or None."""
    found = configured.get("lr_scheduler") if isinstance(configured, dict) else None
    if isinstance(configured, tuple) and len(configured) == 2 and isinstance(configured[1], list):
        found = next(iter(configured[1]), None)
    return found.get("scheduler") if isinstance(found, dict) else found


def state_size(optimizer: Optimizer) -> int:
    """Returns the bytes that ``optimizer`` keeps after its first step; it is of no use afterwards.

    Args:
        optimizer: Its parameters may have no content: each is replaced by a small one of as many dimensions.
    """
    sizes = {}
    for group in optimizer.param_groups:
        small = [torch.zeros([min(FEW, n) for n in p.shape]) for p in group["params"]]
        for p, one in zip(group["params"], small, strict=True):
            one.grad = torch.ones_like(one)
            sizes[one] = p.numel() * p.element_size()
        group["params"] = small
        if group.get("fused"):
            group["fused"] = False
    optimizer.state.clear()
    optimizer.step()
    if isinstance(optimizer, NTASGD):  # the mean of the weights, once it has begun
        return sum(sizes.values())
    return sum(size * _copies(optimizer.state.get(p, {}), p) for p, size in sizes.items())


def _copies(state: dict[str, Any], p: Tensor) -> int:
    """Returns how many tensors of a state are as large as their parameter."""
    return sum(isinstance(each, Tensor) and each.shape == p.shape for each in state.values())
