"""Which past each target of a text is predicted from: perplexities compare under one protocol only.

A text of ``n + 1`` tokens has ``n`` targets: target ``i`` is token ``i + 1``, which follows token ``i``.
A protocol hands them out in pieces, a batch each, and every target is scored in exactly one of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import State

Piece = tuple[Tensor, Tensor]
"""The numbers of a batch's targets, and which of them are scored here: both ``(rows, time)``."""


class Protocol(ABC):
    """How a text is cut, and what is known at each cut."""

    context_length: int

    @property
    @abstractmethod
    def name(self) -> str:
        """All that is needed to score the same way again."""

    @abstractmethod
    def pieces(self, targets: int, batch_size: int) -> Iterator[Piece]:
        """Yields the batches of a text of ``targets`` targets, in order."""

    def initial_state(self, network: nn.Module) -> State:
        """Returns the state before the first piece; None where every row begins without past."""
        return None

    def check(self, network: nn.Module, targets: int) -> None:
        """Refuses what ``network``, or a text of ``targets`` targets, cannot be scored with.

        Raises:
            InputError: The protocol does not fit them.
        """
        bound = getattr(network, "context_length", None)
        if self.context_length < 1 or (bound is not None and self.context_length > bound):
            expected = "at least 1" if bound is None else f"from 1 to the network's own, {bound}"
            raise InputError(f"context_length is {self.context_length}: give one {expected}")


@dataclass(frozen=True)
class Stream(Protocol):
    """One pass over the text with the state carried through all of it.

    A recurrent network then predicts from the whole past. A Transformer keeps the last ``context_length``
    tokens beside the chunk, so that a target is predicted from that many to twice as many, as in Dai et al.
    2019 (https://arxiv.org/abs/1901.02860).

    Args:
        context_length: Tokens in a chunk, and the past that a Transformer keeps.
        lanes: Parts of nearly equal length, each begun without past, that are read side by side. One is
            exact; more are faster, and each costs the past of its first targets.
    """

    context_length: int
    lanes: int = 1

    @property
    def name(self) -> str:
        """All that is needed to score the same way again."""
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        return f"stream, {lanes}, chunks of {self.context_length}"

    def check(self, network: nn.Module, targets: int) -> None:
        """Refuses more lanes than there are targets, too."""
        super().check(network, targets)
        if not 1 <= self.lanes <= targets:
            raise InputError(f"lanes is {self.lanes}: give 1 to {targets}, as many as there are targets")

    def initial_state(self, network: nn.Module) -> State:
        """Returns the network's own, and refuses a network that carries none of its own accord."""
        make = getattr(network, "initial_state", None)
        # With a length, one whose positions are absolute makes a cache for generation: only within a window.
        if not callable(make) or make(1) is None:
            raise InputError(
                f'{type(network).__name__} keeps no state, which "stream" carries: take "sliding" or "blocks"'
            )
        return make(self.lanes, self.context_length)

    def pieces(self, targets: int, batch_size: int) -> Iterator[Piece]:
        """Yields a chunk of every lane; ``batch_size`` says nothing here."""
        bounds = torch.arange(self.lanes + 1) * targets // self.lanes
        starts, stops = bounds[:-1, None], bounds[1:, None]  # (lanes, 1)
        longest = int((stops - starts).max())
        for at in range(0, longest, self.context_length):
            places = starts + torch.arange(at, min(at + self.context_length, longest))  # (lanes, time)
            yield places.clamp(max=targets - 1), places < stops


@dataclass(frozen=True)
class Sliding(Protocol):
    """Windows that each begin without past, moved by ``stride``, of which the last targets are scored.

    A target but those of the first window is predicted from ``context_length - stride + 1`` to
    ``context_length`` tokens.

    Args:
        context_length: Tokens in a window.
        stride: How far the next window is moved, and how many targets of it are scored.
    """

    context_length: int
    stride: int

    @property
    def name(self) -> str:
        """All that is needed to score the same way again."""
        return f"sliding window, context {self.context_length}, stride {self.stride}"

    def check(self, network: nn.Module, targets: int) -> None:
        """Refuses a stride that would leave targets out, too."""
        super().check(network, targets)
        if not 1 <= self.stride <= self.context_length:
            raise InputError(f"stride is {self.stride}: give 1 to context_length, {self.context_length}")

    def pieces(self, targets: int, batch_size: int) -> Iterator[Piece]:
        """Yields ``batch_size`` windows at a time."""
        width = min(self.context_length, targets)
        windows = 1 + max(0, -(-(targets - width) // self.stride))
        column = torch.arange(width)
        for first in range(0, windows, batch_size):
            row = torch.arange(first, min(first + batch_size, windows))[:, None]  # (rows, 1)
            places = row * self.stride + column  # (rows, time)
            new = (row == 0) | (column >= width - self.stride)
            yield places.clamp(max=targets - 1), new & (places < targets)


@dataclass(frozen=True)
class Blocks(Protocol):
    """Windows that each begin without past, side by side: fast, and the first targets have little to go by.

    Args:
        context_length: Tokens in a block.
    """

    context_length: int

    @property
    def name(self) -> str:
        """All that is needed to score the same way again."""
        return f"blocks of {self.context_length}"

    def pieces(self, targets: int, batch_size: int) -> Iterator[Piece]:
        """Yields ``batch_size`` blocks at a time."""
        return Sliding(self.context_length, self.context_length).pieces(targets, batch_size)
