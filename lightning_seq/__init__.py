"""Sequence models for PyTorch Lightning: train them, and see what they learn.

A map of the package (importing it imports none of them, so that it stays cheap):

- :mod:`lightning_seq.models`: LightningModules, one for each family of networks.
- :mod:`lightning_seq.data`: DataModules for text.
- :mod:`lightning_seq.callbacks`: watchers of gradients, attention and samples.
- :mod:`lightning_seq.networks`: the networks alone, plain PyTorch.
- :func:`load`: a trained model from its checkpoint.
- :func:`from_recipe`: trainer, model and data of a recipe, for a notebook.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_seq.checkpoints import load
    from lightning_seq.cli import from_recipe

__version__ = "0.1.0"

__all__ = ["__version__", "from_recipe", "load"]

_HOMES = {"load": "lightning_seq.checkpoints", "from_recipe": "lightning_seq.cli"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
