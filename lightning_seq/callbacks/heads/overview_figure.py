"""The picture of all heads: a map for each."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_seq.callbacks.heads.canvas import Canvas, width_of
from lightning_seq.callbacks.heads.colours import colored, draw_shares
from lightning_seq.callbacks.heads.view import MEASURES, SALIENCY, LayerView, Measure, View, written
from lightning_seq.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

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
_EDGE, _RIGHT, _TOP, _BOTTOM = 14, 110, 126, 52  # pixels at the rim and around the maps
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
        """Left and top of a map."""
        top = layer * (self.map_height + _CAPTION + _GAP) + _CAPTION
        return head * (self.map_width + _GAP), top


def draw_heads(view: View, measure: str = "entropy") -> "Image":
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
    left = _EDGE + 20 + max(width_of(layer.name, 13) for layer in view.layers) + 6
    title, explanation = _words(view, MEASURES[measure])
    least = 2 * _EDGE + max(width_of(title, 17, bold=True), width_of(explanation, 12))
    canvas = Canvas(max(left + grid.width + _RIGHT, least), _TOP + grid.height + _BOTTOM)
    canvas.text(_EDGE, 10, title, 17, bold=True)
    canvas.text(_EDGE, 35, explanation, 12)
    _paste(canvas, view, grid, left)
    _label(canvas, view, grid, left)
    _write(canvas, view, measure, grid, left)
    bar, about = min(grid.height, 400), _share(view)  # a longer one is harder to read, not easier
    draw_shares(canvas, left + grid.width + 18, _TOP, bar, about if bar >= width_of(about) else "")
    return canvas.image


def _grid(view: View) -> _Grid:
    layers, heads = len(view.layers), max(len(layer.maps) for layer in view.layers)
    queries, keys = (max(layer.maps.shape[axis] for layer in view.layers) for axis in (1, 2))
    most = max(layers, heads)
    side = 64 if most > 12 else min(300, max(128, 560 // most))  # large enough to read a single map
    zoom = max(1, side // max(queries, keys))
    block = -(-max(queries, keys) // max(64, _MOST_PIXELS // most))
    return _Grid(layers, heads, -(-queries // block) * zoom, -(-keys // block) * zoom, zoom, block)


def _paste(canvas: Canvas, view: View, grid: _Grid, left: int) -> None:
    for row, layer in enumerate(view.layers):
        for head, picture in enumerate(colored(layer.maps, grid.zoom, grid.block)):
            x, y = grid.corner(row, head)
            canvas.paste(picture, left + x, _TOP + y)


def _label(canvas: Canvas, view: View, grid: _Grid, left: int) -> None:
    """Names layers, heads and what the sides of a map are."""
    for row, layer in enumerate(view.layers):
        middle = _TOP + grid.corner(row, 0)[1] + grid.map_height / 2
        canvas.text(left - 6, middle, layer.name, 13, anchor="rm")
    below = _TOP + grid.height
    for column, head in enumerate(_common_heads(view)):
        middle = left + grid.corner(0, column)[0] + grid.map_width / 2
        canvas.text(middle, below + 4, f"head {head}", 13, anchor="ma")
    alone = _alone(view)
    keys = max(layer.maps.shape[2] for layer in view.layers)
    key = "token read" if alone else "key: the token looked at"
    query = "prediction" if alone else "query: the token that looks"
    canvas.text(left, below + 24, f"{key}, 0 to {keys - 1} in every square  →", 12)
    canvas.upright(_EDGE, _TOP, f"←  {query}", 12, anchor="la")


def _write(canvas: Canvas, view: View, measure: str, grid: _Grid, left: int) -> None:
    """Writes its number above each map, and its head where the columns do not say it."""
    named = f"{MEASURES[measure].title} 0.00"
    name = f"{MEASURES[measure].title} " if grid.map_width >= width_of(named) else ""
    common = _common_heads(view)
    for row, layer in enumerate(view.layers):
        for column, head in enumerate(layer.heads):
            own = "" if common or layer.name == SALIENCY else f"head {head}: "
            x, y = grid.corner(row, column)
            text = own + _number(layer, column, measure, name)
            canvas.text(left + x + grid.map_width / 2, _TOP + y - 3, text, anchor="md")


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
