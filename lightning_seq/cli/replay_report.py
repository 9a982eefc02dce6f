"""What a replay found, as lines for people and as JSON for programs."""

import json
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from lightning_seq.callbacks.incidents.files import jsonable

COLUMNS = 80
_NAMES = 12  # columns of the names
_MOST_LAYERS = 8
_LAYER = 40


def as_json(result: dict[str, Any]) -> str:
    """Returns one object in one line; what is not finite is "nan", "inf" or "-inf", as in incident.json."""
    return json.dumps(jsonable(result), allow_nan=False)


def as_text(result: dict[str, Any]) -> str:
    """Returns lines of 80 columns."""
    return "\n".join([*_what(result), *_comparison(result), *_layers(result), *_rows(result)])


def _what(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'incident':{_NAMES}s}{result['incident']}"
    yield _row("reason", f"step {result['step']:,}: {'; '.join(result['reasons'])}")
    batches, ranks = result["batches"], result["ranks"]
    size = f"{batches} batch{'es' if batches > 1 else ''}" + (f" on {ranks} ranks" if ranks > 1 else "")
    yield _row("step", f"{result['model']}, {size}, precision {result['precision']}")
    if result["recorded_on"] != result["replayed_on"]:
        yield _row(
            "device",
            f"recorded on {result['recorded_on']}, replayed on {result['replayed_on']}: last digits differ, "
            "and dropout draws other numbers",
        )
    versions = result["versions"]
    if versions["recorded"] != versions["replayed"]:
        texts = (" ".join(f"{name} {number}" for name, number in each.items()) for each in versions.values())
        yield _row("versions", "recorded with {}, replayed with {}".format(*texts))


def _row(name: str, text: str) -> str:
    indent = " " * _NAMES
    return textwrap.fill(f"{name:{_NAMES}s}{text}", COLUMNS, subsequent_indent=indent)


def _comparison(result: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'':{_NAMES}s}{'recorded':>16s}{'replayed':>16s}"
    for name in ("loss", "norm"):
        recorded, replayed = result[name]["recorded"], result[name]["replayed"]
        numbers = f"{_number(recorded):>16s}{_number(replayed):>16s}"
        yield f"{name:{_NAMES}s}{numbers}  {_verdict(recorded, replayed)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.9g}"


def _verdict(recorded: float | None, replayed: float | None) -> str:
    difference = relative_difference(recorded, replayed)
    if difference == 0:
        return "the same to the bit"
    return f"differs by {difference:.1e} of it" if math.isfinite(difference) else "NOT as recorded"


def relative_difference(recorded: float | None, replayed: float | None) -> float:
    """Returns how far the two are apart, over the recorded one; infinity where they cannot be compared."""
    if recorded is None or replayed is None:
        return 0.0 if recorded is replayed else math.inf
    if recorded == replayed or (math.isnan(recorded) and math.isnan(replayed)):
        return 0.0
    if not (math.isfinite(recorded) and math.isfinite(replayed)):
        return math.inf
    return abs(replayed - recorded) / max(abs(recorded), 1e-300)


def _layers(result: dict[str, Any]) -> Iterator[str]:
    yield ""
    if result["weights_not_finite"]:
        names = result["weights_not_finite"]
        yield _row("weights", f"{len(names)} were not finite before the step: {names[0]}, ...")
    if result["first_not_finite"]:
        yield _row("first", f"{result['first_not_finite']} was the first to return what is not finite")
    yield f"{'layer':{_LAYER}s}{'gradient norm':>16s}{'usual':>12s}{'times':>10s}"
    layers = sorted(result["layers"], key=_growth, reverse=True)
    for name, norm, usual in layers[:_MOST_LAYERS]:
        known = usual is not None and usual > 0
        shown = name if len(name) < _LAYER else "…" + name[2 - _LAYER :]
        times = f"{norm / usual:.3g}" if known and math.isfinite(norm) else "-"
        yield f"{shown:{_LAYER}s}{norm:>16.4g}{f'{usual:.4g}' if known else '-':>12s}{times:>10s}"
    if len(layers) > _MOST_LAYERS:
        yield f"and {len(layers) - _MOST_LAYERS} more"


def _growth(layer: list[Any]) -> float:
    _, norm, usual = layer
    if not math.isfinite(norm):
        return math.inf
    return float(norm / usual if usual is not None and usual > 0 else norm)


def _rows(result: dict[str, Any]) -> Iterator[str]:
    if not result["rows"]:
        return
    yield ""
    yield "rows with the largest loss, as the model evaluates them (without dropout)"
    for row in result["rows"]:
        place = f"batch {row['batch']}, row {row['row']}"
        place = f"rank {row['rank']}, {place}" if result["ranks"] > 1 else place
        yield f"  {place}: {row['loss']:.4g} a token, {row['tokens']} tokens"
        token = f"{row['hardest_loss']:.4g} for {row['hardest_token']!r}"
        yield _cut(f"    hardest token {row['hardest']}: {token} after …{row['before'][-40:]!r}")
        yield _cut(f"    {row['text']!r}")


def _cut(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"
