"""What of a row is its text: one column, or several that a template joins."""

from collections.abc import Mapping, Sequence
from string import Formatter

from lightning_seq.errors import InputError, did_you_mean

TEXT, NULL, STRUCTURES, BINARY = "text", "null", "structures", "binary"


class RowText:
    """Reads the text of rows.

    Args:
        column: The column that holds the text.
        template: Text with columns in braces, in place of ``column``: "{title}: {text}". What is in braces is
            a name and nothing else, and a brace itself is written twice. Numbers and dates are put in as they
            are written.
        blank_lines: Whether a row without text is an empty line of the text.
    """

    def __init__(self, column: str, template: str | None = None, blank_lines: bool = False) -> None:
        self._without_text = "\n" if blank_lines else ""
        self.only_strings = template is None
        self._argument = "text_column" if template is None else "template"
        self.given = column if template is None else template
        self._parts = [("", column)] if template is None else _parse(template)
        self.columns = list(dict.fromkeys(name for _, name in self._parts if name is not None))

    def text(self, values: Sequence[str | None]) -> str:
        """Returns the text of a row.

        Args:
            values: What the row has in each of ``columns``. Where all of them are empty, the text is empty
                too, or an empty line.
        """
        if not any(values):
            return self._without_text
        row = dict(zip(self.columns, values, strict=True))
        return "".join(before + (row[name] or "" if name else "") for before, name in self._parts)

    def check(self, kinds: Mapping[str, str], path: str) -> None:
        """Refuses columns that are not there, or hold something that is not taken for text.

        Args:
            kinds: What each column holds: TEXT, or the name of another type.
            path: Where the columns are.
        """
        some = "can be one of" if self.only_strings else "can name any of"
        fitting = [name for name, kind in kinds.items() if self.takes(kind)]
        choices = (
            f"{self._argument} {some} {fitting}" if fitting else f"no column of {list(kinds)} holds text"
        )
        for column in self.columns:
            if column not in kinds:
                hint = did_you_mean(column, kinds)
                raise InputError(f"{path!r} has no column {column!r}{hint}; {choices}")
            if not self.takes(kinds[column]):
                raise InputError(f"column {column!r} of {path!r} holds {kinds[column]}, not text; {choices}")

    def takes(self, kind: str) -> bool:
        """Says whether a column of this kind is taken: text, and in a template numbers and dates too."""
        return kind in (TEXT, NULL) if self.only_strings else kind not in (STRUCTURES, BINARY)

    def __repr__(self) -> str:
        return f"{self._argument}={self.given!r}" + (", blank_lines" if self._without_text else "")


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
