"""Loggers whose failure ends no training."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

PATIENCE = {"log_metrics": 60.0, "save": 60.0, "after_save_checkpoint": 600.0, "finalize": 600.0}
"""What a logger is asked while training, and how many seconds it may take; the last two may upload files."""


def enduring(logger: Logger) -> Logger:
    """Returns the logger, which from now on warns once where it fails or blocks, and is asked no more.

    What fails before the training, a missing key say, still ends it: then somebody is there to mend it.
    """
    failed: list[str] = []
    for name in PATIENCE:
        setattr(logger, name, partial(_try, getattr(logger, name), type(logger).__name__, name, failed))
    return logger


def _try(
    call: Callable[..., Any], logger: str, name: str, failed: list[str], *args: Any, **kwargs: Any
) -> None:
    if failed:
        return
    try:
        with _at_most(PATIENCE[name]):
            call(*args, **kwargs)
        return
    except _Blocked:
        reason = f"no answer in {PATIENCE[name]:g} s"
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no reason given"])[0]
        reason = f"{type(error).__name__}: {line}"
    failed.append(name)
    rank_zero_warn(f"{logger} failed in {name} ({reason}) and logs no more; the training goes on")


class _Blocked(BaseException):
    """No Exception, which loggers that try again and again catch."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer: by a signal, since many a logger may only be called by one thread."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return

    def stop(*_: object) -> None:
        raise _Blocked

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
