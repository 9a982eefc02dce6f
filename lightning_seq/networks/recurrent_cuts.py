"""See the states of PyTorch's fused recurrent kernels, which return none but the last."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_seq.errors import InputError

_KERNELS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class RecurrentCuts(TorchFunctionMode):
    """Runs every fused recurrent kernel in pieces, and keeps the states between them.

    What a module computes stays the same. Works with ``nn.RNN``, ``nn.GRU``, ``nn.LSTM`` in any module, since
    all of them call one function of torch.

    Args:
        time: Tokens of the sequences.
        lags: Where to cut, each at least 1: so many tokens before the last.

    Attributes:
        states: Of each lag the tensors ``(layers, batch, hidden)`` that are carried on: from which the
            gradient of what comes later can be taken.
    """

    def __init__(self, time: int, lags: Sequence[int]) -> None:
        super().__init__()
        self.time = time
        self.states: dict[int, list[Tensor]] = {lag: [] for lag in sorted(lags, reverse=True)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _KERNELS and func is getattr(torch._VF, name):
            return self._in_pieces(func, *args)
        return func(*args, **(kwargs or {}))

    def _in_pieces(self, kernel: Any, x: Tensor, initial: Any, *rest: Any) -> tuple[Tensor, ...]:
        """Calls ``kernel``, whose last two arguments are ``bidirectional`` and ``batch_first``."""
        if isinstance(initial, Tensor) and initial.dim() == 1:  # which is where they have the lengths
            raise InputError("exact cuts no packed sequences: leave exact out")
        if rest[-2]:
            raise InputError(
                "exact follows a state forward in time, and a layer is bidirectional: leave exact out"
            )
        axis = 1 if rest[-1] else 0
        if x.size(axis) != self.time:
            raise InputError(
                f"exact cuts recurrent layers that run over all {self.time} tokens, and one runs over "
                f"{x.size(axis)}: leave exact out"
            )
        state = [initial] if isinstance(initial, Tensor) else list(initial)
        state = [each.detach().requires_grad_() for each in state]  # so that all later ones do
        ends = [0, *(self.time - lag for lag in self.states), self.time]
        pieces = torch.split(x, [b - a for a, b in pairwise(ends)], axis)
        outputs = []
        for piece, lag in zip(pieces, [*self.states, 0], strict=True):
            output, *state = kernel(piece, state if len(state) > 1 else state[0], *rest)
            outputs.append(output)
            if lag:
                self.states[lag] += state
        return (torch.cat(outputs, axis), *state)
