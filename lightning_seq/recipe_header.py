"""Reads the header of a recipe: whence its data is, under which licence, and which results were measured.

Those are six comment lines, one after the other, before the recipe's content. Imports nothing heavy.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_seq.errors import InputError

KEYS = ("source", "licence", "citation", "data", "result", "measured")
UNMEASURED = "not yet measured"
GENERATED = "generated"

_DATA = re.compile(rf"([0-9a-f]{{8}})\b.*|{GENERATED}\b.*|{UNMEASURED}")
_RESULT = re.compile(r"(best )?([\w/.@-]+) (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?) within (\d+(?:\.\d+)?)%")
_MEASURED = re.compile(rf"(.+), (\d+(?:\.\d+)?) (s|min|h), ([A-Z][a-z]+ \d{{4}})|{UNMEASURED}")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}

_EXPECTED = {
    "data": f"8 digits of a sha256 [for Python X.Y], or {GENERATED!r}, or {UNMEASURED!r}",
    "result": f"METRIC VALUE within TOLERANCE%, several separated by '; ', or {UNMEASURED!r}",
    "measured": f"HARDWARE, 41 s (or min, h), MONTH YEAR, or {UNMEASURED!r}",
}


@dataclass(frozen=True)
class Result:
    """One figure that a recipe states.

    Attributes:
        metric: A column of metrics.csv.
        value: What was measured.
        tolerance: How many percent of ``value`` another machine may be off.
        best: Whether the best of all values is meant, rather than the last.
    """

    metric: str
    value: float
    tolerance: float
    best: bool = False

    @property
    def name(self) -> str:
        """The metric, as the header writes it."""
        return f"best {self.metric}" if self.best else self.metric

    def among(self, values: Sequence[float]) -> float | None:
        """Returns the one of a metric's values that is meant: the best is the largest of an accuracy."""
        if not self.best:
            return values[-1] if values else None
        choose = max if "accuracy" in self.metric else min
        return choose(filter(math.isfinite, values), default=None)

    def difference(self, found: float) -> float:
        """Returns by how many percent of the stated value ``found`` is off."""
        return 100 * (found - self.value) / abs(self.value)

    def holds(self, found: float | None) -> bool:
        """Tells whether ``found`` is as stated; what is missing or NaN is not."""
        return found is not None and abs(self.difference(found)) <= self.tolerance


@dataclass(frozen=True)
class RecipeHeader:
    """What a recipe states; ``data`` and ``measured`` as they are written.

    Attributes:
        source: Where the data comes from.
        licence: Of the data.
        citation: Of data or method.
        data: The hash of the text, or that there is none.
        results: The figures; none where they are not yet measured.
        measured: On what, how long, and when.
    """

    source: str
    licence: str
    citation: str
    data: str
    results: tuple[Result, ...]
    measured: str

    @property
    def data_hash(self) -> str | None:
        """The hash that ``fit`` prints for the same text; none where nothing is stated."""
        found = _DATA.fullmatch(self.data)
        return found[1] if found else None

    @property
    def python(self) -> str | None:
        """The version of Python that the hash is of, where it depends on it."""
        found = re.search(r"Python (\d+\.\d+)", self.data)
        return found[1] if found else None

    @property
    def seconds(self) -> float | None:
        """How long the whole command took."""
        found = _MEASURED.fullmatch(self.measured)
        return float(found[2]) * _SECONDS[found[3]] if found and found[2] else None


def read(path: Path) -> RecipeHeader:
    """Returns the header of a recipe.

    Args:
        path: The recipe's file.

    Raises:
        InputError: There is no header, a line of it is missing, or one says what cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith(f"# {KEYS[0]}:")), None)
    if first is None:
        raise InputError(
            f"{path} has no header: six comment lines, `# source: ...` to `# measured: ...`, are expected "
            "before its content (as in `lightning-seq recipes show quickstart`)"
        )
    lines += [""] * len(KEYS)  # of a file that ends within the header
    found = {key: _value(path, first + n, lines[first + n], key) for n, key in enumerate(KEYS)}
    result = found.pop("result")
    return RecipeHeader(**found, results=_results(result, f"{path} line {first + 1 + KEYS.index('result')}"))


def _value(path: Path, number: int, line: str, key: str) -> str:
    start, value = f"# {key}:", line.partition(":")[2].strip()
    if not line.startswith(start) or not value:
        got = repr(line) if line else "nothing"
        raise InputError(f"{path} line {number + 1}: {got}, and `{start} ...` is expected here")
    pattern = {"data": _DATA, "measured": _MEASURED}.get(key)
    if pattern and not pattern.fullmatch(value):
        raise InputError(f"{path} line {number + 1}: {key} is {value!r}, and {_EXPECTED[key]} is expected")
    return value


def _results(text: str, where: str) -> tuple[Result, ...]:
    if text == UNMEASURED:
        return ()
    return tuple(_result(part, where) for part in text.split("; "))


def _result(text: str, where: str) -> Result:
    try:
        best, metric, value, tolerance = _RESULT.fullmatch(text).groups()  # type: ignore[union-attr]
        result = Result(metric, float(value), float(tolerance), bool(best))
    except (AttributeError, ValueError) as error:
        raise InputError(f"{where}: result is {text!r}, and {_EXPECTED['result']} is expected") from error
    if result.value == 0:
        raise InputError(f"{where}: result is {text!r}, and of 0 there are no percent: state another metric")
    return result
