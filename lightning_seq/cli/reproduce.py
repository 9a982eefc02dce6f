"""What ``lightning-seq reproduce`` finds in the directory of a run, beside what the recipe states."""

import csv
import math
import platform
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_seq import checkpoints
from lightning_seq.errors import InputError
from lightning_seq.recipe_header import UNMEASURED, RecipeHeader, Result

COLUMNS = 80
_NAMES = 29  # columns of the metrics' names


def compare(header: RecipeHeader, directory: Path) -> dict[str, Any]:
    """Compares the hash of the data and each result.

    Args:
        header: What the recipe states.
        directory: Of the run.

    Returns:
        Plain values. ``reproduced`` is None where nothing is stated; ``others`` are then the figures found.

    Raises:
        InputError: The run has no metrics.csv.
    """
    found, digits = _metrics(directory), _data_hash(directory)
    same = digits == header.data_hash if header.data_hash else None
    results = [_row(stated, stated.among(found.get(stated.metric, []))) for stated in header.results]
    holds = same is not False and all(row["holds"] for row in results)
    return {
        "data": {"expected": header.data_hash, "found": digits, "same": same},
        "results": results,
        "others": {} if results else {name: _plain(each[-1]) for name, each in found.items() if _told(name)},
        "reproduced": holds if results or not holds else None,
    }


def _row(stated: Result, found: float | None) -> dict[str, Any]:
    known = found if found is not None and math.isfinite(found) else None
    return {
        "metric": stated.name,
        "expected": stated.value,
        "found": _plain(found),
        "difference": None if known is None else stated.difference(known),
        "tolerance": stated.tolerance,
        "holds": stated.holds(found),
    }


def _plain(value: float | None) -> float | str | None:
    """Returns a number, or "nan" or "inf", of which JSON has no numbers."""
    return value if value is None or math.isfinite(value) else str(value)


def _told(name: str) -> bool:
    return name.startswith("val_") or name == "train_loss"


def _metrics(directory: Path) -> dict[str, list[float]]:
    """Returns the values of each metric, in the order in which they were logged."""
    path = directory / "metrics.csv"
    if not path.is_file():
        raise InputError(f"the training left no {path}: leave out what keeps it from training and logging")
    found: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    found.setdefault(name, []).append(float(value))
    return found


def _data_hash(directory: Path) -> str | None:
    """Returns the digits that ``fit`` printed for the text, from a checkpoint; none of data without text."""
    for path in sorted(directory.glob("checkpoints/*.ckpt"), reverse=True)[:1]:
        for entry in checkpoints.read(path).values():
            identity = entry.get("identity") if isinstance(entry, dict) else None
            if isinstance(identity, dict) and (
                digits := re.match("sha256 (.{8})", str(identity.get("text")))
            ):
                return digits[1]
    return None


def as_table(result: dict[str, Any], header: RecipeHeader) -> str:
    """Returns what was compared, at most 80 columns wide but for paths."""
    data, seconds = result["data"], result["seconds"]
    lines = ["", _line("metric", "expected", "found", "difference", "tolerance", "holds")]
    if data["found"] or data["expected"]:
        lines.append(_line("data (sha256)", data["expected"], data["found"], holds=data["same"]))
    for row in result["results"]:
        off = "-" if row["difference"] is None else f"{row['difference']:+.2f}%"
        tolerance = f"{row['tolerance']:g}%"
        lines.append(_line(row["metric"], row["expected"], row["found"], off, tolerance, row["holds"]))
    lines += [_line(name, None, value) for name, value in result["others"].items()]
    lines.append(_line("time in seconds", seconds["expected"], seconds["found"]))
    return "\n".join([*lines, "", *map(_filled, _conclusion(result, header))])


def _line(
    name: str, expected: Any, found: Any, off: str = "", tolerance: str = "", holds: str | bool | None = ""
) -> str:
    said = holds if isinstance(holds, str) else {True: "yes", False: "no", None: ""}[holds]
    cells = f"{_cell(expected):>12s}{_cell(found):>12s}{off:>11s}{tolerance:>10s}{said:>6s}"
    return f"{name[-_NAMES:]:{_NAMES}s}{cells}".rstrip()


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.5g}"


def _conclusion(result: dict[str, Any], header: RecipeHeader) -> Iterator[str]:
    if header.measured != UNMEASURED:
        yield f"expected as measured on {header.measured}"
    if result["changed"]:
        yield f"changed: {', '.join(result['changed'])}: so the results need not hold"
    if result["data"]["same"] is False:
        here = f" (that was Python {header.python}'s, and this is {platform.python_version()})"
        yield f"the data is another text{here if header.python else ''}: so the results need not hold"
    if result["reproduced"] is None:
        yield "nothing to compare with: the recipe states no result, as none is measured yet"
    elif result["reproduced"]:
        yield "reproduced: all of it holds"
    else:
        off = [row["metric"] for row in result["results"] if not row["holds"]]
        off += ["the data"] if result["data"]["same"] is False else []
        yield f"not reproduced: {', '.join(off)}"
    yield f"run: {result['run']}"


def _filled(text: str) -> str:
    return textwrap.fill(
        text, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
