"""Files of rows, CSV, JSON and Parquet, read as they are written: only the columns that are used matter."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lightning_seq.data.sources.arrow_rows import parquet_rows
from lightning_seq.data.sources.columns import TEXT, RowText
from lightning_seq.data.sources.files import READ_AT_ONCE, check_utf8_stream, naming_unreadable
from lightning_seq.data.sources.hub import one_line_errors
from lightning_seq.data.sources.json_rows import json_rows
from lightning_seq.errors import InputError

LONGEST_FIELD = 2**31 - 1  # bytes; the csv module's own limit is 128 kB


@dataclass(frozen=True)
class RowFile:
    """A file of rows.

    Args:
        format: "csv", "json" or "parquet".
        place: Its path, or a URL that `datasets` can open.
        name: What it is called in errors.
        options: How it is written, where that is not the usual way: for CSV arguments of ``csv.reader``,
            ``names`` of columns in place of a first line, and the ``encoding``; for JSON the ``field`` of
            the rows, and the ``encoding``.
    """

    format: str
    place: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> BinaryIO:
        """Opens the file for reading."""
        if "://" not in self.place:
            path = Path(self.place)
            with naming_unreadable(path):
                return path.open("rb")
        from datasets.utils.file_utils import xopen

        return io.BufferedReader(xopen(self.place, "rb"), READ_AT_ONCE)

    def texts(self, text: RowText) -> Iterator[str]:
        """Yields the text of each row."""
        with one_line_errors(self.name, "that file"):
            yield from map(text.text, self._rows(text))

    def _rows(self, text: RowText) -> Iterator[Sequence[str | None]]:
        if self.format == "parquet":
            with closing(self.open()) as opened:
                yield from parquet_rows(opened, text, self.name)
            return
        with self._decoded() as opened:
            if self.format == "csv":
                yield from _csv_rows(opened, text, self.name, self.options)
            else:
                yield from json_rows(opened, text, self.name, self.options.get("field"))

    @contextmanager
    def _decoded(self) -> Iterator[io.TextIOWrapper]:
        encoding = self.options.get("encoding", "utf-8-sig")
        with io.TextIOWrapper(self.open(), encoding=encoding, newline="") as opened:
            try:
                yield opened
            except UnicodeDecodeError as error:  # counted from where the reader's buffer begins
                if "encoding" not in self.options:
                    with closing(self.open()) as again:
                        check_utf8_stream(again, self.name)
                raise InputError(f"{self.name!r} is not {encoding}: {error.reason}") from error


def _csv_rows(
    opened: io.TextIOWrapper, text: RowText, name: str, options: Mapping[str, Any]
) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_FIELD)
    dialect = {key: value for key, value in options.items() if key not in ("names", "encoding")}
    rows = filter(None, csv.reader(opened, strict=True, **dialect))  # an empty line is no row
    number = -1
    try:
        names = options.get("names") or next(rows, None)
        if names is None:
            return
        _check_names(names, text, name)
        columns = [names.index(column) for column in text.columns]
        for number, row in enumerate(rows):
            if len(row) != len(names):
                raise InputError(
                    f"row {number:,} of {name!r} has {len(row)} values and the file {len(names)} columns; "
                    "put values with commas, quotes or line breaks in quotes"
                )
            yield [row[column] for column in columns]
    except csv.Error as error:
        raise InputError(
            f"row {number + 1:,} of {name!r} is not CSV ({error}); put values with commas, quotes or line "
            "breaks in quotes, and write a quote in them twice"
        ) from error


def _check_names(names: Sequence[str], text: RowText, name: str) -> None:
    text.check(dict.fromkeys(names, TEXT), name)
    for column in text.columns:
        if list(names).count(column) > 1:
            raise InputError(f"{name!r} has several columns {column!r}; give each its own name")
