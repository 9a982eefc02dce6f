"""What of a row is its text: one column, or several that a template joins."""

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from lightning_seq.data.sources.files import not_utf8
from lightning_seq.errors import InputError, did_you_mean


class RowText:
    """Reads the text of rows.

    Args:
        column: The column that holds the text.
        template: Text with columns in braces, in place of ``column``: "{title}: {text}". What is in braces is
            a name and nothing else, and a brace itself is written twice.
        blank_lines: Whether a row without text is an empty line of the text.
    """

    def __init__(self, column: str, template: str | None = None, blank_lines: bool = False) -> None:
        self._without_text = "\n" if blank_lines else ""
        self._argument = "text_column" if template is None else "template"
        self.given = column if template is None else template
        self._parts = [("", column)] if template is None else _parse(template)
        self.columns = list(dict.fromkeys(name for _, name in self._parts if name is not None))

    def texts(self, rows: Mapping[str, Sequence[str | None]]) -> Iterator[str]:
        """Yields the text of each row: an empty one, or an empty line, where all of its columns are empty."""
        for values in zip(*(rows[name] for name in self.columns), strict=True):
            row = dict(zip(self.columns, values, strict=True))
            if any(values):
                yield "".join(before + (row[name] or "" if name else "") for before, name in self._parts)
            else:
                yield self._without_text

    def check(self, features: Mapping[str, Any], path: str) -> None:
        """Refuses columns that are not there, or hold no text."""
        some = "can be one of" if self._argument == "text_column" else "can name any of"
        fitting = [name for name, feature in features.items() if _holds_text(feature)]
        choices = (
            f"{self._argument} {some} {fitting}" if fitting else f"no column of {list(features)} holds text"
        )
        for column in self.columns:
            if column not in features:
                hint = did_you_mean(column, features)
                raise InputError(f"{path!r} has no column {column!r}{hint}; {choices}")
            if not _holds_text(features[column]):
                kind = getattr(features[column], "dtype", "structures")
                raise InputError(f"column {column!r} of {path!r} holds {kind}, not text; {choices}")

    def explain(self, table: Any, path: str, first: int = 0) -> None:
        """Refuses an Arrow table of rows that are no text, by the first of them.

        Args:
            table: The rows.
            path: Where they come from.
            first: The number of the first of them there.
        """
        import datasets

        self.check(datasets.Features.from_arrow_schema(table.schema), path)
        for column in self.columns:
            for row, content in enumerate(table[column].cast("large_binary").to_pylist(), first):
                try:
                    (content or b"").decode("utf-8")
                except UnicodeDecodeError as error:
                    where = f" of column {column!r} in row {row:,}"
                    raise not_utf8(path, error, where=where) from error

    def __repr__(self) -> str:
        return f"{self._argument}={self.given!r}" + (", blank_lines" if self._without_text else "")


def _holds_text(feature: Any) -> bool:
    return "string" in getattr(feature, "dtype", "")


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Returns pieces of text, each with the column that comes behind it."""
    mending = 'give columns in braces, such as "{title}: {text}", and write a brace itself twice'
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        reason = str(error)[:1].lower() + str(error)[1:]
        raise InputError(f"template {template!r} cannot be read ({reason}); {mending}") from error
    if any(format_ or conversion for *_, format_, conversion in parsed):
        raise InputError(f"template {template!r} has a format or a conversion in its braces; {mending}")
    if not any(name for _, name, *_ in parsed) or any(name == "" for _, name, *_ in parsed):
        raise InputError(f"template {template!r} does not name its columns; {mending}")
    return [(before, name) for before, name, *_ in parsed]
