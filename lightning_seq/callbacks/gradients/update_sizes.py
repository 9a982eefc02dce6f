"""How far an optimizer moves the weights in one step, beside how large they are."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

SAMPLED = 1024
"""Elements that are looked at in a larger parameter: within about 3%, if all of it moves alike."""


class UpdateSizes:
    """Keeps a sample of some weights, to be compared with what becomes of them.

    Args:
        parameters: Those to watch.
    """

    @torch.no_grad()
    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters
        samples = self._samples()
        self._counts = torch.tensor([len(sample) for sample in samples])
        self._before = torch.cat(samples).float()  # few operations, since each costs more than it moves

    def _samples(self) -> list[Tensor]:
        return [_sample(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def squares(self) -> Tensor:
        """Returns the sums of squares of the change since then and of the weights, ``(parameters, 2)``.

        They are this rank's: :meth:`weights` says how much of them counts where ranks hold shards.
        """
        after = torch.cat(self._samples()).float()
        both = torch.stack([after - self._before, self._before], 1)
        sizes = [_local(parameter).numel() for parameter in self.parameters]
        sums = torch.segment_reduce(both.square(), "sum", lengths=self._counts.to(both.device), axis=0)
        return sums * (torch.tensor(sizes) / self._counts.clamp(min=1)).to(sums)[:, None]

    @property
    def sharded(self) -> bool:
        """Whether ranks hold different parts, whose squares are to be added."""
        return any(hasattr(parameter, "to_local") for parameter in self.parameters)

    def weights(self, ranks: int) -> list[float]:
        """Returns one over the number of ranks that hold the same part of each parameter."""
        return [1 / _copies(parameter, ranks) for parameter in self.parameters]


def _sample(parameter: Parameter) -> Tensor:
    flat = _local(parameter).detach().reshape(-1)
    step = math.ceil(flat.numel() / SAMPLED)
    width = parameter.shape[-1] if parameter.dim() else 1
    while step > 1 and math.gcd(step, width) > 1:
        step += 1  # else the sample would keep to some columns
    return flat[:: max(1, step)]


def _local(parameter: Any) -> Tensor:
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local


def _copies(parameter: Any, ranks: int) -> int:
    if not hasattr(parameter, "placements"):
        return ranks
    mesh = parameter.device_mesh
    same: int = math.prod(mesh.size(i) for i, each in enumerate(parameter.placements) if each.is_replicate())
    return same * (ranks // int(mesh.size()))
