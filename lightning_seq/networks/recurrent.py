"""Recurrent networks: Elman RNN, GRU and LSTM, one stack over PyTorch's fused kernels."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import Network, check_dropout
from lightning_seq.networks.heads import LinearHead

RecurrentInit = Literal["uniform", "orthogonal", "identity"]


class RecurrentNetwork(Network):
    """Embedding, a recurrent stack, head. The subclasses choose the cell.

    The state is a tuple of tensors ``(batch, num_layers, hidden_size)``: the hidden state and, for the LSTM,
    the cell's.
    """

    def __init__(
        self,
        rnn: nn.RNNBase,
        vocab_size: int,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        embedding_dim, hidden_size = rnn.input_size, rnn.hidden_size
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.1 if tie_weights else 1.0)
        self.dropout = nn.Dropout(dropout)
        self.rnn = rnn
        self.projection: nn.Module = nn.Identity()
        if tie_weights and embedding_dim != hidden_size:
            self.projection = nn.Linear(hidden_size, embedding_dim)
        self.head = LinearHead(
            embedding_dim if tie_weights else hidden_size, vocab_size, self.embedding if tie_weights else None
        )

    @property
    def _tensors_in_state(self) -> int:
        return 2 if isinstance(self.rnn, nn.LSTM) else 1

    def initial_state(self, batch_size: int, length: int | None = None) -> tuple[Tensor, ...]:
        """Returns zeros: a recurrent state has one size, whatever the ``length`` of the past."""
        weight = self.embedding.weight
        zeros = weight.new_zeros(batch_size, self.rnn.num_layers, self.rnn.hidden_size)
        return (zeros,) * self._tensors_in_state

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, ...] | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`~lightning_seq.networks.base.Network`."""
        x = self.dropout(self.embedding(tokens))  # (batch, time, embedding)
        with _full_precision_where_half_is_missing(x):
            output, new_state = self.rnn(x, self._to_torch(state))  # (batch, time, hidden)
        hidden = self.projection(self.dropout(output))
        return self.head(hidden, targets), self._from_torch(new_state)

    def _to_torch(self, state: tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
        """Torch's recurrent layers want (layers, batch, hidden), and a tuple for the LSTM only."""
        if state is None:
            return None
        layers_first = tuple(x.transpose(0, 1).contiguous() for x in state)
        return layers_first if self._tensors_in_state == 2 else layers_first[0]

    def _from_torch(self, state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        layers_first = state if isinstance(state, tuple) else (state,)
        return tuple(x.transpose(0, 1) for x in layers_first)


class ElmanRNN(RecurrentNetwork):
    """Simple recurrent network: h_t = tanh(W x_t + U h_{t-1} + b) (Elman 1990).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        nonlinearity: ``tanh`` or ``relu``.
        recurrent_init: What recurrent matrices start as: ``uniform``, as in PyTorch; or, with biases of 0,
            ``orthogonal``, which neither shrinks nor stretches (Saxe et al. 2014,
            https://arxiv.org/abs/1312.6120), or ``identity``, which with ``relu`` starts by keeping what it
            has (Le et al. 2015, https://arxiv.org/abs/1504.00941).
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        recurrent_init: RecurrentInit = "uniform",
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        if recurrent_init not in get_args(RecurrentInit):
            raise InputError(
                f"recurrent_init is {recurrent_init!r}; it must be one of {list(get_args(RecurrentInit))}"
            )
        rnn = nn.RNN(
            embedding_dim,
            hidden_size,
            num_layers,
            nonlinearity=nonlinearity,
            dropout=_between_layers(dropout, num_layers),
            batch_first=True,
        )
        super().__init__(rnn, vocab_size, dropout, tie_weights)
        self._initialise(recurrent_init)

    @torch.no_grad()
    def _initialise(self, recurrent_init: RecurrentInit) -> None:
        if recurrent_init == "uniform":
            return
        start = nn.init.orthogonal_ if recurrent_init == "orthogonal" else nn.init.eye_
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                start(parameter)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)  # else it adds up at each step


class GRU(RecurrentNetwork):
    """Gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        rnn = nn.GRU(
            embedding_dim,
            hidden_size,
            num_layers,
            dropout=_between_layers(dropout, num_layers),
            batch_first=True,
        )
        super().__init__(rnn, vocab_size, dropout, tie_weights)


class LSTM(RecurrentNetwork):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state and of the cell.
        num_layers: Number of stacked layers.
        forget_gate_bias: What the forget gates' biases start at: above 0 the cell remembers at first
            (Jozefowicz et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html). Torch's own start,
            near 0, lets gradients vanish nearly as fast as in a simple RNN.
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        forget_gate_bias: float = 1.0,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        rnn = nn.LSTM(
            embedding_dim,
            hidden_size,
            num_layers,
            dropout=_between_layers(dropout, num_layers),
            batch_first=True,
        )
        super().__init__(rnn, vocab_size, dropout, tie_weights)
        self._set_forget_gate_bias(forget_gate_bias)

    @torch.no_grad()
    def _set_forget_gate_bias(self, value: float) -> None:
        forget = slice(self.rnn.hidden_size, 2 * self.rnn.hidden_size)  # torch's order: i, f, g, o
        for name, bias in self.rnn.named_parameters():
            if name.startswith("bias_"):  # torch adds two biases: one carries the value
                bias[forget] = value if name.startswith("bias_ih") else 0.0


def _full_precision_where_half_is_missing(x: Tensor) -> AbstractContextManager[object]:
    """Turns autocast off on CPUs whose oneDNN has no bfloat16: there it fails, torch 2.13's fused LSTM."""
    if x.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return nullcontext()
    return torch.autocast("cpu", enabled=False)


def _between_layers(dropout: float, num_layers: int) -> float:
    return dropout if num_layers > 1 else 0.0  # torch warns of dropout after a single layer
