"""Look at a model in the middle of its training and leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule

from lightning_seq.networks.base import evaluating


@contextmanager
def undisturbed(module: LightningModule) -> Iterator[None]:
    """Evaluation as :func:`~lightning_seq.networks.base.evaluating`; random numbers come back, too."""
    # the CPU's generator is always kept; MPS cannot be, and neither dropout nor sampling draws from it here
    kind = module.device.type
    devices = [] if kind in ("cpu", "mps", "meta") else [module.device]
    with torch.random.fork_rng(devices, device_type=kind if devices else "cuda"), evaluating(module):
        yield
