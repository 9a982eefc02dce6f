"""The cache directory, and files that are whole or absent whatever happens while they are written."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_seq.errors import InputError

ABANDONED_AFTER = 24 * 3600.0  # seconds without a write
WRITE_AT_ONCE = 1 << 20


def default_cache_dir() -> Path:
    """Returns $LIGHTNING_SEQ_CACHE, or lightning_seq in the user's cache directory."""
    if own := os.environ.get("LIGHTNING_SEQ_CACHE"):
        return Path(own).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "lightning_seq"


@contextmanager
def explaining_disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into an error that says which folder and what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to the cache {str(folder)!r} ({error.strerror or error}); free some space there, "
            "or choose another directory by cache_dir or the environment variable LIGHTNING_SEQ_CACHE"
        ) from error


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Gives a hidden folder next to ``beside`` that is gone afterwards, unless it was renamed."""
    parent = beside.parent
    with explaining_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=parent))
        folder.chmod(0o755)  # a cache may be shared; mkdtemp shuts everybody else out
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Removes what killed processes left, once it is old enough that nobody can be at work there."""
    for folder in parent.glob(".*.*"):
        with suppress(OSError):
            latest = max(each.stat().st_mtime for each in (folder, *folder.iterdir()))
            if time.time() - latest > ABANDONED_AFTER:
                shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes ``chunks`` to a new file and waits until they are on the disk.

    What ``chunks`` itself raises passes unchanged: only the disk's own errors are explained as such.
    """
    with explaining_disk_errors(path.parent.parent):
        file = path.open("wb", buffering=0)  # unbuffered: closing must have nothing left to fail at
    with file:
        pending = bytearray()
        for chunk in chunks:
            pending += chunk
            if len(pending) >= WRITE_AT_ONCE:
                _write_all(file.fileno(), pending, path)
                pending = bytearray()
        _write_all(file.fileno(), pending, path)
        with explaining_disk_errors(path.parent.parent):
            os.fsync(file.fileno())


def _write_all(descriptor: int, content: bytearray, path: Path) -> None:
    with explaining_disk_errors(path.parent.parent):
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a small file so that readers see the old one, or all of the new one."""
    with scratch_folder(path) as folder:
        write_file(folder / "content", [content])
        with explaining_disk_errors(path.parent):
            (folder / "content").replace(path)
