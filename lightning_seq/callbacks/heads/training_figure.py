"""The picture of all heads over the training: a heat map a measure, a row a head."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_seq.callbacks.heads.canvas import Canvas, width_of
from lightning_seq.callbacks.heads.colours import UNKNOWN, draw_scale, palette
from lightning_seq.callbacks.heads.view import MEASURES
from lightning_seq.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_KEY = re.compile(r"attention/(\w+)/layer(\d+)_head(\d+)|saliency/(\w+)")
_Row = tuple[int, int]  # layer and head
_SALIENCY: _Row = (1 << 30, 0)  # below all layers
_EDGE, _WIDTH, _SCALE, _TOP = 14, 440, 84, 68  # pixels: the rim, a panel, its scale, the lines above all
_ABOVE, _BELOW = 46, 42  # pixels around a panel, for its title and its steps


class _Panel(NamedTuple):
    """Where a heat map is, and how many pixels it has for each head."""

    left: int
    top: int
    row: int


def draw_training(history: Sequence[Mapping[str, Any]]) -> "Image":
    """Draws how the measures of every head went over the training.

    Args:
        history: The looks, oldest first: `step`, and for each head `attention/<measure>/layer<l>_head<h>`
            (or `saliency/<measure>` for a whole model), maybe NaN. Other keys are ignored.

    Raises:
        InputError: The history holds no measure of a head.
    """
    table, rows = _table(history)
    if not table:
        raise InputError(
            f"the history has {len(history)} looks and no measure of a head, so there is nothing to draw; "
            "look at a model that attends first"
        )
    row = max(3, min(16, 320 // len(rows)))
    names = dict(_names(rows, row))
    left = _EDGE + max(map(width_of, names.values())) + 8
    across, panel = min(2, len(table)), _ABOVE + row * len(rows) + _BELOW
    canvas = Canvas(left + across * (_WIDTH + _SCALE), _TOP + -(-len(table) // across) * panel)
    _head_lines(canvas, alone=rows == [_SALIENCY])
    edges = _edges(np.array([float(entry["step"]) for entry in history]))
    for i, (measure, values) in enumerate(table.items()):
        place = _Panel(left + i % across * (_WIDTH + _SCALE), _TOP + i // across * panel + _ABOVE, row)
        _draw(canvas, place, measure, values, edges)
        for start in _starts(rows)[1:]:
            y = place.top + start * row
            canvas.line(place.left, y, place.left + _WIDTH - 1, y, (255, 255, 255))
        for middle, name in names.items() if i % across == 0 else ():
            canvas.text(left - 6, place.top + middle, name, anchor="rm")
    return canvas.image


def _table(
    history: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, "NDArray[np.float64]"], list[_Row]]:
    """Returns by measure its values, (rows, looks), NaN where there are none, and what the rows are."""
    places: dict[str, tuple[str, _Row]] = {}
    for key in {key for entry in history for key in entry}:
        match = _KEY.fullmatch(key)
        measure = match and (match[1] or match[4])
        if match and measure in MEASURES:
            places[key] = str(measure), (int(match[2]), int(match[3])) if match[1] else _SALIENCY
    rows = sorted({row for _, row in places.values()})
    number = {row: i for i, row in enumerate(rows)}
    found = {measure for measure, _ in places.values()}
    table = {name: np.full((len(rows), len(history)), np.nan) for name in MEASURES if name in found}
    for key, (measure, row) in places.items():
        table[measure][number[row]] = [entry.get(key, np.nan) for entry in history]
    return {name: values for name, values in table.items() if np.isfinite(values).any()} or table, rows


def _head_lines(canvas: Canvas, alone: bool) -> None:
    title = "Saliency over the training" if alone else "Attention heads over the training"
    what = "A row is the whole model" if alone else "Every row is one head"
    canvas.text(_EDGE, 10, title, 17, bold=True)
    canvas.text(
        _EDGE,
        35,
        f"{what}, from left to right in the steps of the training.\n"
        "Bright: a large value. Grey: not measured.",
        12,
    )


def _edges(steps: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Where each look begins, and the last one ends: half the way to its neighbours."""
    middles = (steps[1:] + steps[:-1]) / 2
    if len(middles) == 0:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    return np.array([2 * steps[0] - middles[0], *middles, 2 * steps[-1] - middles[-1]])


def _draw(
    canvas: Canvas,
    place: _Panel,
    measure: str,
    values: "NDArray[np.float64]",
    edges: "NDArray[np.float64]",
) -> None:
    about = MEASURES[measure]
    least, most = _range(values, about.most)
    first, width = edges[0], edges[-1] - edges[0]
    places = first + width * (np.arange(_WIDTH) + 0.5) / _WIDTH
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, least) - least) / (most - least), 0, 1)
    picture = palette()[(share * 255).astype(np.uint8)]
    picture[~known] = UNKNOWN
    picture = picture[:, np.searchsorted(edges[1:-1], places)].repeat(place.row, axis=0)
    canvas.paste(picture, place.left, place.top)
    canvas.text(place.left, place.top - 40, about.title, 13, bold=True)
    canvas.text(place.left, place.top - 22, about.explanation)
    below = place.top + len(picture)
    draw_scale(canvas, place.left + _WIDTH + 8, place.top, len(picture), [f"{most:.3g}", f"{least:.3g}"], 10)
    for step in _ticks(first, edges[-1]):
        x = place.left + (step - first) / width * _WIDTH
        canvas.line(x, below, x, below + 3)
        canvas.text(x, below + 4, f"{step:,}", anchor="ma")
    canvas.text(place.left + _WIDTH + 8, below + 4, "step")


def _range(values: "NDArray[np.float64]", most: float | None) -> tuple[float, float]:
    """The numbers of the darkest and of the brightest colour."""
    if most is not None:
        return 0.0, most
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return least, most if most > least else least + 1


@lru_cache(maxsize=1)
def _ticks(first: float, last: float) -> list[int]:
    """Round steps between two places."""
    from matplotlib.ticker import MaxNLocator

    steps = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1).tick_values(first, last)
    return [int(step) for step in steps if max(first, 0) <= step <= last]


def _starts(rows: Sequence[_Row]) -> list[int]:
    """The rows where a layer begins."""
    return [0, *(i for i, (row, following) in enumerate(pairwise(rows), 1) if row[0] != following[0])]


def _names(rows: Sequence[_Row], height: int) -> Iterator[tuple[float, str]]:
    """Yields names and their middles: of each head where there is room, otherwise of each layer."""
    starts = _starts(rows)
    if height >= 12:
        for i, row in enumerate(rows):
            yield (i + 0.5) * height, _name(row, whole=i in starts)
    else:
        for start, end in pairwise([*starts, len(rows)]):
            yield (start + end) / 2 * height, _name(rows[start], whole=True).split(", ")[0]


def _name(row: _Row, whole: bool) -> str:
    layer, head = row
    if row == _SALIENCY:
        return "saliency"
    return f"layer {layer}, head {head}" if whole else f"head {head}"
