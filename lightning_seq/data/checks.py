"""Checks of constructor arguments, for those who do not come through the command line."""

import os
from collections.abc import Iterable, Mapping, MutableMapping
from os import PathLike
from typing import Any, TypeVar

from lightning_seq.errors import InputError, did_you_mean


def at_least(minimum: int, **values: int) -> None:
    """Refuses a value that is no int, or one below ``minimum``, by its name."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            kind = type(value).__name__
            raise InputError(f"{name} is {value!r} ({kind}); it must be an int, at least {minimum}")
        if value < minimum:
            raise InputError(f"{name} is {value!r}; it must be at least {minimum}")


def one_of(choices: Iterable[str], **values: str) -> None:
    """Refuses a value that is none of ``choices``, by its name."""
    known = list(choices)
    for name, value in values.items():
        if value not in known:
            hint = did_you_mean(str(value), known)
            raise InputError(f"{name} is {value!r}{hint}; it must be one of {known}")


_Value = TypeVar("_Value")


def plain_path(value: str | PathLike[str] | _Value) -> str | _Value:
    """Returns a path as a string, and what is none as it is."""
    return os.fspath(value) if isinstance(value, str | PathLike) else value


def path_or_sequences(value: str | PathLike[str] | list[Any], name: str) -> str | list[Any]:
    """Returns a path as a string or the sequences; refuses what is neither, by its name."""
    if not isinstance(value, str | PathLike) and not _has_rows(value):
        kind = type(value).__name__
        raise InputError(
            f"{name} is {str(value)[:40]} ({kind}); give a path, or a list of sequences of integers"
        )
    return plain_path(value)


def _has_rows(value: Any) -> bool:
    """Says whether it is a list, or an array or a tensor of at least one dimension."""
    is_indexed = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return is_indexed and not isinstance(value, Mapping) and getattr(value, "ndim", None) != 0


def keep_plain(hyperparameters: MutableMapping[str, Any]) -> None:
    """Drops what a checkpoint that holds it could not be loaded with ``weights_only``."""
    for name in [name for name, value in hyperparameters.items() if not _is_plain(value)]:
        del hyperparameters[name]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
