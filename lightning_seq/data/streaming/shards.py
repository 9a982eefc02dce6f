"""Texts in pieces that can be read apart: the files of a dataset."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.hub import one_line_errors

ROWS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 1 << 16  # of a text file


class Shards(Protocol):
    """The texts of a split, in pieces that can be read apart."""

    def __len__(self) -> int:
        """Pieces."""

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a piece from ``first`` on, with their numbers."""


class DatasetShards:
    """A streamed dataset; its pieces are its files.

    Args:
        dataset: An IterableDataset.
        text: What of a row is text.
        path: The dataset's name in errors.
    """

    def __init__(self, dataset: Any, text: RowText, path: str) -> None:
        self._dataset = dataset.select_columns(text.columns).with_format("arrow")
        self._text = text
        self._path = path

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        number = 0
        with one_line_errors(self._path):
            for table in self._dataset.shard(num_shards=len(self), index=shard).iter(ROWS_AT_ONCE):
                if number + len(table) > first:
                    texts = self._text.texts({name: table[name].to_pylist() for name in self._text.columns})
                    yield from (each for each in enumerate(texts, number) if each[0] >= first)
                number += len(table)


class FileShards:
    """Text files, each in rows of whole lines.

    Args:
        files: The files.
        path: Their name in errors.
    """

    def __init__(self, files: Sequence[Path], path: str) -> None:
        self._files = files
        self._path = path

    def __len__(self) -> int:
        return len(self._files)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        with one_line_errors(self._path), self._files[shard].open(encoding="utf-8-sig", newline="") as file:
            number = 0
            while lines := file.readlines(CHARACTERS_AT_ONCE):
                if number >= first:
                    yield number, "".join(lines)
                number += 1
