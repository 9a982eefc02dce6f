"""losses.npy: what ``lightning-seq predict`` writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def write_losses(path: Path, batches: Sequence[Tensor], positions: npt.NDArray[np.int64] | None) -> int:
    """Writes the loss of each token that is a target, in the order of the text, and returns how many.

    Args:
        path: Of the .npy file.
        batches: The losses of each batch, ``(batch, time)``, NaN where nothing was scored.
        positions: Where in the text each row starts, ``(rows,)``; None for rows that are in its order.
    """
    rows = [row for batch in batches for row in batch.float()]  # of as many columns as its batch has
    order = range(len(rows)) if positions is None else np.argsort(positions[: len(rows)], kind="stable")
    losses = torch.cat([rows[i] for i in order])
    losses = losses[~losses.isnan()]
    np.save(path, losses.numpy())
    return len(losses)
