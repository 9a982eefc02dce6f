"""Transformer language models."""

from typing import Any

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.networks.feedforward import Activation
from lightning_seq.networks.transformer import Initialization, Norm, Positions, Transformer


class TransformerLanguageModel(LanguageModel):
    """Language model on a decoder-only Transformer: pre-norm, the parts by arguments.

    GPT-2's architecture is norm: layer, activation: gelu_tanh, positions: learned, bias: true,
    initialization: gpt2; the recipe gpt2_124m has its sizes.

    Args:
        vocab_size: Number of tokens; the command line takes it from the data.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Attention heads in each block; 2 x num_heads must divide embedding_dim.
        context_length: Longest past that is kept in generation, and the longest window to train on.
        feedforward_dim: Width inside the feed-forward layers (default: 4 x embedding_dim; with swiglu 8/3,
            rounded up to a multiple of 8); 0 for blocks of attention alone (Elhage et al. 2021,
            https://transformer-circuits.pub/2021/framework/index.html).
        dropout: Probability of dropping an embedding, an attention weight or a layer's output.
        rope_base: Base of the rotary wavelengths.
        tie_weights: Whether embedding and output layer share one matrix.
        num_key_value_heads: Heads of keys and values, shared by the others: grouped-query attention (Ainslie
            et al. 2023, https://arxiv.org/abs/2305.13245).
        norm: ``rms`` or ``layer``.
        activation: ``swiglu``, ``gelu``, ``gelu_tanh`` or ``relu_squared``.
        positions: ``rotary``, ``learned``, ``sinusoidal``, or ``none``: causality alone tells some order.
        qk_norm: Whether queries and keys are normalised, so that no score explodes.
        sliding_window: The most tokens that each one sees, itself included (default: all).
        memory_length: Tokens of the past that training carries on where the text goes on: Transformer-XL's
            memory, through which no gradient flows (default: context_length, and 0 for learned and
            sinusoidal positions, which know no past).
        bias: Whether linear layers and norms have biases; the output layer, where its matrix is its own.
        norm_epsilon: What the norms add to the mean square, or the variance, before its root.
        initialization: ``unit``: embedded tokens and all layers' outputs of unit size; ``gpt2``: as in GPT-2,
            with a deviation of 0.02.
        activation_checkpointing: Whether training computes each block's activations twice, to keep only what
            comes in: less memory for a third more time.
        adaptive_cutoffs: Makes the output an adaptive softmax (Grave et al. 2017,
            https://arxiv.org/abs/1609.04309): the first id of each cluster of rarer words.
        label_smoothing: Share of each target that is spread over the vocabulary in training.
        z_loss: Factor of log(Z)^2 in the training loss, Z being the softmax's denominator.
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
        num_key_value_heads: int | None = None,
        norm: Norm = "rms",
        activation: Activation = "swiglu",
        positions: Positions = "rotary",
        qk_norm: bool = False,
        sliding_window: int | None = None,
        memory_length: int | None = None,
        bias: bool = False,
        norm_epsilon: float = 1e-5,
        initialization: Initialization = "unit",
        activation_checkpointing: bool = False,
        adaptive_cutoffs: list[int] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
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
            num_key_value_heads,
            norm,
            activation,
            positions,
            qk_norm,
            sliding_window,
            memory_length,
            bias,
            norm_epsilon,
            initialization,
            activation_checkpointing,
            adaptive_cutoffs,
            label_smoothing,
            z_loss,
        )
        super().__init__(network, **kwargs)
        self.save_hyperparameters()
