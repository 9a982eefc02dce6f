"""What a step of training frees is kept for the next one, which takes as much again."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST = 32 << 20  # bytes: more is not taken, and tensors above it go back to the system


def keep_freed_memory() -> None:
    """Asks glibc not to give memory back to the system after each step, and to take it anew for the next.

    The system clears every page it gives. With a vocabulary of 18,000 words on a CPU that was a tenth of the
    time of a step. Where there is another allocator nothing happens.
    """
    with suppress(AttributeError, OSError, TypeError):  # no such function; no C library to be found
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
