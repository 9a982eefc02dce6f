"""TextDataModule: local text files, or a text that every Python installation carries."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.sources.corpora import CORPORA
from lightning_seq.data.sources.documents import (
    FEWEST_TO_SPLIT_WHOLE,
    Split,
    cut_parts,
    separated,
    whole_parts,
)
from lightning_seq.data.sources.files import apart, find_files, read_text
from lightning_seq.errors import InputError

SUFFIXES = (".txt",)


@dataclass(frozen=True)
class _Source:
    """One text, not read yet."""

    name: str
    size: int  # relative to others of the same path
    read: Callable[[], str]


class TextDataModule(SequenceDataModule):
    """Text files on this machine, or the embedded corpus.

    Args:
        path: A text file (UTF-8), a glob, a directory (all .txt files below it), or "python-docs", the
            English text of Python's own help, which needs no download.
        val_path: The validation text. By default 5% of ``path`` are held out, before the test text: whole
            files where there are three or more.
        test_path: The test text. By default the last 5% of ``path`` are held out.
        **kwargs: Arguments of SequenceDataModule.
    """

    def __init__(
        self,
        path: str = "python-docs",
        val_path: str | None = None,
        test_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        # From Python any may be a pathlib.Path; what is saved as a hyperparameter is to be plain.
        path = os.fspath(path)
        val_path = None if val_path is None else os.fspath(val_path)
        test_path = None if test_path is None else os.fspath(test_path)
        super().__init__(**kwargs)
        self.path = path
        self._own_paths: dict[Split, str] = {}
        if val_path is not None:
            self._own_paths["validation"] = val_path
        if test_path is not None:
            self._own_paths["test"] = test_path

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, a file each."""
        sources = self._sources()
        if split in self._own_paths:
            return (source.read() for source in sources[split])
        main = sources["train"]
        parts: list[Split] = ["train", *self._held_out()]
        if len(main) >= FEWEST_TO_SPLIT_WHOLE or len(parts) == 1:
            taken = whole_parts([source.size for source in main], len(parts) - 1)[parts.index(split)]
            return (main[i].read() for i in taken)
        text = "".join(separated(source.read() for source in main))
        return [cut_parts(text, len(parts) - 1)[parts.index(split)]]

    def describe(self) -> str:
        """Returns the path, how many files it means, and the paths of the other splits."""
        if self.path in CORPORA:
            return f"{self.path} (Python {sys.version_info.major}.{sys.version_info.minor})"
        main = self._sources()["train"]
        files = f" ({len(main)} files)" if len(main) > 1 else ""
        if len(main) >= FEWEST_TO_SPLIT_WHOLE and (held_out := self._held_out()):
            parts = whole_parts([source.size for source in main], len(held_out))
            files = f" ({len(main)} files: {' + '.join(str(len(part)) for part in parts)})"
        return ", ".join([self.path + files, *self._own_paths.values()])

    def _held_out(self) -> list[Split]:
        held_out: list[Split] = ["validation", "test"]
        return [split for split in held_out if split not in self._own_paths]

    def _sources(self) -> dict[Split, list[_Source]]:
        """Returns the sources of each path, none in two of them: a directory may hold the validation file."""
        own = {split: _find(path) for split, path in self._own_paths.items()}
        return apart({"train": _find(self.path), **own}, self.path, lambda source: source.name)


def _find(path: str) -> list[_Source]:
    if path in CORPORA:
        return [_Source(path, 1, CORPORA[path])]
    files = [(file, file.stat().st_size) for file in find_files(path, SUFFIXES, CORPORA)]
    sources = [_Source(str(file.resolve()), size, _reader(file)) for file, size in files if size]
    if not sources:
        raise InputError(f"{path!r} is empty; give a file that has text")
    return sources


def _reader(file: Path) -> Callable[[], str]:
    def read() -> str:
        text = read_text(file)
        if not text.strip():
            raise InputError(f"{str(file)!r} holds nothing but white space; give a file that has text")
        return text

    return read
