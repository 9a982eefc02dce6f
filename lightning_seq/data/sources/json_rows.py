"""Rows of JSON: objects line by line, or an array of them, with numbers as they are written."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from lightning_seq.data.sources.columns import NULL, STRUCTURES, TEXT, RowText
from lightning_seq.data.sources.files import READ_AT_ONCE
from lightning_seq.errors import InputError

LOOKED_FOR_COLUMNS = 1000  # rows: a column that none of them has is not there


class _Integer(str):
    """An integer as it is written."""

    kind = "int"


class _Float(str):
    """A floating-point number as it is written."""

    kind = "float"


_DECODER = json.JSONDecoder(parse_int=_Integer, parse_float=_Float, parse_constant=_Float)


def json_rows(
    opened: io.TextIOWrapper, text: RowText, name: str, field: str | None = None
) -> Iterator[Sequence[str | None]]:
    """Yields what each row has in the columns of ``text``.

    Args:
        opened: The file.
        text: What of a row is text.
        name: The file in errors.
        field: Of the one object that the file is, the member that has the rows.
    """
    rows = enumerate(_objects(opened, name, field))
    head, missing = list[tuple[int, dict[str, Any]]](), set(text.columns)
    for number, row in islice(rows, LOOKED_FOR_COLUMNS):
        head.append((number, row))
        missing -= row.keys()
        if not missing:
            break
    if head and missing:
        kinds = {key: _kind(value) for _, row in reversed(head) for key, value in row.items()}
        text.check(kinds, name)
    for number, row in chain(head, rows):
        yield [_value(row.get(column), column, number, text, name) for column in text.columns]


def _kind(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, list | dict):
        return STRUCTURES
    if isinstance(value, _Integer | _Float):
        return value.kind
    return TEXT if isinstance(value, str) else "bool"


def _value(value: Any, column: str, number: int, text: RowText, name: str) -> str | None:
    if value is None or type(value) is str:
        return value
    if text.takes(_kind(value)):
        return str(value) if isinstance(value, str) else str(value).lower()  # true, false
    kind = getattr(value, "kind", type(value).__name__)
    raise InputError(
        f"row {number:,} of {name!r} holds {kind}, not text, in column {column!r}; give text in every row"
    )


def _objects(opened: io.TextIOWrapper, name: str, field: str | None) -> Iterator[dict[str, Any]]:
    values = _values(opened, name) if field is None else _whole(opened.read(), name, field)
    for number, value in enumerate(values):
        if type(value) is str:
            yield {"text": value}
        elif isinstance(value, dict):
            yield value
        else:
            kind = getattr(value, "kind", type(value).__name__)
            raise InputError(f"row {number:,} of {name!r} is {kind}, not an object; give columns by name")


def _values(opened: io.TextIOWrapper, name: str) -> Iterator[Any]:
    lines = filter(str.strip, opened)
    for number, line in enumerate(lines):
        if number == 0 and line.lstrip().startswith("["):
            yield from _items(line, opened, name)
            return
        try:
            yield _DECODER.decode(line.rstrip())
        except ValueError as error:
            if number == 0 and line.strip() == "{":  # one object over several lines
                yield from _whole(line + opened.read(), name)
                return
            raise _not_json(name, number, error) from error


def _items(text: str, opened: io.TextIOWrapper, name: str) -> Iterator[Any]:
    """Yields the items of an array, of which no more is kept than an item needs."""
    buffer, place, number, at_once = text, text.index("[") + 1, 0, READ_AT_ONCE
    while True:
        while place < len(buffer) and (buffer[place].isspace() or (buffer[place] == "," and number)):
            place += 1
        if buffer[place : place + 1] == "]":
            return
        try:
            item, place = _DECODER.raw_decode(buffer, place)
        except ValueError as error:
            more = opened.read(at_once)
            if not more:
                raise _not_json(name, number, error) from error
            buffer, place, at_once = buffer[place:] + more, 0, at_once * 2
        else:
            yield item
            number, at_once = number + 1, READ_AT_ONCE


def _whole(text: str, name: str, field: str | None = None) -> Iterator[Any]:
    """Yields the rows of a file that is one object: of columns, or with the rows in ``field``."""
    try:
        value = _DECODER.decode(text)
    except ValueError as error:
        raise _not_json(name, 0, error) from error
    if field is not None:
        value = value.get(field) if isinstance(value, dict) else None
        if value is None:
            raise InputError(f"{name!r} has no field {field!r} with the rows")
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        try:
            yield from (dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True))
        except ValueError as error:
            raise InputError(f"the columns of {name!r} differ in length; give each as many rows") from error
    elif isinstance(value, Mapping):
        yield value


def _not_json(name: str, row: int, error: ValueError) -> InputError:
    reason = getattr(error, "msg", str(error))
    return InputError(f"row {row:,} of {name!r} is not JSON ({reason}); correct it or remove it")
