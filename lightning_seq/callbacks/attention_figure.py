"""The picture of all heads: one mosaic, because a matplotlib axes for every head takes seconds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Layers = Sequence[NDArray[np.float32]]

_FAINTEST = 1e-3
_UNSEEN = (224, 224, 224)  # grey: what a query may not look at is not the same as what it ignores
_DPI = 100
_EXPLANATION = (
    "Every square is one head. Each of its rows is one token that looks (query, first token at the top);\n"
    "its columns are the tokens looked at (keys, first token at the left). Bright: much of the attention.\n"
    "Above it its entropy, 0: each token looks at one token, 1: evenly at all it may. Grey: out of its sight."
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 110, 100, 64  # margins around the maps, in pixels
_GAP, _CAPTION = 10, 17  # between maps, and above each for its entropy


class _Grid(NamedTuple):
    """How many maps there are, and how many pixels each has."""

    layers: int
    heads: int
    map_height: int
    map_width: int
    zoom: int

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


def draw_heads(maps: "Layers", entropies: "Layers", step: int) -> "Figure":
    """Draws every head of every layer, layers as rows and heads as columns.

    Args:
        maps: Per layer the attention of its heads, (heads, queries, keys).
        entropies: Per layer the entropy of its heads between 0 and 1, (heads,).
        step: The training step, for the title.
    """
    grid = _grid(maps)
    height, width = _TOP + grid.height + _BOTTOM, _LEFT + max(grid.width, 560) + _RIGHT
    figure = new_figure(width / _DPI, height / _DPI)
    # to the pixel, so that every token of a map gets as many pixels as the next
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, grid.width / width, grid.height / height))
    extent = (0, grid.width, grid.height, 0)
    axes.imshow(_mosaic(maps, grid), interpolation="nearest", aspect="auto", extent=extent)
    _label(axes, entropies, grid, keys=maps[0].shape[2])
    title = f"Where the attention heads look in one validation example, step {step:,}"
    figure.text(14 / width, 1 - 12 / height, title, fontsize=12, weight="bold", va="top")
    figure.text(14 / width, 1 - 36 / height, _EXPLANATION, fontsize=8.5, va="top", linespacing=1.35)
    bar = min(grid.height, 400)  # a longer one is harder to read, not easier
    left, bottom = _LEFT + grid.width + 18, _BOTTOM + grid.height - bar
    _draw_scale(figure.add_axes((left / width, bottom / height, 14 / width, bar / height)))
    return figure


def _grid(maps: "Layers") -> _Grid:
    layers, heads = len(maps), max(len(layer) for layer in maps)
    queries, keys = (max(layer.shape[axis] for layer in maps) for axis in (1, 2))
    most = max(layers, heads)
    side = 64 if most > 12 else min(300, max(128, 560 // most))  # large enough to read a single map
    zoom = max(1, side // max(queries, keys))
    return _Grid(layers, heads, queries * zoom, keys * zoom, zoom)


def _mosaic(maps: "Layers", grid: _Grid) -> "NDArray[np.uint8]":
    mosaic = np.full((grid.height, grid.width, 3), 255, np.uint8)
    colors = (_colormap()(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    for layer, heads in enumerate(maps):
        brightness = 1 - np.log10(np.clip(heads, _FAINTEST, 1)) / np.log10(_FAINTEST)
        picture = colors[(brightness * 255).astype(np.uint8)]
        picture[heads == 0] = _UNSEEN
        picture = picture.repeat(grid.zoom, axis=1).repeat(grid.zoom, axis=2)
        for head, image in enumerate(picture):
            top, left = grid.corner(layer, head)
            mosaic[top : top + image.shape[0], left : left + image.shape[1]] = image
    return mosaic


def _label(axes: "Axes", entropies: "Layers", grid: _Grid, keys: int) -> None:
    axes.set_frame_on(False)
    rows = [grid.corner(layer, 0)[0] + grid.map_height / 2 for layer in range(grid.layers)]
    columns = [grid.corner(0, head)[1] + grid.map_width / 2 for head in range(grid.heads)]
    axes.set_yticks(rows, [f"layer {layer}" for layer in range(grid.layers)], fontsize=9)
    axes.set_xticks(columns, [f"head {head}" for head in range(grid.heads)], fontsize=9)
    axes.tick_params(length=0, pad=4)
    axes.set_xlabel(f"key: the token looked at, 0 to {keys - 1} in every square  →", fontsize=9, loc="left")
    axes.set_ylabel("←  query: the token that looks", fontsize=9, loc="top")
    # text is what takes the time: many heads get the number alone
    name = "entropy " if grid.map_width >= 90 and grid.layers * grid.heads <= 48 else ""
    for layer, values in enumerate(entropies):
        for head, value in enumerate(values):
            top = grid.corner(layer, head)[0] - 3
            axes.text(columns[head], top, f"{name}{value:.2f}", fontsize=8, ha="center", va="bottom")


def _draw_scale(axes: "Axes") -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import LogNorm

    bar = Colorbar(axes, ScalarMappable(LogNorm(_FAINTEST, 1), _colormap()))
    bar.set_ticks([1, 0.1, 0.01, 0.001], labels=["100%", "10%", "1%", "≤ 0.1%"], fontsize=8)
    bar.ax.minorticks_off()
    bar.set_label("share of the query's attention", fontsize=8)


def _colormap() -> "Colormap":
    import matplotlib

    return matplotlib.colormaps["magma"]
