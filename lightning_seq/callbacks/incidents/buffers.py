"""Buffers of a module as they were before a step: a batch that is not finite ruins running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Noted(NamedTuple):
    owner: nn.Module
    name: str
    buffer: Tensor
    copy: Tensor


class Buffers:
    """Copies those buffers that training changes, and no others: masks and tables stay the same.

    Those that the first step changes are taken for all that change. A tensor's version does not tell: batch
    normalization changes its statistics behind it.

    Args:
        module: Whose buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [(m, name) for m in module.modules() for name, _ in m.named_buffers(recurse=False)]
        self._noted: list[_Noted] = []
        self._known = not self._places  # whether it is known which buffers change

    def remember(self) -> None:
        """Copies the buffers that change."""
        if self._noted and not self._known:
            self._known = True
            self._places = [(each.owner, each.name) for each in self._noted if _has_changed(each)]
        buffers = ((owner, name, getattr(owner, name, None)) for owner, name in self._places)
        self._noted = [
            _Noted(owner, name, buffer, buffer.detach().clone())
            for owner, name, buffer in buffers
            if buffer is not None
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Gives them the values back that they had then."""
        for each in self._noted:
            setattr(each.owner, each.name, each.buffer.copy_(each.copy))

    @contextmanager
    def as_remembered(self) -> Iterator[None]:
        """Gives them back for a while."""
        now = [(each.owner, each.name, getattr(each.owner, each.name)) for each in self._noted]
        values = [buffer.detach().clone() for _, _, buffer in now]
        self.restore()
        try:
            yield
        finally:
            with torch.no_grad():
                for (owner, name, buffer), value in zip(now, values, strict=True):
                    setattr(owner, name, buffer.copy_(value))


def _has_changed(noted: _Noted) -> bool:
    now = getattr(noted.owner, noted.name, None)
    return now is None or not torch.equal(now, noted.copy)
