"""How a Transformer knows where a token stands: rotary angles, sinusoids, places within documents."""

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of each position's angles, ``(length, head_dim / 2)`` each, fp32."""


def rotary_angles(length: int, head_dim: int, base: float, device: torch.device) -> Rotation:
    """Returns the angles of rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864)."""
    angles = _angles(torch.arange(length, device=device), head_dim, base)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns the pairs (x_i, x_{i + d/2}) of ``(batch, heads, time, d)`` by position, in fp32 at least."""
    cos, sin = rotation
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)  # (batch, heads, time, head_dim / 2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Returns the fixed encodings of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), fp32.

    Args:
        positions: From 0 on, of any shape.
        width: Features of an encoding, even: first all sines, then all cosines.

    Returns:
        ``(*positions.shape, width)``.
    """
    angles = _angles(positions, width, 10_000.0)
    return torch.cat([angles.sin(), angles.cos()], -1)


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """Returns how many tokens of its own document come before each token, ``(batch, time)``.

    Args:
        document_ids: Which document each token belongs to, ``(batch, time)``.
    """
    same = document_ids[:, :, None] == document_ids[:, None]  # (batch, time, time)
    return same.tril(-1).sum(-1)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    fp32 = torch.float32  # not the default dtype, which Lightning's precision "bf16-true" sets to bf16
    frequencies = base ** (-torch.arange(0, width, 2, dtype=fp32, device=positions.device) / width)
    return positions[..., None].to(fp32) * frequencies
