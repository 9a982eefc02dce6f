"""Recurrent language models."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.networks.recurrent import (
    GRU,
    LSTM,
    ElmanRNN,
    Nonlinearity,
    RecurrentInit,
    RecurrentNetwork,
)


class RecurrentLanguageModel(LanguageModel):
    """What the recurrent language models have in common; the subclasses choose the cell.

    AWD-LSTM (Merity et al. 2017, https://arxiv.org/abs/1708.02182) is an LSTM with all of its dropouts and
    penalties; the recipe awd_lstm_wikitext2 has their values.

    Args:
        network: Makes the network.
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        last_hidden_size: Width of the last layer (default: hidden_size); AWD-LSTM takes embedding_dim.
        dropout: Probability of dropping an input, an output, or a value between layers.
        input_dropout: The same for inputs alone (default: dropout).
        hidden_dropout: The same between layers (default: dropout).
        output_dropout: The same for outputs (default: dropout).
        embedding_dropout: Probability of dropping a word of the vocabulary from a batch.
        variational_dropout: Whether dropout has one mask for all time steps (Gal and Ghahramani 2016,
            https://arxiv.org/abs/1512.05287).
        weight_drop: Probability of dropping a connection between hidden states, for a whole sequence.
        activation_penalty: Factor of the outputs' mean square in the training loss: AR, alpha of AWD-LSTM.
        temporal_activation_penalty: Factor of the mean square of the outputs' change from step to step: TAR,
            beta of AWD-LSTM.
        layer_norm: Whether each layer's output is normalised.
        learn_initial_state: Whether the state before the first token is learnt, rather than 0.
        init_range: Weights and biases start uniformly within plus and minus this (default: PyTorch's start).
        tie_weights: Whether embedding and output layer share one matrix; where widths differ, a linear layer
            comes between.
        adaptive_cutoffs: Makes the output an adaptive softmax (Grave et al. 2017,
            https://arxiv.org/abs/1609.04309): the first id of each cluster of rarer words.
        label_smoothing: Share of each target that is spread over the vocabulary in training.
        z_loss: Factor of log(Z)^2 in the training loss, Z being the softmax's denominator.
        **kwargs: Optimizer and schedule, see LanguageModel.
    """

    def __init__(
        self,
        network: Callable[..., RecurrentNetwork],
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
        adaptive_cutoffs: list[int] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        **kwargs: Any,
    ) -> None:
        built = network(
            vocab_size,
            embedding_dim=embedding_dim,
            hidden_size=hidden_size,
            num_layers=num_layers,
            last_hidden_size=last_hidden_size,
            dropout=dropout,
            input_dropout=input_dropout,
            hidden_dropout=hidden_dropout,
            output_dropout=output_dropout,
            embedding_dropout=embedding_dropout,
            variational_dropout=variational_dropout,
            weight_drop=weight_drop,
            activation_penalty=activation_penalty,
            temporal_activation_penalty=temporal_activation_penalty,
            layer_norm=layer_norm,
            learn_initial_state=learn_initial_state,
            init_range=init_range,
            tie_weights=tie_weights,
            adaptive_cutoffs=adaptive_cutoffs,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        super().__init__(built, **kwargs)
        self.save_hyperparameters()


class RNNLanguageModel(RecurrentLanguageModel):
    """Language model on a simple (Elman) recurrent network.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        nonlinearity: ``tanh`` or ``relu``.
        recurrent_init: What recurrent matrices start as: ``uniform``, as in PyTorch; or, with biases of 0,
            ``orthogonal``, which neither shrinks nor stretches (Saxe et al. 2014,
            https://arxiv.org/abs/1312.6120), or ``identity``, which with ``relu`` starts by keeping what it
            has (Le et al. 2015, https://arxiv.org/abs/1504.00941).
        **kwargs: See RecurrentLanguageModel.
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
        network = partial(ElmanRNN, nonlinearity=nonlinearity, recurrent_init=recurrent_init)
        super().__init__(network, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)


class GRULanguageModel(RecurrentLanguageModel):
    """Language model on gated recurrent units.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        **kwargs: See RecurrentLanguageModel.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(GRU, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)


class LSTMLanguageModel(RecurrentLanguageModel):
    """Language model on a long short-term memory.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state and of the cell.
        num_layers: Number of stacked layers.
        forget_gate_bias: What the forget gates' biases start at: above 0 the cell remembers at first.
        **kwargs: See RecurrentLanguageModel.
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
        network = partial(LSTM, forget_gate_bias=forget_gate_bias)
        super().__init__(network, vocab_size, embedding_dim, hidden_size, num_layers, **kwargs)
