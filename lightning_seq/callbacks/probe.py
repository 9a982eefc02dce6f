"""Look at a model in the middle of its training and leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule


@contextmanager
def undisturbed(module: LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients; random numbers and every submodule's mode come back afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    # the CPU's generator is always kept; MPS cannot be, and neither dropout nor sampling draws from it here
    kind = module.device.type
    devices = [] if kind in ("cpu", "mps", "meta") else [module.device]
    try:
        with torch.random.fork_rng(devices, device_type=kind if devices else "cuda"), torch.no_grad():
            module.eval()
            yield
    finally:
        for child, training in modes:
            child.training = training
