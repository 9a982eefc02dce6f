"""A decoder-only Transformer: pre-norm, RMSNorm, rotary positions, SwiGLU."""

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.attention import CausalSelfAttention, rotary_angles
from lightning_seq.networks.base import Network, check_dropout
from lightning_seq.networks.heads import LinearHead


class KeyValueCache(TypedDict):
    """The Transformer's state: room for a fixed number of past tokens, newest last.

    Its room is the tensors' own size, so that a state stays a tree of tensors; ``length`` says how much of
    it each lane has filled, and setting it to 0 forgets that lane's past.
    """

    keys: list[Tensor]  # one a layer: (batch, heads, slots, head_dim)
    values: list[Tensor]
    length: Tensor  # (batch,)


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer 2020, https://arxiv.org/abs/2002.05202).

    Args:
        embedding_dim: Width of the model.
        feedforward_dim: Width inside.
    """

    def __init__(self, embedding_dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(embedding_dim, feedforward_dim, bias=False)
        self.up = nn.Linear(embedding_dim, feedforward_dim, bias=False)
        self.down = nn.Linear(feedforward_dim, embedding_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, time, embedding_dim)`` in and out."""
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on a normalised input and added to the residual stream."""

    def __init__(self, embedding_dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(embedding_dim)
        self.attention = CausalSelfAttention(embedding_dim, num_heads, dropout)
        self.feedforward_norm = nn.RMSNorm(embedding_dim)
        self.feedforward = SwiGLU(embedding_dim, feedforward_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """``(batch, time, embedding_dim)`` in and out, and the layer's cache."""
        attended, cache = self.attention(self.attention_norm(x), rotation, cache, mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), cache


class Transformer(Network):
    """Decoder-only Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) in today's form.

    Without a state it attends to all of ``tokens`` and carries nothing on. From ``initial_state`` on it keeps
    keys and values of the last ``length`` tokens.

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Attention heads in each block; 2 x num_heads must divide ``embedding_dim``.
        context_length: Longest past that is kept in generation, and the longest window to train on.
        feedforward_dim: Width inside the feed-forward layers (default: 8/3 of ``embedding_dim``, rounded up
            to a multiple of 8).
        dropout: Probability of dropping an embedding, an attention weight or a layer's output.
        rope_base: Base of the rotary wavelengths.
        tie_weights: Whether embedding and output layer share one matrix.
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
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if min(context_length, num_layers, num_heads) < 1:
            raise InputError(
                f"context_length is {context_length}, num_layers {num_layers} and num_heads {num_heads}: all "
                "must be at least 1"
            )
        self.context_length: int = context_length
        self.head_dim, self.rope_base = embedding_dim // num_heads, rope_base
        inner = feedforward_dim or -(-8 * embedding_dim // 24) * 8
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embedding_dim, num_heads, inner, dropout) for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(embedding_dim)
        self.head = LinearHead(embedding_dim, vocab_size, self.embedding if tie_weights else None)
        self.embedding_scale = embedding_dim**0.5 if tie_weights else 1.0
        self._initialise()

    def _initialise(self) -> None:
        """Embedded tokens and all layers' outputs of unit size, but for what is added up over the depth.

        So a token weighs as much as what the layers add to it; with small embeddings two layers do not learn
        to recall. A matrix shared with the head is smaller, and its embeddings are scaled up again, as in
        Vaswani et al.; what writes to the residual stream is scaled down by depth, as in GPT-2.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            residual = name.endswith(("attention.out.weight", "feedforward.down.weight"))
            scale = (2 * len(self.blocks)) ** -0.5 if residual else 1.0
            nn.init.normal_(parameter, std=scale * parameter.size(1) ** -0.5)
        if self.embedding_scale == 1.0:
            nn.init.normal_(self.embedding.weight)

    def initial_state(self, batch_size: int, length: int | None = None) -> KeyValueCache:
        """Returns an empty cache for the last ``length`` tokens (default: ``context_length``)."""
        slots, layers = length or self.context_length, len(self.blocks)
        weight = self.embedding.weight
        empty = weight.new_zeros(batch_size, weight.size(1) // self.head_dim, slots, self.head_dim)
        return KeyValueCache(
            keys=[empty] * layers,
            values=[empty] * layers,
            length=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
        )

    def forward(
        self, tokens: Tensor, state: KeyValueCache | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        """See :class:`~lightning_seq.networks.base.Network`."""
        x = self.dropout(self.embedding(tokens) * self.embedding_scale)  # (batch, time, embedding_dim)
        slots = 0 if state is None else state["keys"][0].size(2)
        rotation = rotary_angles(slots + tokens.size(1), self.head_dim, self.rope_base, x.device)
        if state is None:
            for block in self.blocks:
                x, _ = block(x, rotation)
            return self.head(self.norm(x), targets), None
        mask = _visible(state, tokens.size(1))
        keys, values = [], []
        for block, key, value in zip(self.blocks, state["keys"], state["values"], strict=True):
            x, (key, value) = block(x, rotation, (key, value), mask)
            keys.append(key)
            values.append(value)
        length = (state["length"] + tokens.size(1)).clamp(max=slots)
        return self.head(self.norm(x), targets), KeyValueCache(keys=keys, values=values, length=length)


def _visible(state: KeyValueCache, time: int) -> Tensor:
    """Which keys each query sees: the filled slots of its lane and the new tokens up to itself."""
    slots, device = state["keys"][0].size(2), state["length"].device
    key = torch.arange(slots + time, device=device)
    filled = key >= slots - state["length"][:, None]  # (batch, slots + time)
    causal = key <= slots + torch.arange(time, device=device)[:, None]  # (time, slots + time)
    return (filled[:, None] & causal)[:, None]  # (batch, 1, time, slots + time)
