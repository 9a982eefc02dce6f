"""Language models on recurrent networks that train in parallel over time."""

from typing import Any

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.networks.parallel_recurrent import MinGRU, MinLSTM


class MinGRULanguageModel(LanguageModel):
    """Language model on minimal gated recurrent units: recurrent, but trained in parallel over time.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the model.
        hidden_size: Width of the recurrent state of each block.
        num_layers: Number of blocks.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        forget_gate_bias: Sets what share of the state is kept at each step at first: its sigmoid, 0.73 for 1.
        dropout: Probability of dropping an embedding or a layer's output.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
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
        **kwargs: Any,
    ) -> None:
        network = MinGRU(
            vocab_size,
            embedding_dim,
            hidden_size,
            num_layers,
            feedforward_dim,
            forget_gate_bias,
            dropout,
            tie_weights,
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()


class MinLSTMLanguageModel(LanguageModel):
    """Language model on a minimal long short-term memory: recurrent, but trained in parallel over time.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the model.
        hidden_size: Width of the recurrent state of each block.
        num_layers: Number of blocks.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        forget_gate_bias: Sets what share of the state is kept at each step at first: its sigmoid, 0.73 for 1.
        dropout: Probability of dropping an embedding or a layer's output.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
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
        **kwargs: Any,
    ) -> None:
        network = MinLSTM(
            vocab_size,
            embedding_dim,
            hidden_size,
            num_layers,
            feedforward_dim,
            forget_gate_bias,
            dropout,
            tie_weights,
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
