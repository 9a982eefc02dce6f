"""How far an optimizer moves the weights in one step, beside how large they are."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

SAMPLED = 8192
"""Elements that are looked at in a larger parameter: within about 1%, if all of it moves alike."""


class UpdateSizes:
    """Keeps a sample of some weights, to be compared with what becomes of them.

    Args:
        parameters: Those to watch.
    """

    @torch.no_grad()
    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters
        self._before = [_sample(parameter).clone() for parameter in parameters]

    @torch.no_grad()
    def squares(self) -> Tensor:
        """Returns the sums of squares of the change since then and of the weights, ``(parameters, 2)``.

        They are this rank's: :meth:`weights` says how much of them counts where ranks hold shards.
        """
        rows = []
        for parameter, before in zip(self.parameters, self._before, strict=True):
            after = _sample(parameter)
            share = _local(parameter).numel() / max(1, before.numel())
            rows.append(share * torch.stack([_square(after - before), _square(before)]))
        return torch.stack(rows)

    @property
    def sharded(self) -> bool:
        """Whether ranks hold different parts, whose squares are to be added."""
        return any(hasattr(parameter, "to_local") for parameter in self.parameters)

    def weights(self, ranks: int) -> list[float]:
        """Returns one over the number of ranks that hold the same part of each parameter."""
        return [1 / _copies(parameter, ranks) for parameter in self.parameters]


def _sample(parameter: Parameter) -> Tensor:
    flat = _local(parameter).detach().reshape(-1)
    step = max(1, math.ceil(flat.numel() / SAMPLED))
    while math.gcd(step, parameter.shape[-1] if parameter.dim() else 1) > 1 < step:
        step += 1  # else the sample would keep to some columns
    return flat[::step]


def _local(parameter: Any) -> Tensor:
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local


def _square(x: Tensor) -> Tensor:
    return x.float().square().sum()


def _copies(parameter: Any, ranks: int) -> int:
    if not hasattr(parameter, "placements"):
        return ranks
    mesh = parameter.device_mesh
    same: int = math.prod(mesh.size(i) for i, each in enumerate(parameter.placements) if each.is_replicate())
    return same * (ranks // int(mesh.size()))
