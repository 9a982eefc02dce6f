"""What a checkpoint knows beyond its weights: which class wrote it, and with which tokenizer."""

import pickle
import pkgutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule

from lightning_seq.errors import InputError

KEY = "lightning_seq"
"""The checkpoint's entry that is ours."""

FORMAT = 1

META = "meta.pt"
"""Of a distributed checkpoint, a directory: the file of all but weights and optimizer states."""

PARAMETERS = "parameters"
"""Of that entry, where many processes wrote the checkpoint: the names of parameters, by their place."""


def is_distributed(path: str | Path) -> bool:
    """Whether ``path`` is the directory of a distributed checkpoint, as ModelParallelStrategy writes it."""
    return (Path(path) / META).is_file()


def renumbered(state: dict[str, Any], numbers: Mapping[Any, int]) -> dict[str, Any]:
    """Returns an optimizer's state that calls each parameter by ``numbers`` of what it called it."""
    groups = state["param_groups"]
    return {
        "state": {numbers[key]: values for key, values in state.get("state", {}).items()},
        "param_groups": [{**each, "params": [numbers[key] for key in each["params"]]} for each in groups],
    }


def describe(model: LightningModule, tokenizer: str | None) -> dict[str, Any]:
    """Returns the entry that makes a checkpoint loadable by :func:`load`: plain strings and numbers."""
    return {"format": FORMAT, "class_path": class_path(type(model)), "tokenizer": tokenizer}


def class_path(cls: type) -> str:
    """Returns ``module.Name``; a script's classes are named after its file, by which they can be imported."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    module = Path(script).stem if cls.__module__ == "__main__" and script else cls.__module__
    return f"{module}.{cls.__qualname__}"


def read(path: str | Path) -> dict[str, Any]:
    """Returns a checkpoint's content; only tensors and plain values are ever unpickled.

    Raises:
        InputError: There is no such file, it is cut short, or it is no checkpoint.
    """
    path = Path(path)
    if is_distributed(path):
        raise InputError(
            f"{path} is a distributed checkpoint, of many files: `lightning-seq consolidate {path}` makes one"
        )
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: give the path of a .ckpt file")
    try:
        if zipped := zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as content:
                if wrong := content.testzip():
                    raise ValueError(f"{wrong} was changed after it was written")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(
            f"{path} ({path.stat().st_size:,} bytes) is no whole checkpoint: it may be cut short, or hold "
            "more than tensors and plain values; take another checkpoint of that run"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{path} is no Lightning checkpoint: it has no state_dict")
    return cast(dict[str, Any], checkpoint)


def load(path: str | Path, trust: bool = False) -> Any:
    """Returns the model of a checkpoint, on the CPU and in evaluation mode, with its tokenizer.

    Args:
        path: A .ckpt file.
        trust: Whether a class outside this package that the checkpoint names may be imported. One that your
            program has imported already needs no trust.

    Raises:
        InputError: The file is no whole checkpoint, does not name its class, names one that is not
            trusted, or one that did not save its hyperparameters.
    """
    entry = read(path).get(KEY)
    if entry is None:
        raise InputError(
            f"{path} does not say which class wrote it: use TheClass.load_from_checkpoint({str(path)!r})"
        )
    cls = _import_class(entry["class_path"], trust)
    try:
        return cls.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    except TypeError as error:
        if "required" not in str(error):
            raise
        name = cls.__name__
        raise InputError(
            f"{path} does not hold what {name} was built with ({error}): call self.save_hyperparameters() in "
            f"{name}.__init__ and train anew, or give it here: {name}.load_from_checkpoint(path, ...)"
        ) from error


def check_trusted(path: str, trust: bool, source: str) -> None:
    """Refuses a class outside this package that a file names, unless its author is trusted.

    Args:
        path: ``module.Name``; one that your program has imported already needs no trust.
        trust: Whether to import any.
        source: What names it, for the error.

    Raises:
        InputError: It is not trusted.
    """
    module = path.rpartition(".")[0]
    if not (trust or not module or module in sys.modules or module.split(".")[0] == __package__):
        raise InputError(
            f"{source} {path}, which is not part of lightning_seq: import that class before, or say "
            "trust=True (--trust) if you trust its author"
        )


def _import_class(path: Any, trust: bool) -> Any:
    if not isinstance(path, str) or not path.rpartition(".")[0]:
        raise InputError(f"the checkpoint names {path!r} as its class: expected module.Name")
    name = path.rpartition(".")[2]
    own = getattr(sys.modules["__main__"], name, None)
    if isinstance(own, type) and class_path(own) == path:
        return own  # of the script that is running: importing it would run it again
    check_trusted(path, trust, "the checkpoint was written by")
    try:
        cls = pkgutil.resolve_name(path)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the checkpoint was written by {path}, which cannot be imported ({error}): "
            "run where that module can be found"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, LightningModule)):
        raise InputError(
            f"the checkpoint was written by {path}, which is no LightningModule: take another one"
        )
    return cls
