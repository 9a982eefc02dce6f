"""Recurrent networks whose gates look at the input alone: trained in parallel over time, run step by step.

What enters the state is linear in the input, as in the paper's own minGRU and minLSTM. Its appendix makes it
positive for the sake of log space, which this scan does without: quickstart_min_gru reaches the same loss
(1.464 nats, the mean of two seeds) with both; in shorter runs tanh did worse (1.561 against 1.538 and 1.546).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import Network, check_dropout, check_sizes
from lightning_seq.networks.feedforward import SwiGLU
from lightning_seq.networks.heads import LinearHead
from lightning_seq.networks.parallel_scan import linear_recurrence
from lightning_seq.networks.spreading import plain_zeros

Gates = Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]


def min_gru_gates(maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """h_t = (1 - z_t) * h_{t-1} + z_t * c_t; the first map is of 1 - z, the gate that keeps."""
    forget, candidate = maps
    return forget.sigmoid(), (-forget).sigmoid() * candidate


def min_lstm_gates(maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """h_t = f'_t * h_{t-1} + i'_t * c_t, with f' = f / (f + i) and i' = i / (f + i)."""
    forget, enter, candidate = maps
    odds = F.logsigmoid(forget) - F.logsigmoid(enter)  # log f/i: neither 0/0 nor a loss near 1
    return odds.sigmoid(), (-odds).sigmoid() * candidate


class ParallelRecurrentBlock(nn.Module):
    """A recurrence, then a feed-forward layer, each on a normalised input and added to the stream."""

    def __init__(
        self,
        gates: Gates,
        maps: int,
        embedding_dim: int,
        hidden_size: int,
        feedforward_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.gates, self.maps = gates, maps
        self.recurrence_norm = nn.RMSNorm(embedding_dim)
        self.input = nn.Linear(embedding_dim, maps * hidden_size)  # forget gate, ..., candidate
        self.output = nn.Linear(hidden_size, embedding_dim, bias=False)
        self.feedforward_norm = nn.RMSNorm(embedding_dim)
        self.feedforward = SwiGLU(embedding_dim, feedforward_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, time, embedding_dim)`` and state ``(batch, hidden_size)``, in and out."""
        mapped = self.input(self.recurrence_norm(x))  # (batch, time, maps * hidden_size)
        mapped = mapped.to(torch.promote_types(mapped.dtype, torch.float32))  # bf16 has no gate in (0.996, 1)
        states = linear_recurrence(*self.gates(mapped.chunk(self.maps, -1)), h)  # (batch, time, hidden_size)
        x = x + self.dropout(self.output(states))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), states[:, -1]


class ParallelRecurrentNetwork(Network):
    """Embedding, blocks of recurrence and feed-forward layer, head. The subclasses choose the gates.

    The state is one tensor ``(batch, num_layers, hidden_size)``.

    Args:
        gates: From the mapped input to what to keep of the past and what to add to it.
        maps: Number of linear maps of the input that ``gates`` takes, that of the forget gate first.
        vocab_size: Number of tokens.
        embedding_dim: Width of the model.
        hidden_size: Width of the recurrent state of each block.
        num_layers: Number of blocks.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        forget_gate_bias: Sets what share of the state is kept at each step at first: its sigmoid, 0.73 for 1.
        dropout: Probability of dropping an embedding or a layer's output.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        gates: Gates,
        maps: int,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 2,
        feedforward_dim: int | None = None,
        forget_gate_bias: float = 1.0,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        check_sizes(vocab_size=vocab_size, embedding_dim=embedding_dim)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers)
        inner = -(-8 * embedding_dim // 24) * 8 if feedforward_dim is None else feedforward_dim
        if inner < 1:
            raise InputError(f"feedforward_dim is {inner}: give a width of at least 1")
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ParallelRecurrentBlock(gates, maps, embedding_dim, hidden_size, inner, dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(embedding_dim)
        self.head = LinearHead(embedding_dim, vocab_size, self.embedding if tie_weights else None)
        self.embedding_scale = embedding_dim**0.5 if tie_weights else 1.0
        self._initialise(forget_gate_bias)

    @torch.no_grad()
    def _initialise(self, forget_gate_bias: float) -> None:
        """As the Transformer's: all of unit size, but for what is added up over the depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("output.weight", "feedforward.down.weight"))
                scale = (2 * len(self.blocks)) ** -0.5 if residual else 1.0
                nn.init.normal_(parameter, std=scale * parameter.size(1) ** -0.5)
            elif name.endswith("input.bias"):
                nn.init.zeros_(parameter)
                gates = parameter.view(-1, self.hidden_size)[:-1]  # minGRU: forget; minLSTM: forget, enter
                gates[0] = forget_gate_bias
                gates[1:] = -forget_gate_bias  # f / (f + i) is then sigmoid(forget_gate_bias) too
        if self.embedding_scale == 1.0:
            nn.init.normal_(self.embedding.weight)

    def initial_state(self, batch_size: int, length: int | None = None) -> Tensor:
        """Returns zeros: a recurrent state has one size, whatever the ``length`` of the past."""
        return plain_zeros(self.embedding.weight, batch_size, len(self.blocks), self.hidden_size)

    def forward(
        self, tokens: Tensor, state: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`~lightning_seq.networks.base.Network`."""
        x = self.dropout(self.embedding(tokens) * self.embedding_scale)  # (batch, time, embedding_dim)
        before = self.initial_state(len(tokens)) if state is None else state
        after = []
        for block, h in zip(self.blocks, before.unbind(1), strict=True):
            x, h = block(x, h)
            after.append(h)
        return self.head(self.norm(x), targets), torch.stack(after, 1)


class MinGRU(ParallelRecurrentNetwork):
    """Minimal gated recurrent unit (Feng et al. 2024, https://arxiv.org/abs/2410.01201).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the model.
        hidden_size: Width of the recurrent state of each block.
        num_layers: Number of blocks.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        forget_gate_bias: Sets what share of the state is kept at each step at first: its sigmoid, 0.73 for 1.
        dropout: Probability of dropping an embedding or a layer's output.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 2,
        feedforward_dim: int | None = None,
        forget_gate_bias: float = 1.0,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__(
            min_gru_gates,
            2,
            vocab_size,
            embedding_dim,
            hidden_size,
            num_layers,
            feedforward_dim,
            forget_gate_bias,
            dropout,
            tie_weights,
        )


class MinLSTM(ParallelRecurrentNetwork):
    """Minimal long short-term memory, gates normalised (Feng et al. 2024, https://arxiv.org/abs/2410.01201).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the model.
        hidden_size: Width of the recurrent state of each block.
        num_layers: Number of blocks.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        forget_gate_bias: Sets what share of the state is kept at each step at first: its sigmoid, 0.73 for 1.
        dropout: Probability of dropping an embedding or a layer's output.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 2,
        feedforward_dim: int | None = None,
        forget_gate_bias: float = 1.0,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__(
            min_lstm_gates,
            3,
            vocab_size,
            embedding_dim,
            hidden_size,
            num_layers,
            feedforward_dim,
            forget_gate_bias,
            dropout,
            tie_weights,
        )
