"""Transformer language model."""

from typing import Any

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.networks.transformer import Transformer


class TransformerLanguageModel(LanguageModel):
    """Language model on a decoder-only Transformer: pre-norm, RMSNorm, rotary positions, SwiGLU.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Attention heads in each block; 2 x num_heads must divide ``embedding_dim``.
        context_length: Longest past that is kept in generation, and the longest window to train on.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        dropout: Probability of dropping an embedding, an attention weight or a layer's output.
        rope_base: Base of the rotary wavelengths.
        tie_weights: Whether embedding and output layer share one matrix.
        **kwargs: Optimizer and schedule, see LanguageModel.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        context_length: int = 256,
        feedforward_dim: int | None = None,
        dropout: float = 0.0,
        rope_base: float = 10_000.0,
        tie_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        network = Transformer(
            vocab_size,
            embedding_dim,
            num_layers,
            num_heads,
            context_length,
            feedforward_dim,
            dropout,
            rope_base,
            tie_weights,
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
