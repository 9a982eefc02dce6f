"""The picture of gates and memory over a training: few axes, because each takes tens of milliseconds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    History = Sequence[Mapping[str, float]]
    Values = NDArray[np.float64]

_COLORS = {
    "closed": ("#3b6fb6", "closed: gate below 0.05"),
    "open": ("#f2a541", "open: gate above 0.95"),
    "saturated": ("#b5403f", "saturated: state beyond ±0.95"),
    "zeros": ("#5b5b66", "zero: state of exactly 0"),
    "between": ("#e2e2e2", "between"),
    "other": ("#e2e2e2", "any other"),
}
_ABOUT_GATES = (
    "Left: each row is one kind of gate in one layer. Its full height is all values of the gate, over units, "
    "tokens and examples. A gate that is always closed or always\nopen no longer chooses. "
    "An open forget gate keeps the layer's memory; an open update gate replaces it. "
    "Half-life: after so many tokens the gates have let\nhalf of a unit's memory go. "
)
_ABOUT_STATES = (
    "Left: each row is one layer without gates. Its full height is all values of its state, over units, "
    "tokens and examples. A state that is saturated or zero\npasses hardly any gradient on. "
)
_ABOUT_DEAD = "Dead units: their state hardly varies, whatever they read."
_ROW = 0.84  # height of a row, the rest is the gap to the next
_MOST_NAMES = 10  # layers in the legend


class _Row(NamedTuple):
    """A row of the left side: its name, and the keys of what fills it from the bottom and from the top."""

    name: str
    low: str | None
    high: str | None


class _Panel(NamedTuple):
    """A panel of the right side: the first of its numbers is a solid line, the second a dashed one."""

    title: str
    unit: str
    keys: tuple[str, ...]
    least: float | None = None  # of a log scale


_HALF_LIFE = _Panel(
    "Half-life of the memory (solid: median unit, dashed: longest tenth)",
    "tokens, log scale",
    ("half_life", "half_life_p90"),
    least=0.01,
)
_NORM = _Panel("Norm of the hidden state", "norm, log scale", ("hidden_norm",), least=1e-4)
_NORMS = _NORM._replace(
    title="Norm of the state (solid: hidden state, dashed: cell)", keys=("hidden_norm", "cell_norm")
)
_DEAD_UNITS = _Panel("Dead units", "% of units", ("dead_units",))


def draw_recurrent_states(history: "History") -> "Figure":
    """Draws gates, half-lives, norms and dead units over the training.

    Args:
        history: What RecurrentStateMonitor logged, oldest first, each with its `step`; at least one entry.
    """
    last = history[-1]
    layers = list(dict.fromkeys(key.split("/")[1] for key in last if key.startswith("recurrent/")))
    rows = [row for layer in layers for row in _rows(layer, last)]
    height = max(6.6, 0.34 * len(rows) + 2.4)  # inches
    figure = new_figure(12.6, height)
    top, bottom = 1 - 1.25 / height, 0.9 / height
    _draw_rows(figure.add_axes((0.13, bottom, 0.31, top - bottom)), rows, history)
    panels = _panels(last)
    gap = 0.45 / height
    share = (top - bottom + gap) / len(panels)
    for i, panel in enumerate(panels):
        axes = figure.add_axes((0.565, top - (i + 1) * share + gap, 0.31, share - gap))
        _draw_panel(axes, panel, layers, history)
        axes.tick_params(labelbottom=i + 1 == len(panels))
    axes.set_xlabel("training step", fontsize=9)
    _explain(figure, rows, layers, int(last["step"]))
    return figure


def _rows(layer: str, last: Mapping[str, float]) -> Iterator[_Row]:
    prefix = f"recurrent/{layer}/"
    for key in last:
        what = key.removeprefix(prefix)
        if what == key:
            continue
        if what.endswith("_open"):
            gate = what.removesuffix("_open")
            yield _Row(f"{_spoken(layer)}, {gate}", f"{prefix}{gate}_closed", key)
        elif what == "saturated":
            yield _Row(f"{_spoken(layer)}, state", None, key)
        elif what == "zeros":
            yield _Row(f"{_spoken(layer)}, state", key, None)


def _panels(last: Mapping[str, float]) -> list[_Panel]:
    measured = {key.rpartition("/")[2] for key in last}
    norms = _NORMS if "cell_norm" in measured else _NORM
    return [_HALF_LIFE, norms, _DEAD_UNITS] if "half_life" in measured else [norms, _DEAD_UNITS]


def _spoken(layer: str) -> str:
    return layer.replace("layer", "layer ").replace("_", " ")


def _series(history: "History", key: str | None) -> "Values":
    """The values of a key over the training, 0 for no key; a single one twice, for a point has no area."""
    values = np.array([0.0 if key is None else entry.get(key, math.nan) for entry in history], float)
    return values.repeat(2) if len(values) == 1 else values


def _steps(history: "History") -> "Values":
    steps = _series(history, "step")
    return steps + np.array([-0.5, 0.5]) if len(history) == 1 else steps


def _colors(row: _Row) -> tuple[str, str, str]:
    """Names of the colours of a row, from bottom to top."""
    middle = "between" if row.low and row.high else "other"
    low, high = (middle if key is None else key.split("/")[2].split("_")[-1] for key in (row.low, row.high))
    return low, middle, high


def _draw_rows(axes: "Axes", rows: Sequence[_Row], history: "History") -> None:
    steps = _steps(history)
    floors = [len(rows) - 1.0 - i for i in range(len(rows))]
    areas: dict[str, list[Values]] = {}
    for row, floor in zip(rows, floors, strict=True):
        low, high = _series(history, row.low), _series(history, row.high)
        lower, upper = floor + _ROW * low, floor + _ROW * (1 - high)
        edges = [np.full_like(steps, floor), lower, upper, np.full_like(steps, floor + _ROW)]
        for color, (below, above) in zip(_colors(row), pairwise(edges), strict=True):
            areas.setdefault(color, []).append(np.stack([steps, below, above]))
        shares = [f"{values[-1]:.0%}" for key, values in ((row.low, low), (row.high, high)) if key]
        place = axes.get_yaxis_transform()  # as far right as the axes, as high as the row
        axes.text(1.02, floor + _ROW / 2, " / ".join(shares), fontsize=8, va="center", transform=place)
    gap = np.full((3, 1), math.nan)
    for color, parts in areas.items():  # one call a colour: many layers have many rows
        x, below, above = np.concatenate([piece for part in parts for piece in (part, gap)], 1)
        axes.fill_between(x, below, above, color=_COLORS[color][0], linewidth=0)
    axes.set_yticks([floor + _ROW / 2 for floor in floors], [row.name for row in rows], fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(_ROW - 1, len(rows))
    gates = any(row.low and row.high for row in rows)
    _above(axes, "Gates of each layer" if gates else "States of each layer")
    _above(axes, "last: closed / open" if gates else "last", across=1.02)
    axes.set_xlabel("training step", fontsize=9)
    _limit_steps(axes, history)


def _draw_panel(axes: "Axes", panel: _Panel, layers: Sequence[str], history: "History") -> None:
    steps, scale = _steps(history), 100 if panel is _DEAD_UNITS else 1
    marker = "o" if len(history) <= 12 else None
    drawn = []
    for color, layer in zip(_layer_colors(len(layers)), layers, strict=True):
        for key, style in zip(panel.keys, ("-", "--"), strict=False):
            values = scale * _series(history, f"recurrent/{layer}/{key}")
            values = np.maximum(values, panel.least or 0)
            axes.plot(steps, values, style, color=color, linewidth=1.5, marker=marker, markersize=3)
            drawn += values[np.isfinite(values)].tolist()
    drawn = drawn or [1.0]
    if panel.least is None:
        top = max(10.0, 1.08 * max(drawn))
        axes.set_ylim(-0.04 * top, top)  # a line of zeros beside the frame, not on it
    else:
        _log_scale(axes, min(drawn), max(drawn))
    _above(axes, panel.title)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    _limit_steps(axes, history)


def _log_scale(axes: "Axes", low: float, high: float) -> None:
    """Whole decades: their ticks are round numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    bottom = math.floor(math.log10(low))
    axes.set_yscale("log")
    axes.set_ylim(10**bottom, 10 ** max(bottom + 1, math.ceil(math.log10(high))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _above(axes: "Axes", text: str, across: float = 0.0) -> None:
    """Writes above the axes; a title of matplotlib's looks for its place in a third of the drawing's time."""
    fontsize = 8 if across else 9
    axes.annotate(text, (across, 1), (0, 5), "axes fraction", "offset points", fontsize=fontsize)


def _limit_steps(axes: "Axes", history: "History") -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    steps = _steps(history)
    axes.set_xlim(steps[0], steps[-1])
    axes.tick_params(labelsize=8.5)
    axes.xaxis.set_major_locator(
        MaxNLocator(5, integer=True) if len(history) > 1 else FixedLocator([steps.mean()])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def _layer_colors(count: int) -> "list[tuple[float, ...]]":
    import matplotlib

    return [tuple(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))]


def _explain(figure: "Figure", rows: Sequence[_Row], layers: Sequence[str], step: int) -> None:
    """Title, what is to be seen, and the legends."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    height = figure.get_figheight()
    gates = any(row.low and row.high for row in rows)
    title = f"What the recurrent layers do, over the training up to step {step:,}"
    figure.text(0.012, 1 - 0.12 / height, title, fontsize=12, weight="bold", va="top")
    about = (_ABOUT_GATES if gates else _ABOUT_STATES) + _ABOUT_DEAD
    figure.text(0.012, 1 - 0.38 / height, about, fontsize=8.5, va="top", linespacing=1.35)
    used = dict.fromkeys(color for row in rows for color in _colors(row))
    areas = [Patch(color=_COLORS[color][0], label=_COLORS[color][1]) for color in used]
    corner = (0.13, 0.05 / height)
    figure.legend(
        handles=areas, loc="lower left", bbox_to_anchor=corner, ncol=len(areas), fontsize=8, frameon=False
    )
    named = sorted({round(i) for i in np.linspace(0, len(layers) - 1, min(len(layers), _MOST_NAMES))})
    colors = _layer_colors(len(layers))
    lines = [Line2D([], [], color=colors[i], linewidth=2, label=_spoken(layers[i])) for i in named]
    corner = (0.877, 1 - 1.2 / height)
    figure.legend(handles=lines, loc="upper left", bbox_to_anchor=corner, fontsize=8.5, frameon=False)
