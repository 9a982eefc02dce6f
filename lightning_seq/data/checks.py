"""Checks of constructor arguments, for those who do not come through the command line."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from lightning_seq.errors import InputError, did_you_mean


def at_least(minimum: int, **values: int) -> None:
    """Refuses a value below ``minimum``, by its name."""
    for name, value in values.items():
        if value < minimum:
            raise InputError(f"{name} is {value!r}; it must be at least {minimum}")


def one_of(choices: Iterable[str], **values: str) -> None:
    """Refuses a value that is none of ``choices``, by its name."""
    known = list(choices)
    for name, value in values.items():
        if value not in known:
            raise InputError(f"{name} is {value!r}{did_you_mean(value, known)}; it must be one of {known}")


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
