"""Loggers whose failure ends no training."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

_WHILE_TRAINING = ("log_metrics", "save", "after_save_checkpoint", "finalize")


def enduring(logger: Logger) -> Logger:
    """Returns the logger, which from now on warns once where it fails, and is asked no more.

    What fails before the training, a missing key say, still ends it: then somebody is there to mend it.
    """
    failed: list[str] = []
    for name in _WHILE_TRAINING:
        setattr(logger, name, partial(_try, getattr(logger, name), type(logger).__name__, name, failed))
    return logger


def _try(
    call: Callable[..., Any], logger: str, name: str, failed: list[str], *args: Any, **kwargs: Any
) -> None:
    if failed:
        return
    try:
        call(*args, **kwargs)
    except Exception as error:
        failed.append(name)
        line = (str(error).strip().splitlines() or ["no reason given"])[0]
        rank_zero_warn(
            f"{logger} failed in {name} ({type(error).__name__}: {line}) and logs no more; the training "
            "goes on"
        )
