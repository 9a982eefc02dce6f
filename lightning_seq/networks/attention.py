"""Causal self-attention on torch's fused kernels, with rotary positions and a key/value cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each token to itself and to those before it.

    Positions are rotary (Su et al. 2021, https://arxiv.org/abs/2104.09864): queries and keys are turned by
    angles that grow with their position, so that a score depends on the distance alone. The cache holds keys
    not yet turned, so that it can drop its oldest tokens and run for ever without positions that grow.

    Args:
        embedding_dim: Width of the model.
        num_heads: Number of heads; must divide ``embedding_dim`` into even parts.
        dropout: Probability of dropping an attention weight in training.
    """

    def __init__(self, embedding_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embedding_dim % (2 * num_heads):
            raise InputError(
                f"embedding_dim {embedding_dim} does not split into {num_heads} heads of even width: "
                f"take a multiple of 2 x num_heads = {2 * num_heads}"
            )
        self.num_heads, self.head_dim, self.dropout = num_heads, embedding_dim // num_heads, dropout
        self.query = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.key = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.value = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.out = nn.Linear(embedding_dim, embedding_dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Attends over the cache and ``x``.

        Args:
            x: ``(batch, time, embedding_dim)``.
            rotation: What :func:`rotary_angles` gives for ``slots + time`` positions.
            cache: Keys and values of the past, each ``(batch, heads, slots, head_dim)``, newest last.
            mask: Which of ``slots + time`` keys each query sees, ``(batch, 1, time, slots + time)``; needed
                with a cache.

        Returns:
            ``(batch, time, embedding_dim)`` and the cache with the newest ``slots`` keys and values.
        """
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        new_cache = None
        if cache is not None:
            slots = cache[0].size(2)
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            new_cache = (key[:, :, -slots:], value[:, :, -slots:])
        cos, sin = rotation
        query, key = _rotate(query, cos[-x.size(1) :], sin[-x.size(1) :]), _rotate(key, cos, sin)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask if cache is not None else None,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=cache is None,
        )  # (batch, heads, time, head_dim)
        return self.out(attended.transpose(1, 2).flatten(2)), new_cache

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, embedding_dim) -> (batch, heads, time, head_dim)."""
        batch, time, _ = x.shape
        return x.view(batch, time, -1, self.head_dim).transpose(1, 2)


def rotary_angles(length: int, head_dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of each position's angles, ``(length, head_dim / 2)`` in fp32."""
    fp32 = torch.float32  # not the default dtype, which Lightning's precision "bf16-true" sets to bf16
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=fp32, device=device) / head_dim)
    angles = torch.arange(length, dtype=fp32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (x_i, x_{i + d/2}) by the angle of their position, in fp32."""
    first, second = x.float().chunk(2, dim=-1)  # (batch, heads, time, head_dim / 2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)
