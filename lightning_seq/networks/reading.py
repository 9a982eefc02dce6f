"""A Transformer's past while it reads one text from its beginning: keys and values written in place."""

import torch
from torch import Tensor


class ReadingCache:
    """Keys and values of all tokens read so far, for generation: nothing is copied and nothing empty seen.

    Where :class:`~lightning_seq.networks.transformer.KeyValueCache` is a value, which training carries on and
    rewinds, this is a place: reading on changes it. Rotary positions have turned its keys already.

    Args:
        room: How many tokens are to be read at most.
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Takes a layer's new keys and values; returns all, ``(batch, heads, length, head_dim)`` each."""
        batch, heads, time, head_dim = key.shape
        if layer not in self._layers:
            room = (batch, heads, self.room, head_dim)
            self._layers[layer] = (key.new_empty(room), value.new_empty(room))
        keys, values = self._layers[layer]
        end = self.length + time
        keys[:, :, self.length : end], values[:, :, self.length : end] = key, value
        return keys[:, :, :end], values[:, :, :end]

    def mask(self, time: int, device: torch.device) -> Tensor | None:
        """Which keys each of ``time`` new tokens sees; None where causality is plain."""
        if self.length == 0 or time == 1:
            return None
        query = self.length + torch.arange(time, device=device)[:, None]
        return torch.arange(self.length + time, device=device) <= query
