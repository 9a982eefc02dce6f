"""Recurrent networks: Elman RNN, GRU and LSTM, one stack over PyTorch's fused kernels."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_seq.errors import InputError
from lightning_seq.networks.base import Network, check_choice, check_dropout, check_sizes
from lightning_seq.networks.heads import build_head
from lightning_seq.networks.recurrent_layers import run_layer, states_of
from lightning_seq.networks.regularization import VariationalDropout, activation_penalty, embed
from lightning_seq.networks.spreading import plain_zeros

Nonlinearity = Literal["tanh", "relu"]
RecurrentInit = Literal["uniform", "orthogonal", "identity"]


class RecurrentNetwork(Network):
    """Embedding, a recurrent stack, head. The subclasses choose the cell.

    The state is a tuple of tensors ``(batch, layers, hidden_size)``: the hidden state and, for the LSTM, the
    cell's. All layers are one fused layer of torch, unless something comes between them (variational
    dropout, layer norm, a last layer of another width): then each is one, and has its own part of the state.

    Args:
        layer: Makes a layer of torch: ``nn.LSTM`` or the like.
        vocab_size: Number of tokens.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        last_hidden_size: Width of the last layer (default: ``hidden_size``); AWD-LSTM takes
            ``embedding_dim``.
        dropout: Probability of dropping an input, an output, or a value between layers.
        input_dropout: The same for inputs alone (default: ``dropout``).
        hidden_dropout: The same between layers (default: ``dropout``).
        output_dropout: The same for outputs (default: ``dropout``).
        embedding_dropout: Probability of dropping a word of the vocabulary from a batch.
        variational_dropout: Whether dropout has one mask for all time steps (Gal and Ghahramani 2016,
            https://arxiv.org/abs/1512.05287).
        weight_drop: Probability of dropping a connection between hidden states, for a whole sequence
            (Merity et al. 2017, https://arxiv.org/abs/1708.02182).
        activation_penalty: Factor of the outputs' mean square in the training loss: AR, alpha of AWD-LSTM.
        temporal_activation_penalty: Factor of the mean square of the outputs' change from step to step: TAR,
            beta of AWD-LSTM.
        layer_norm: Whether each layer's output is normalised.
        learn_initial_state: Whether the state before the first token is learnt, rather than 0.
        init_range: Weights and biases start uniformly within plus and minus this (default: PyTorch's start).
        tie_weights: Whether embedding and output layer share one matrix; where widths differ, a linear layer
            comes between.
        adaptive_cutoffs: Makes the output an adaptive softmax: the first id of each cluster of rarer words.
        label_smoothing: Share of each target that is spread over the vocabulary in training.
        z_loss: Factor of log(Z)^2 in the training loss, Z being the softmax's denominator.
    """

    compiles = False  # an LSTM compiled is the same kernel called, or its loop unrolled for minutes

    def __init__(
        self,
        layer: Callable[..., nn.RNNBase],
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        last_hidden_size: int | None = None,
        dropout: float = 0.0,
        input_dropout: float | None = None,
        hidden_dropout: float | None = None,
        output_dropout: float | None = None,
        embedding_dropout: float = 0.0,
        variational_dropout: bool = False,
        weight_drop: float = 0.0,
        activation_penalty: float = 0.0,
        temporal_activation_penalty: float = 0.0,
        layer_norm: bool = False,
        learn_initial_state: bool = False,
        init_range: float | None = None,
        tie_weights: bool = False,
        adaptive_cutoffs: Sequence[int] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        inputs, between, outputs = (
            dropout if each is None else each for each in (input_dropout, hidden_dropout, output_dropout)
        )
        check_dropout(dropout)
        check_dropout(inputs, "input_dropout")
        check_dropout(between, "hidden_dropout")
        check_dropout(outputs, "output_dropout")
        check_dropout(embedding_dropout, "embedding_dropout")
        check_dropout(weight_drop, "weight_drop")
        check_sizes(
            0, activation_penalty=activation_penalty, temporal_activation_penalty=temporal_activation_penalty
        )
        last = hidden_size if last_hidden_size is None else last_hidden_size
        check_sizes(
            vocab_size=vocab_size,
            embedding_dim=embedding_dim,
            hidden_size=hidden_size,
            num_layers=num_layers,
            last_hidden_size=last,
        )
        self.embedding_dropout, self.weight_drop = embedding_dropout, weight_drop
        self.activation_penalty = activation_penalty
        self.temporal_activation_penalty = temporal_activation_penalty
        dropout_layer = VariationalDropout if variational_dropout else nn.Dropout
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.1 if tie_weights else 1.0)
        self.input_dropout, self.output_dropout = dropout_layer(inputs), dropout_layer(outputs)
        self.hidden_dropout = dropout_layer(between)

        widths = [embedding_dim, *[hidden_size] * (num_layers - 1), last]
        if layer_norm or last != hidden_size or (variational_dropout and between > 0):
            layers = [layer(*each, batch_first=True) for each in pairwise(widths)]
        else:
            within = between if num_layers > 1 else 0.0  # torch warns of dropout after a single layer
            layers = [layer(embedding_dim, hidden_size, num_layers, dropout=within, batch_first=True)]
        self.layers = nn.ModuleList(layers)
        norms = [nn.LayerNorm(each.hidden_size) if layer_norm else nn.Identity() for each in layers]
        self.norms = nn.ModuleList(norms)
        self.learnt_state = nn.ParameterList(self._zeros() if learn_initial_state else [])

        self.projection: nn.Module = nn.Identity()
        if tie_weights and embedding_dim != last:
            self.projection = nn.Linear(last, embedding_dim)
        self.head = build_head(
            embedding_dim if tie_weights else last,
            vocab_size,
            self.embedding if tie_weights else None,
            True,
            adaptive_cutoffs,
            label_smoothing,
            z_loss,
        )
        if init_range is not None:
            check_sizes(0, init_range=init_range)
            for part in (self.embedding, self.layers, self.projection, self.head):
                for parameter in part.parameters():
                    nn.init.uniform_(parameter, -init_range, init_range)

    def _zeros(self) -> list[Tensor]:
        """The state before the first token, of one sequence: ``(layers * hidden_size,)`` each, as learnt.

        Vectors, since optimizers take what has more dimensions for a matrix, and let it decay.
        """
        weight = self.embedding.weight
        return [
            plain_zeros(weight, layer.num_layers * layer.hidden_size)
            for layer in self._torch_layers()
            for _ in range(states_of(layer))
        ]

    def _torch_layers(self) -> list[nn.RNNBase]:
        return list(self.layers)  # type: ignore[arg-type]

    def initial_state(self, batch_size: int, length: int | None = None) -> tuple[Tensor, ...]:
        """Returns zeros, or what was learnt: of one size, whatever the ``length`` of the past."""
        first = list(self.learnt_state) or self._zeros()
        if isinstance(first[0], DTensor):
            raise InputError(
                "learn_initial_state is True, and FSDP2 spreads what is learnt over the ranks, where a state "
                "begins on each: leave it out, or take strategy ddp"
            )
        widths = [layer.hidden_size for layer in self._torch_layers() for _ in range(states_of(layer))]
        return tuple(
            each.view(1, -1, width).expand(batch_size, -1, -1)
            for each, width in zip(first, widths, strict=True)
        )

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, ...] | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See :class:`~lightning_seq.networks.base.Network`."""
        x = self.input_dropout(embed(self.embedding, tokens, self.embedding_dropout))  # (batch, time, width)
        state = self.initial_state(len(tokens)) if state is None else state
        new_state: list[Tensor] = []
        for i, (layer, norm) in enumerate(zip(self._torch_layers(), self.norms, strict=True)):
            x = self.hidden_dropout(x) if i else x
            part = state[len(new_state) : len(new_state) + states_of(layer)]
            x, last = run_layer(layer, x, part, self.weight_drop)
            x = norm(x)
            new_state += last
        dropped = self.output_dropout(x)  # (batch, time, last_hidden_size)
        output = self.head(self.projection(dropped), targets)
        if (
            targets is not None
            and self.training
            and (self.activation_penalty or self.temporal_activation_penalty)
        ):
            output = output + activation_penalty(
                x, dropped, targets, self.activation_penalty, self.temporal_activation_penalty
            )
        return output, tuple(new_state)


class ElmanRNN(RecurrentNetwork):
    """Simple recurrent network: h_t = tanh(W x_t + U h_{t-1} + b) (Elman 1990).

    Args:
        vocab_size: Number of tokens.
        nonlinearity: ``tanh`` or ``relu``.
        recurrent_init: What recurrent matrices start as: ``uniform``, as in PyTorch; or, with biases of 0,
            ``orthogonal``, which neither shrinks nor stretches (Saxe et al. 2014,
            https://arxiv.org/abs/1312.6120), or ``identity``, which with ``relu`` starts by keeping what it
            has (Le et al. 2015, https://arxiv.org/abs/1504.00941).
        **kwargs: See :class:`RecurrentNetwork`.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        recurrent_init: RecurrentInit = "uniform",
        **kwargs: Any,
    ) -> None:
        check_choice("recurrent_init", recurrent_init, RecurrentInit)
        check_choice("nonlinearity", nonlinearity, Nonlinearity)
        layer = partial(nn.RNN, nonlinearity=nonlinearity)
        super().__init__(layer, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)
        self._initialise(recurrent_init)

    @torch.no_grad()
    def _initialise(self, recurrent_init: RecurrentInit) -> None:
        if recurrent_init == "uniform":
            return
        start = nn.init.orthogonal_ if recurrent_init == "orthogonal" else nn.init.eye_
        for name, parameter in self.layers.named_parameters():
            if "weight_hh" in name:
                start(parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)  # else it adds up at each step


class GRU(RecurrentNetwork):
    """Gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078).

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        **kwargs: See :class:`RecurrentNetwork`.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.GRU, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)


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
        **kwargs: See :class:`RecurrentNetwork`.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        forget_gate_bias: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.LSTM, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)
        self._set_forget_gate_bias(forget_gate_bias)

    @torch.no_grad()
    def _set_forget_gate_bias(self, value: float) -> None:
        for layer in self._torch_layers():
            forget = slice(layer.hidden_size, 2 * layer.hidden_size)  # torch's order: i, f, g, o
            for name, bias in layer.named_parameters():
                if name.startswith("bias_"):  # torch adds two biases: one carries the value
                    bias[forget] = value if name.startswith("bias_ih") else 0.0
