"""Texts in pieces that can be read apart: the files of a dataset."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.files import check_utf8
from lightning_seq.data.sources.hub import WHAT_TO_CHECK, one_line_errors, quietly
from lightning_seq.data.sources.local_datasets import explain_file

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
        files: Its files, where they are on this machine.
    """

    def __init__(self, dataset: Any, text: RowText, path: str, files: Sequence[Path] = ()) -> None:
        self._dataset = dataset.select_columns(text.columns).with_format("arrow")
        self._text = text
        self._path = path
        self._files = files

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        files = self._files if len(self._files) != len(self) else [self._files[shard]]
        name, check = (str(files[0]), "that file") if len(files) == 1 else (self._path, WHAT_TO_CHECK)
        with one_line_errors(name, check):
            table, number = None, 0
            try:
                for table in quietly(
                    self._dataset.shard(num_shards=len(self), index=shard).iter(ROWS_AT_ONCE)
                ):
                    if number + len(table) > first:
                        texts = enumerate(self._texts(table), number)
                        yield from (each for each in texts if each[0] >= first)
                    number += len(table)
            except Exception as error:
                for file in files:
                    explain_file(file, self._text.columns)
                if isinstance(error, UnicodeDecodeError | TypeError) and table is not None:
                    self._text.explain(table, name, number)
                raise

    def _texts(self, table: Any) -> Iterator[str]:
        return self._text.texts({column: table[column].to_pylist() for column in self._text.columns})


def _pieces(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        number = 0
        while lines := opened.readlines(CHARACTERS_AT_ONCE):
            yield number, "".join(lines)
            number += 1


class FileShards:
    """Text files, each in rows of whole lines.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        file = self._files[shard]
        with one_line_errors(str(file), "that file"):
            try:
                yield from islice(_pieces(file), first, None)
            except UnicodeDecodeError:  # counted from where the reader's buffer begins
                check_utf8(file)
                raise
