"""Arrow tables: what their columns hold, and that as text."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from lightning_seq.data.sources.columns import BINARY, NULL, STRUCTURES, TEXT, RowText
from lightning_seq.data.sources.files import not_utf8

ROWS_AT_ONCE = 1000


def parquet_rows(opened: BinaryIO, text: RowText, name: str) -> Iterator[Sequence[str | None]]:
    """Yields what each row of a Parquet file has in the columns of ``text``."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    file = parquet.ParquetFile(opened)
    text.check(kinds_of(file.schema_arrow), name)
    number = 0
    for group in range(file.num_row_groups):  # one by one: a file may be larger than the memory
        for table in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=text.columns):
            yield from table_rows(table, text, name, number)
            number += table.num_rows


def table_rows(table: Any, text: RowText, name: str, first: int) -> Iterator[Sequence[str | None]]:
    """Yields what each row of an Arrow table has in the columns of ``text``.

    Args:
        table: The rows.
        text: What of a row is text.
        name: Where they come from, in errors.
        first: The number of the first of them there.
    """
    columns = [_strings(table.column(column), column, name, first) for column in text.columns]
    return zip(*columns, strict=True)


def kinds_of(schema: Any) -> dict[str, str]:
    """Returns what each column of an Arrow schema holds."""
    return {field.name: _kind(field.type) for field in schema}


def _kind(type_: Any) -> str:
    from pyarrow import BaseExtensionType, types

    if types.is_dictionary(type_):
        return _kind(type_.value_type)
    if type_ == "string_view" or types.is_string(type_) or types.is_large_string(type_):
        return TEXT
    if types.is_null(type_):
        return NULL
    if types.is_nested(type_):
        return STRUCTURES
    return BINARY if "binary" in str(type_) or isinstance(type_, BaseExtensionType) else str(type_)


def _strings(column: Any, named: str, path: str, first: int) -> list[str | None]:
    from pyarrow import types

    if types.is_floating(column.type):
        # as Python prints them, with the digits that a float of this size has
        scalar = column.type.to_pandas_dtype()
        return [None if value is None else str(scalar(value)) for value in column.to_pylist()]
    if _kind(column.type) not in (TEXT, NULL):
        return list(column.cast("string").to_pylist())
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        _check_utf8(column, named, path, first)
        raise


def _check_utf8(column: Any, named: str, path: str, first: int) -> None:
    for row, content in enumerate(column.cast("large_binary").to_pylist(), first):
        try:
            (content or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, where=f" of column {named!r} in row {row:,}") from error
