"""losses.npy: what ``lightning-seq predict`` writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_losses(path: Path, batches: Sequence[Tensor], lanes: bool) -> int:
    """Writes the loss of each token of the text but the first, in its order, and returns how many.

    Args:
        path: Of the .npy file.
        batches: The losses of each batch, ``(batch, time)``, NaN where nothing was scored.
        lanes: Whether a row goes on in the next batch, rather than in the next row.
    """
    losses = torch.cat(list(batches), 1 if lanes else 0).flatten().float()
    losses = losses[~losses.isnan()]
    np.save(path, losses.numpy())
    return len(losses)
