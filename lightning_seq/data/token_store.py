"""Tokenized text on disk: built once, memory-mapped by every rank, never half-written."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_seq.data.disk import explaining_disk_errors, scratch_folder, write_file

FORMAT = 3
_WHITE = np.array([chr(byte).isspace() for byte in range(128)])
ATTEMPTS = 10  # at a place where others move things, too
CONVERTED_AT_ONCE = 1 << 20  # ids: a document may be as large as the corpus

Encoded = Iterable[tuple[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Counts:
    """How much text a store holds, in the units that make perplexities comparable."""

    tokens: int
    documents: int
    characters: int
    bytes: int
    words: int
    unknown: int = 0  # tokens that stand for what the tokenizer does not know
    unknown_written: int = 0  # of these, those that the text itself writes so


class TokenStore:
    """The tokens of one text: a folder with tokens.bin, documents.npy and meta.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        self.counts = Counts(**meta["counts"])
        self.dtype = np.dtype(meta["dtype"])
        self._tokens: npt.NDArray[Any] | None = None

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """The ids (tokens,), the narrowest of uint8, uint16 and uint32, mapped when first asked for."""
        if self._tokens is None:
            self._tokens = np.empty(0, dtype=self.dtype)
            if len(self):  # an empty file cannot be mapped
                self._tokens = np.asarray(np.memmap(self.path / "tokens.bin", dtype=self.dtype, mode="r"))
        return self._tokens

    @property
    def documents(self) -> npt.NDArray[np.int64]:
        """Where each document starts and, last, where the text ends (documents + 1,)."""
        starts: npt.NDArray[np.int64] = np.load(self.path / "documents.npy", mmap_mode="r")
        return starts

    def __len__(self) -> int:
        return self.counts.tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokens": None}  # another process maps the file anew

    @classmethod
    def open(cls, path: Path) -> "TokenStore | None":
        """Returns the store at ``path``, or None where there is no whole one."""
        with suppress(OSError, EOFError, ValueError, KeyError, TypeError, IndexError):
            store = cls(path)
            size, starts = (path / "tokens.bin").stat().st_size, store.documents
            whole = size == len(store) * store.dtype.itemsize and starts.dtype == np.int64
            if whole and len(starts) == store.counts.documents + 1 and starts[-1] == len(store):
                return store
        return None

    @classmethod
    def open_or_build(
        cls,
        path: Path,
        encoded: Callable[[], Encoded],
        vocab_size: int,
        unknown: tuple[str, int] | None = None,
    ) -> "TokenStore":
        """Returns the store at ``path``, built from ``encoded()`` where there is no whole one.

        Any number of processes may do this at once: each builds in a folder of its own, the first to finish
        renames it into place, and the others discard theirs.
        """
        if (store := cls.open(path)) is not None:  # an empty one is false
            return store
        with scratch_folder(path) as folder:
            _write(folder, encoded(), np.min_scalar_type(vocab_size - 1), unknown)
            with explaining_disk_errors(path.parent):
                return _in_place(folder, path)


@dataclass
class _Tally:
    """Counts texts on their way to the disk."""

    lengths: list[int] = field(default_factory=list)
    characters: int = 0
    size: int = 0
    words: int = 0
    unknown: int = 0
    unknown_written: int = 0
    unknown_token: tuple[str, int] | None = None

    def counting(self, encoded: Encoded, dtype: np.dtype[Any]) -> Iterator[bytes]:
        for text, ids in encoded:
            self.lengths.append(len(ids))
            self.characters += len(text)
            content = text.encode("utf-8")
            self.size += len(content)
            self.words += count_words(text, content)
            if self.unknown_token is not None:
                token, number = self.unknown_token
                unknown = int(np.count_nonzero(ids == number))
                self.unknown += unknown
                self.unknown_written += min(unknown, text.count(token))
            for start in range(0, len(ids), CONVERTED_AT_ONCE):
                yield ids[start : start + CONVERTED_AT_ONCE].astype(dtype, copy=False).tobytes()


def count_words(text: str, content: bytes) -> int:
    """Returns ``len(text.split())``, for ASCII in half the time: ``content`` is the text's UTF-8."""
    if not text.isascii() or not text:
        return len(text.split())
    white = _WHITE.take(np.frombuffer(content, dtype=np.uint8))
    return int(np.count_nonzero(white[:-1] > white[1:])) + (not white[0])


def _write(folder: Path, encoded: Encoded, dtype: np.dtype[Any], unknown: tuple[str, int] | None) -> None:
    tally = _Tally(unknown_token=unknown)
    write_file(folder / "tokens.bin", tally.counting(encoded, dtype))
    counts = Counts(
        tokens=sum(tally.lengths),
        documents=len(tally.lengths),
        characters=tally.characters,
        bytes=tally.size,
        words=tally.words,
        unknown=tally.unknown,
        unknown_written=tally.unknown_written,
    )
    starts = BytesIO()
    np.save(starts, np.cumsum([0, *tally.lengths], dtype=np.int64))
    write_file(folder / "documents.npy", [starts.getvalue()])
    meta = {"format": FORMAT, "dtype": dtype.name, "counts": asdict(counts)}
    write_file(folder / "meta.json", [json.dumps(meta).encode("utf-8")])


def _in_place(folder: Path, path: Path) -> TokenStore:
    """Returns the store at ``path``: that of ``folder``, or as good a one of another process."""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * 0.01)
        with suppress(OSError):  # there is one already; or another process took ours for the damaged one
            folder.rename(path)
        if (store := TokenStore.open(path)) is not None:
            return store
        with suppress(FileNotFoundError), scratch_folder(path) as rubbish:
            path.rename(rubbish / "damaged")
    folder.rename(path)
    return TokenStore(path)
