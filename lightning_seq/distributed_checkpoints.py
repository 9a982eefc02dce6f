"""Checkpoints that every rank writes its part of: a directory, and how it becomes one file."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from lightning_seq import checkpoints
from lightning_seq.checkpoints import META, is_distributed
from lightning_seq.errors import InputError

_INDEX = ".metadata"
_CLASSES = ("torch.distributed.checkpoint.metadata.", "torch.distributed.checkpoint.filesystem._StorageInfo")
_OTHERS = ("torch.Size", "torch.serialization._get_layout", "pathlib.PosixPath", "pathlib._local.PosixPath")


def read(path: str | Path) -> dict[str, Any]:
    """Returns a checkpoint's content; of a distributed one, all but weights and optimizer states.

    Raises:
        InputError: It is cut short, or holds more than tensors and plain values.
    """
    return _read_meta(Path(path)) if is_distributed(path) else checkpoints.read(path)


def _read_meta(directory: Path) -> dict[str, Any]:
    try:
        with (directory / _INDEX).open("rb") as file:
            _PlainUnpickler(file).load()  # before torch does, which would import whatever it names
        meta: dict[str, Any] = torch.load(directory / META, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{directory} is no whole distributed checkpoint ({type(error).__name__}): it may be cut short, "
            "or hold more than tensors and plain values; take another checkpoint of that run"
        ) from error
    return meta


def consolidate(directory: str | Path, path: str | Path) -> int:
    """Writes one file of a distributed checkpoint, which loads on any number of processes.

    Args:
        directory: The checkpoint.
        path: The file to write; it appears when it is whole.

    Returns:
        The number of weights.

    Raises:
        InputError: There is no such checkpoint, it is not whole, or ``path`` exists.
    """
    directory, path = Path(directory), Path(path)
    if not is_distributed(directory):
        raise InputError(f"{directory} is no distributed checkpoint: expected a directory with {META} in it")
    if path.exists():
        raise InputError(f"{path} exists already: give another path, nothing is overwritten")
    checkpoint = _read_meta(directory)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.absolute().parent) as scratch:
        joined = Path(scratch) / "joined.pt"
        try:
            dcp_to_torch_save(directory, joined)
        except CheckpointException as error:  # no Exception, to torch
            raise InputError(
                f"{directory} is no whole distributed checkpoint: a part of it is cut short or missing; take "
                "another checkpoint of that run"
            ) from error
        parts = torch.load(joined, map_location="cpu", weights_only=True, mmap=True)
        weights: dict[str, Any] = parts.pop("state_dict")
        names = checkpoint[checkpoints.KEY].pop(checkpoints.PARAMETERS)
        places = {name: place for place, name in enumerate(names)}
        states = [checkpoints.renumbered(parts[f"optimizer_{i}"], places) for i in range(len(parts))]
        checkpoint |= {"state_dict": weights, "optimizer_states": states}
        whole = Path(scratch) / path.name
        torch.save(checkpoint, whole)
        whole.replace(path)
    return len(weights)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or path in _OTHERS:
            return super().find_class(module, name)
        if path.startswith(_CLASSES) and "." not in name:  # a dot reaches into what that module imports
            found = super().find_class(module, name)
            if getattr(found, "__module__", None) == module:
                return found
        raise pickle.UnpicklingError(f"it names {path}")
