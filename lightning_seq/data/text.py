"""TextDataModule: local text files, or a text that every Python installation carries."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.sources.corpora import CORPORA
from lightning_seq.data.sources.documents import (
    FEWEST_TO_SPLIT_WHOLE,
    SPLITS,
    Split,
    cut_parts,
    separated,
    whole_parts,
)
from lightning_seq.data.sources.files import find_files, read_text
from lightning_seq.data.sources.named_splits import assign_splits
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
            English text of Python's own help, which needs no download. Files or directories of a glob or of
            a directory that are named train, validation (valid, val, dev) or test (eval) are those splits.
        val_path: The validation text. By default the files of ``path`` that are named for validation; where
            there are none, 5% of the training text are held out, before the test text: whole files where
            there are three or more.
        test_path: The test text. By default the files of ``path`` that are named for test; where there are
            none, the last 5% of the training text are held out.
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
        shares = self._shares()
        together = [each for each in SPLITS if shares[each] is shares["train"]]
        if split not in together or len(together) == 1:
            return (source.read() for source in shares[split])
        text = "".join(separated(source.read() for source in shares["train"]))
        return [cut_parts(text, len(together) - 1)[together.index(split)]]

    def describe(self) -> str:
        """Returns the path, how many files of it each split has, and what else the other splits come from."""
        if self.path in CORPORA:
            return f"{self.path} (Python {sys.version_info.major}.{sys.version_info.minor})"
        shares, held_out = self._shares(), self._held_out(self._sources())
        of_path = [some for split, some in shares.items() if split not in self._own_paths]
        count = len({source.name for some in of_path for source in some})
        counts = f": {' + '.join(str(len(some)) for some in of_path)}" if len(of_path) > 1 else ""
        if any(shares[split] is shares["train"] for split in held_out):
            counts = ""  # the files are cut as one text
        files = f" ({count} files{counts})" if count > 1 else ""
        more = [f"{held_out[0]} held out of train"] if len(held_out) == 1 else []
        return ", ".join([self.path + files, *self._own_paths.values(), *more])

    def source_files(self, split: Split) -> list[str]:
        """Returns the files that ``split`` is read from, or cut from."""
        return [source.name for source in self._shares()[split] if source.name not in CORPORA]

    def _shares(self) -> dict[Split, list[_Source]]:
        """Returns the sources of each split; those that are cut from one text have the very same list."""
        sources = self._sources()
        main, held_out = sources["train"], self._held_out(sources)
        shares: dict[Split, list[_Source]] = dict.fromkeys(SPLITS, main) | sources
        if len(main) >= FEWEST_TO_SPLIT_WHOLE and held_out:
            parts = whole_parts([source.size for source in main], len(held_out))
            for split, part in zip(("train", *held_out), parts, strict=True):
                shares[split] = [main[i] for i in part]
        return shares

    def _held_out(self, sources: Mapping[Split, list[_Source]]) -> list[Split]:
        return [split for split in SPLITS if split not in sources]

    def _sources(self) -> dict[Split, list[_Source]]:
        """Returns the sources of "train" and of each split that has some of its own, by a path or by name."""
        paths: dict[Split, str] = {"train": self.path, **self._own_paths}
        found = assign_splits(
            {split: _find(path) for split, path in paths.items()}, paths, lambda each: each.name
        )
        return {split: _with_text(some) for split, some in found.items()}


def _find(path: str) -> list[_Source]:
    if path in CORPORA:
        return [_Source(path, 1, CORPORA[path])]
    files = find_files(path, SUFFIXES, CORPORA)
    return [_Source(str(file), file.stat().st_size, _reader(file)) for file in files]


def _with_text(sources: list[_Source]) -> list[_Source]:
    if not any(source.size for source in sources):
        raise InputError(f"{sources[0].name!r} is empty; give a file that has text")
    return [source for source in sources if source.size]


def _reader(file: Path) -> Callable[[], str]:
    def read() -> str:
        text = read_text(file)
        if not text.strip():
            raise InputError(f"{str(file)!r} holds nothing but white space; give a file that has text")
        return text

    return read
