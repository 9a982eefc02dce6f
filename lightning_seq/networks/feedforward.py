"""Feed-forward layers: what a block computes at each position by itself."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["swiglu", "gelu", "gelu_tanh", "relu_squared"]


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer 2020, https://arxiv.org/abs/2002.05202).

    Args:
        embedding_dim: Width of the model.
        feedforward_dim: Width inside.
        bias: Whether the linear layers have biases.
    """

    def __init__(self, embedding_dim: int, feedforward_dim: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(embedding_dim, feedforward_dim, bias=bias)
        self.up = nn.Linear(embedding_dim, feedforward_dim, bias=bias)
        self.down = nn.Linear(feedforward_dim, embedding_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, time, embedding_dim)`` in and out."""
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Plain feed-forward layer: down(activation(up(x))).

    Args:
        embedding_dim: Width of the model.
        feedforward_dim: Width inside.
        activation: ``gelu``; ``gelu_tanh``, its approximation in GPT-2; or ``relu_squared`` (So et al. 2021,
            https://arxiv.org/abs/2109.08668).
        bias: Whether the linear layers have biases.
    """

    def __init__(
        self, embedding_dim: int, feedforward_dim: int, activation: Activation, bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[activation]
        self.up = nn.Linear(embedding_dim, feedforward_dim, bias=bias)
        self.down = nn.Linear(feedforward_dim, embedding_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, time, embedding_dim)`` in and out."""
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu_squared": _relu_squared,
}


def build_feedforward(
    embedding_dim: int, feedforward_dim: int | None, activation: Activation, bias: bool
) -> nn.Module | None:
    """Returns the layer, by default of width 4 x ``embedding_dim`` or, gated, 8/3: equally many weights.

    None where ``feedforward_dim`` is 0: a block without it.
    """
    if feedforward_dim == 0:
        return None
    if activation == "swiglu":
        return SwiGLU(embedding_dim, feedforward_dim or -(-8 * embedding_dim // 24) * 8, bias)
    return MLP(embedding_dim, feedforward_dim or 4 * embedding_dim, activation, bias)
