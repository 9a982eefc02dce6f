"""The picture of all heads over the training: a heat map a measure, a row a head."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_seq.callbacks.heads.colours import UNKNOWN, palette
from lightning_seq.callbacks.heads.view import MEASURES
from lightning_seq.errors import InputError
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_KEY = re.compile(r"attention/(\w+)/layer(\d+)_head(\d+)|saliency/(\w+)")
_Row = tuple[int, int]  # layer and head
_SALIENCY: _Row = (1 << 30, 0)  # below all layers
_DPI = 100
_WIDTH, _LEFT, _RIGHT, _ABOVE, _BELOW, _TOP = 440, 112, 56, 52, 34, 64  # pixels


def draw_training(history: Sequence[Mapping[str, Any]]) -> "Figure":
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
    steps = np.array([float(entry["step"]) for entry in history])
    row_height = max(3, min(16, 320 // len(rows)))
    panel = max(40, row_height * len(rows))
    across = min(2, len(table))
    down = -(-len(table) // across)
    width = max(_LEFT + across * (_WIDTH + _RIGHT) + (across - 1) * _LEFT, 640)
    height = _TOP + down * (_ABOVE + panel + _BELOW)
    figure = new_figure(width / _DPI, height / _DPI)
    _head_line(figure, width, height, rows)
    for i, (measure, values) in enumerate(table.items()):
        left = _LEFT + (i % across) * (_WIDTH + _RIGHT + _LEFT)
        bottom = height - _TOP - (i // across) * (_ABOVE + panel + _BELOW) - _ABOVE - panel
        axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, panel / height))
        bar = figure.add_axes(((left + _WIDTH + 8) / width, bottom / height, 10 / width, panel / height))
        _draw(axes, bar, measure, values, steps)
        _label(axes, rows, row_height)
    return figure


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


def _head_line(figure: "Figure", width: int, height: int, rows: list[_Row]) -> None:
    alone = rows == [_SALIENCY]
    title = "Saliency over the training" if alone else "Attention heads over the training"
    what = "A row is the whole model" if alone else "Every row is one head"
    text = (
        f"{what}, from left to right in the steps of the training. Bright: a large value. Grey: not measured."
    )
    figure.text(14 / width, 1 - 10 / height, title, fontsize=12, weight="bold", va="top")
    figure.text(14 / width, 1 - 34 / height, text, fontsize=8.5, va="top")


def _draw(
    axes: "Axes", bar: "Axes", measure: str, values: "NDArray[np.float64]", steps: "NDArray[np.float64]"
) -> None:
    about = MEASURES[measure]
    least, most = 0.0, about.most
    finite = values[np.isfinite(values)]
    if most is None:
        least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        most = most if most > least else least + 1
    # each look is shown until half the way to the next, so that uneven steps keep their places
    middles = (steps[1:] + steps[:-1]) / 2
    first, last = (steps[0], steps[-1]) if steps[-1] > steps[0] else (steps[0] - 0.5, steps[0] + 0.5)
    places = first + (last - first) * (np.arange(_WIDTH) + 0.5) / _WIDTH
    shown = values[:, np.searchsorted(middles, places)]
    known = np.isfinite(shown)
    share = np.clip((np.where(known, shown, least) - least) / (most - least), 0, 1)
    picture = palette()[(share * 255).astype(np.uint8)]
    picture[~known] = UNKNOWN
    axes.imshow(picture, interpolation="nearest", aspect="auto", extent=(first, last, len(values), 0))
    axes.set_title(f"{about.title}\n", fontsize=10, weight="bold", loc="left", pad=3)
    axes.text(0, 1.0, about.explanation, fontsize=8, transform=axes.transAxes, va="bottom")
    bar.imshow(palette()[::-1, None], aspect="auto", extent=(0, 1, least, most))
    bar.set_xticks([])
    bar.set_yticks([least, most], [f"{least:.3g}", f"{most:.3g}"], fontsize=8)
    bar.yaxis.tick_right()
    ticks = sorted(set(steps)) if len(set(steps)) <= 3 else None
    if ticks:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.tick_params(labelsize=8)
    axes.set_xlabel("step", fontsize=8, loc="right", labelpad=1)


def _label(axes: "Axes", rows: list[_Row], row_height: int) -> None:
    """Names each head where there is room, otherwise each layer, and parts the layers by a line."""
    layers = [layer for layer, _ in rows]
    starts = [i for i, layer in enumerate(layers) if i == 0 or layers[i - 1] != layer]
    for start in starts[1:]:
        axes.axhline(start, color="white", linewidth=1)
    if row_height >= 12:
        names = [_name(row, whole=i in starts) for i, row in enumerate(rows)]
        axes.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize=8)
    else:
        ends = [*starts[1:], len(rows)]
        centres = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
        names = [_name(rows[start], whole=True).split(", ")[0] for start in starts]
        axes.set_yticks(centres, names, fontsize=8)
    axes.tick_params(axis="y", length=0)


def _name(row: _Row, whole: bool) -> str:
    layer, head = row
    if row == _SALIENCY:
        return "saliency"
    return f"layer {layer}, head {head}" if whole else f"head {head}"
