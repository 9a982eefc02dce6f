"""Look at a model in the middle of its training and leave no trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_seq.networks.base import evaluating


@contextmanager
def undisturbed(module: LightningModule) -> Iterator[None]:
    """Evaluation as :func:`~lightning_seq.networks.base.evaluating`; random numbers come back, too."""
    # the CPU's generator is always kept; MPS cannot be, and neither dropout nor sampling draws from it here
    kind = module.device.type
    devices = [] if kind in ("cpu", "mps", "meta") else [module.device]
    with torch.random.fork_rng(devices, device_type=kind if devices else "cuda"), evaluating(module):
        yield


def inputs_of(batch: Any) -> Tensor | None:
    """Returns the inputs of a batch of any usual kind, a row an example, or None of another kind."""
    if isinstance(batch, Mapping):
        batch = next((batch[key] for key in ("inputs", "input_ids") if key in batch), None)
    elif isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    return batch if isinstance(batch, Tensor) and batch.dim() >= 1 else None
