"""The picture of all heads: one mosaic, because a matplotlib axes for every head takes seconds."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_seq.callbacks.heads.colours import colored, draw_scale
from lightning_seq.callbacks.heads.view import MEASURES, SALIENCY, LayerView, Measure, View, written
from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_DPI = 100
_MOST_PIXELS = 6000  # of all maps together in a row or a column
_ATTENTION = (
    "Every square is one head. Each of its rows is one token that looks (query, first token at the top);\n"
    "its columns are the tokens looked at (keys, first token at the left). Bright: much of the attention.\n"
)
_ALONE = (
    "Which earlier tokens the predictions depend on. Each row is one prediction (first token at the top);\n"
    "its columns are the tokens read so far (first token at the left). Bright: it depends much on this one.\n"
)
_BESIDES = " The row saliency is no head: which earlier tokens the predictions depend on."
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 110, 112, 64  # margins around the maps, in pixels
_GAP, _CAPTION = 10, 17  # between maps, and above each for its measure


class _Grid(NamedTuple):
    """How many maps there are, how many pixels each has, and by how much a token is enlarged or shrunk."""

    layers: int
    heads: int
    map_height: int
    map_width: int
    zoom: int
    block: int

    @property
    def height(self) -> int:
        return self.layers * (self.map_height + _CAPTION + _GAP) - _GAP

    @property
    def width(self) -> int:
        return self.heads * (self.map_width + _GAP) - _GAP

    def corner(self, layer: int, head: int) -> tuple[int, int]:
        """Top and left of a map."""
        top = layer * (self.map_height + _CAPTION + _GAP) + _CAPTION
        return top, head * (self.map_width + _GAP)


def draw_heads(view: View, measure: str = "entropy") -> "Figure":
    """Draws every head of every layer, layers as rows and heads as columns.

    Args:
        view: What the model attends to.
        measure: The number above each map, one of the names of `MEASURES`.

    Raises:
        InputError: There is no such measure, or no layer.
    """
    if measure not in MEASURES:
        known = ", ".join(MEASURES)
        raise InputError(f"measure is {measure!r}{did_you_mean(measure, MEASURES)}; choose one of {known}")
    if not view.layers:
        raise InputError(
            "the view has no layer, so there is nothing to draw; give one of a model that attends"
        )
    grid = _grid(view)
    height, width = _TOP + grid.height + _BOTTOM, _LEFT + max(grid.width, 560) + _RIGHT
    figure = new_figure(width / _DPI, height / _DPI)
    # to the pixel, so that every token of a map gets as many pixels as the next
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, grid.width / width, grid.height / height))
    extent = (0, grid.width, grid.height, 0)
    axes.imshow(_mosaic(view, grid), interpolation="nearest", aspect="auto", extent=extent)
    _label(axes, view, measure, grid)
    title, explanation = _words(view, MEASURES[measure])
    figure.text(14 / width, 1 - 12 / height, title, fontsize=12, weight="bold", va="top", parse_math=False)
    figure.text(14 / width, 1 - 36 / height, explanation, fontsize=8.5, va="top", linespacing=1.35)
    bar = min(grid.height, 400)  # a longer one is harder to read, not easier
    left, bottom = _LEFT + grid.width + 18, _BOTTOM + grid.height - bar
    draw_scale(figure.add_axes((left / width, bottom / height, 14 / width, bar / height)), _share(view))
    return figure


def _grid(view: View) -> _Grid:
    layers, heads = len(view.layers), max(len(layer.maps) for layer in view.layers)
    queries, keys = (max(layer.maps.shape[axis] for layer in view.layers) for axis in (1, 2))
    most = max(layers, heads)
    side = 64 if most > 12 else min(300, max(128, 560 // most))  # large enough to read a single map
    zoom = max(1, side // max(queries, keys))
    block = -(-max(queries, keys) // max(64, _MOST_PIXELS // most))
    return _Grid(layers, heads, -(-queries // block) * zoom, -(-keys // block) * zoom, zoom, block)


def _mosaic(view: View, grid: _Grid) -> "NDArray[np.uint8]":
    mosaic = np.full((grid.height, grid.width, 3), 255, np.uint8)
    for row, layer in enumerate(view.layers):
        maps = layer.maps
        for axis in (1, 2) if grid.block > 1 else ():  # the largest of a block, so that no line is lost
            maps = np.maximum.reduceat(maps, np.arange(0, maps.shape[axis], grid.block), axis=axis)
        picture = colored(maps).repeat(grid.zoom, axis=1).repeat(grid.zoom, axis=2)
        for head, image in enumerate(picture):
            top, left = grid.corner(row, head)
            mosaic[top : top + image.shape[0], left : left + image.shape[1]] = image
    return mosaic


def _label(axes: "Axes", view: View, measure: str, grid: _Grid) -> None:
    axes.set_frame_on(False)
    rows = [grid.corner(layer, 0)[0] + grid.map_height / 2 for layer in range(grid.layers)]
    columns = [grid.corner(0, head)[1] + grid.map_width / 2 for head in range(grid.heads)]
    axes.set_yticks(rows, [layer.name for layer in view.layers], fontsize=9, parse_math=False)
    common = _common_heads(view)
    axes.set_xticks(columns[: len(common)], [f"head {head}" for head in common], fontsize=9)
    axes.tick_params(length=0, pad=4)
    alone = _alone(view)
    keys = max(layer.maps.shape[2] for layer in view.layers)
    key, query = (
        ("token read", "prediction") if alone else ("key: the token looked at", "query: the token that looks")
    )
    axes.set_xlabel(f"{key}, 0 to {keys - 1} in every square  →", fontsize=9, loc="left")
    axes.set_ylabel(f"←  {query}", fontsize=9, loc="top")
    # text is what takes the time: many heads get the number alone
    roomy = grid.map_width >= 110 and grid.layers * grid.heads <= 12
    name = f"{MEASURES[measure].title} " if roomy else ""
    for row, layer in enumerate(view.layers):
        for column, number in enumerate(layer.heads):
            own = "" if common or layer.name == SALIENCY else f"head {number}: "
            text = own + _number(layer, column, measure, name)
            if text:
                top = grid.corner(row, column)[0] - 3
                axes.text(columns[column], top, text, fontsize=8, ha="center", va="bottom")


def _common_heads(view: View) -> tuple[int, ...]:
    """The heads as columns are called, empty where layers show different ones."""
    shown = [layer.heads for layer in view.layers if layer.name != SALIENCY]
    longest = max(shown, key=len, default=())
    return longest if all(heads == longest[: len(heads)] for heads in shown) else ()


def _number(layer: LayerView, head: int, measure: str, name: str) -> str:
    value = float(layer.measures[measure][head]) if measure in layer.measures else np.nan
    return "" if np.isnan(value) else f"{name}{written(value, measure)}"


def _words(view: View, measure: Measure) -> tuple[str, str]:
    alone, names = _alone(view), {layer.name for layer in view.layers}
    what = "What the predictions depend on" if alone else "Where the attention heads look"
    below = f"Above it: {measure.title} ({measure.explanation}).\nGrey: out of its sight."
    besides = "" if alone or SALIENCY not in names else _BESIDES
    return f"{what} in one example, {view.name}", (_ALONE if alone else _ATTENTION) + below + besides


def _share(view: View) -> str:
    return "share of what the prediction depends on" if _alone(view) else "share of the query's attention"


def _alone(view: View) -> bool:
    """Whether there is saliency and no head."""
    return all(layer.name == SALIENCY for layer in view.layers)
