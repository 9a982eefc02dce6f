"""One file a group of commands: COMMANDS names them, ``main(argv)`` runs them."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def shortened(name: str, columns: int) -> str:
    """Returns the end of a name that does not fit."""
    return name if len(name) < columns else f"...{name[4 - columns :]}"


@contextmanager
def importing() -> Iterator[None]:
    """Looks for no garbage among what is imported, which would take a fifth of that time: modules stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def find_own_modules() -> None:
    """Lets classes of the user's own be imported from the working directory, after installed ones."""
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
