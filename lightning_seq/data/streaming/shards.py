"""Texts in pieces that can be read apart: the files of a dataset."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lightning_seq.data.sources.arrow_rows import kinds_of, table_rows
from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.files import check_utf8, read_text
from lightning_seq.data.sources.hub import one_line_errors, quietly
from lightning_seq.data.sources.row_files import RowFile

ROWS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 1 << 16  # of a text file


class Shards(Protocol):
    """The texts of a split, in pieces that can be read apart."""

    def __len__(self) -> int:
        """Pieces."""

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a piece from ``first`` on, with their numbers."""


class RowShards:
    """Files of rows.

    Args:
        files: The files.
        text: What of a row is text.
    """

    def __init__(self, files: Sequence[RowFile], text: RowText) -> None:
        self._files = files
        self._text = text

    def __len__(self) -> int:
        return len(self._files)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        return islice(enumerate(self._files[shard].texts(self._text)), first, None)


class DatasetShards:
    """A dataset that only `datasets` reads; its pieces are its files, if it is streamed.

    Args:
        dataset: A Dataset or an IterableDataset.
        text: What of a row is text.
        path: The dataset's name in errors.
    """

    def __init__(self, dataset: Any, text: RowText, path: str) -> None:
        self.fingerprint = ""
        if hasattr(dataset, "to_iterable_dataset"):  # it is not streamed
            self.fingerprint, dataset = dataset._fingerprint, dataset.to_iterable_dataset()
        self._dataset = dataset.with_format("arrow")
        self._text = text
        self._path = path

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the rows of a file from ``first`` on, with their numbers."""
        with one_line_errors(self._path):
            number = 0
            for table in quietly(self._shard(shard).iter(ROWS_AT_ONCE)):
                self._text.check(kinds_of(table.schema), self._path)
                if number + len(table) > first:
                    rows = table_rows(table, self._text, self._path, number)
                    yield from islice(
                        enumerate(map(self._text.text, rows), number), max(first - number, 0), None
                    )
                number += len(table)

    def _shard(self, shard: int) -> Any:
        features = self._dataset.features
        if features is not None:
            self._text.check(kinds_of(features.arrow_schema), self._path)
            return self._dataset.select_columns(self._text.columns).shard(len(self), shard)
        return self._dataset.shard(len(self), shard)


class WholeFileShards:
    """Text files, each a single row.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def texts(self, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
        """Yields the text of a file, if ``first`` is 0."""
        if first == 0:
            yield 0, read_text(self._files[shard])


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
