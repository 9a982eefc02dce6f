"""Causal self-attention on torch's fused kernels, with a key/value cache."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.positions import Rotation, rotate


class HeadNorm(nn.RMSNorm):
    """RMSNorm of queries or keys, in their own precision: under autocast they come in half."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, heads, time, head_dim)`` in and out."""
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype))


Append = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each token to itself and to those before it.

    Rotary positions turn queries and keys by angles that grow with their position, so that a score depends
    on the distance alone. The cache holds keys not yet turned, so that it can drop its oldest tokens and run
    for ever without positions that grow.

    Args:
        embedding_dim: Width of the model.
        num_heads: Number of heads; must divide ``embedding_dim`` into even parts.
        dropout: Probability of dropping an attention weight in training.
        num_key_value_heads: Heads of keys and values, each shared by equally many heads of queries (Ainslie
            et al. 2023, https://arxiv.org/abs/2305.13245); must divide ``num_heads``, which is the default.
        qk_norm: Whether queries and keys are normalised (Henry et al. 2020,
            https://arxiv.org/abs/2010.04245), so that no score explodes.
        bias: Whether the linear layers have biases.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        num_key_value_heads: int | None = None,
        qk_norm: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if embedding_dim % (2 * num_heads):
            raise InputError(
                f"embedding_dim {embedding_dim} does not split into {num_heads} heads of even width: "
                f"take a multiple of 2 x num_heads = {2 * num_heads}"
            )
        groups = num_key_value_heads or num_heads
        if num_heads % groups:
            raise InputError(
                f"num_key_value_heads is {groups}, which does not divide num_heads {num_heads}: give a "
                "divisor"
            )
        self.num_heads, self.num_key_value_heads, self.dropout = num_heads, groups, dropout
        self.head_dim = embedding_dim // num_heads
        self.query = nn.Linear(embedding_dim, embedding_dim, bias=bias)
        self.key = nn.Linear(embedding_dim, groups * self.head_dim, bias=bias)
        self.value = nn.Linear(embedding_dim, groups * self.head_dim, bias=bias)
        self.out = nn.Linear(embedding_dim, embedding_dim, bias=bias)
        self.query_norm: nn.Module = HeadNorm(self.head_dim) if qk_norm else nn.Identity()
        self.key_norm: nn.Module = HeadNorm(self.head_dim) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: tuple[Tensor, Tensor] | Append | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Attends over the cache and ``x``.

        Args:
            x: ``(batch, time, embedding_dim)``.
            rotation: The angles of ``slots + time`` rotary positions, None for other positions.
            cache: Keys and values of the past, each ``(batch, key_value_heads, slots, head_dim)``, newest
                last. Or what takes the new ones and returns all, keys turned by then: ``rotation`` is then of
                ``time`` positions.
            mask: Which of ``slots + time`` keys each query sees, ``(batch or 1, 1, time, slots + time)``;
                without one it sees itself and all before it. Needed with a cache.

        Returns:
            ``(batch, time, embedding_dim)`` and the cache with the newest ``slots`` keys and values.
        """
        query = self.query_norm(self._heads(self.query(x)))
        key, value = self.key_norm(self._heads(self.key(x))), self._heads(self.value(x))
        new_cache = None
        if isinstance(cache, tuple):
            slots = cache[0].size(2)
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            new_cache = (key[:, :, -slots:], value[:, :, -slots:])
        if rotation is not None:
            cos, sin = rotation
            query = rotate(query, (cos[-x.size(1) :], sin[-x.size(1) :]))
            key = rotate(key, rotation)
        if callable(cache):
            key, value = cache(key, value)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and query.size(2) > 1,  # one token sees all there is
            enable_gqa=self.num_key_value_heads != self.num_heads,
        )  # (batch, heads, time, head_dim)
        return self.out(attended.transpose(1, 2).flatten(2)), new_cache

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads * head_dim) -> (batch, heads, time, head_dim)."""
        batch, time, _ = x.shape
        return x.view(batch, time, -1, self.head_dim).transpose(1, 2)
