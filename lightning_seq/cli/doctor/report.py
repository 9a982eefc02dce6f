"""What was found, as a table of 80 columns or as JSON."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = 80
NAME = 18  # columns of a row's name


@dataclass
class Section:
    """A part of the report: for people rows of a name and a text, for programs values by name."""

    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any, text: str | list[str] | None = None) -> None:
        """Adds a row.

        Args:
            name: What it is.
            value: For programs; of a list each item is a row of its own.
            text: For people, where it is more than the value.
        """
        self.values[name.replace(" ", "_").replace("-", "_")] = value
        shown = _shown(value) if text is None else text
        lines = shown if isinstance(shown, list) else [shown]
        self.rows += [(name if i == 0 else "", line) for i, line in enumerate(lines)]


def _shown(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [str(each) for each in value]
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(count: float) -> str:
    """Returns a number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def as_table(sections: Sequence[Section], problems: Sequence[str]) -> str:
    """Returns the sections, and then what is wrong."""
    lines: list[str] = []
    for section in sections:
        lines += [section.title, *(line for row in section.rows for line in _row(*row)), ""]
    if not problems:
        return "\n".join([*lines, "all is well"])
    lines.append(f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to mend")
    for number, problem in enumerate(problems, 1):
        lines += _wrapped(f"{number}. {problem}", "  ", "     ")
    return "\n".join(lines)


def _row(name: str, text: str) -> list[str]:
    return _wrapped(text, f"  {name:{NAME - 1}s} ", " " * (NAME + 2))


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=others) or [first.rstrip()]


def as_json(sections: Sequence[Section], problems: Sequence[str]) -> str:
    """Returns one object: the sections by their titles, and the problems."""
    content: dict[str, Any] = {section.title: section.values for section in sections}
    return json.dumps({**content, "problems": list(problems)})
