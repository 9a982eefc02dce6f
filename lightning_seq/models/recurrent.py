"""Recurrent language models."""

from typing import Any, Literal

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.networks.recurrent import GRU, LSTM, ElmanRNN, RecurrentInit


class RNNLanguageModel(LanguageModel):
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
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
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
        **kwargs: Any,
    ) -> None:
        network = ElmanRNN(
            vocab_size,
            embedding_dim,
            hidden_size,
            num_layers,
            nonlinearity,
            recurrent_init,
            dropout,
            tie_weights,
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()


class GRULanguageModel(LanguageModel):
    """Language model on gated recurrent units.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state.
        num_layers: Number of stacked layers.
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        tie_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        network = GRU(vocab_size, embedding_dim, hidden_size, num_layers, dropout, tie_weights)
        super().__init__(network, **kwargs)
        self.save_hyperparameters()


class LSTMLanguageModel(LanguageModel):
    """Language model on a long short-term memory.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the token embeddings.
        hidden_size: Width of the hidden state and of the cell.
        num_layers: Number of stacked layers.
        forget_gate_bias: What the forget gates' biases start at: above 0 the cell remembers at first.
        dropout: Probability of dropping an input, an output, or a value between layers.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
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
        **kwargs: Any,
    ) -> None:
        network = LSTM(
            vocab_size, embedding_dim, hidden_size, num_layers, forget_gate_bias, dropout, tie_weights
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
