"""The picture of one head: who looks at whom, with the tokens at both sides."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_seq.callbacks.heads.colours import colored, draw_scale
from lightning_seq.callbacks.heads.labels import label
from lightning_seq.callbacks.heads.view import KINDS, MEASURES, SALIENCY, LayerView, View, written
from lightning_seq.errors import InputError
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100
_SIDE = 840  # of the map, in pixels, for many tokens
_MOST_LABELS = 64
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 120, 150, 20  # margins around the map, in pixels
_LOOKS = "Row: the token that looks. Column: the token looked at. Bright: much attention. Grey: out of sight."
_DEPENDS = (
    "Row: the prediction after this token. Column: a token read. Bright: depends much. Grey: out of sight."
)


def draw_map(view: View, layer: int, head: int) -> "Figure":
    """Draws the map of one head with its tokens.

    Args:
        view: What the model attends to.
        layer: Index into `view.layers`.
        head: Index into the heads of that layer.

    Raises:
        InputError: There is no such layer or head.
    """
    _check("layer", layer, len(view.layers))
    shown = view.layers[layer]
    _check("head", head, len(shown.heads))
    picture = colored(shown.maps[head])
    queries, keys = picture.shape[:2]
    zoom = max(1, min(32, _SIDE // max(queries, keys)), 96 // max(queries, keys))
    block = -(-max(queries, keys) // (2 * _SIDE))
    map_width, map_height = keys * zoom // block, queries * zoom // block
    width, height = _LEFT + max(map_width, 500) + _RIGHT, _TOP + max(map_height, 40) + _BOTTOM
    figure = new_figure(width / _DPI, height / _DPI)
    bottom = height - _TOP - map_height
    axes = figure.add_axes((_LEFT / width, bottom / height, map_width / width, map_height / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    _label(axes, view.tokens, queries, keys)
    alone = shown.name == SALIENCY
    title = f"{shown.name if alone else f'{shown.name}, head {shown.heads[head]}'}, {view.name}"
    for text, size, top in (
        (title, 12, 10),
        (_telling(shown, head), 9.5, 34),
        (_DEPENDS if alone else _LOOKS, 8.5, 54),
    ):
        weight = "bold" if top == 10 else "normal"
        figure.text(
            14 / width, 1 - top / height, text, fontsize=size, weight=weight, va="top", parse_math=False
        )
    bar = min(max(map_height, 40), 400)
    left, low = _LEFT + map_width + 18, height - _TOP - bar
    scale = figure.add_axes((left / width, low / height, 14 / width, bar / height))
    draw_scale(scale, "share of the row" if bar > 100 else "")
    return figure


def _check(name: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"{name} is {index}, and there are {count}; give an index from 0 to {count - 1}")


def _label(axes: "Axes", tokens: tuple[str, ...], queries: int, keys: int) -> None:
    rows, columns = (range(0, count, -(-count // _MOST_LABELS)) for count in (queries, keys))
    axes.set_yticks(rows, _names(rows, tokens, queries), fontsize=7.5)
    axes.set_xticks(columns, _names(columns, tokens, keys), fontsize=7.5, rotation=90)
    axes.xaxis.tick_top()
    axes.tick_params(length=2, pad=2)


def _names(places: range, tokens: tuple[str, ...], count: int) -> list[str]:
    """Tokens where the axis is that of the text, numbers where it is that of something else."""
    return [label(tokens[i]) if count == len(tokens) else str(i) for i in places]


def _telling(layer: LayerView, head: int) -> str:
    """The measures that say most: the pattern that fits best, then how sharp and how far."""
    values = {name: float(numbers[head]) for name, numbers in layer.measures.items() if name in MEASURES}
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    patterns = sorted((name for name in KINDS if name in known), key=lambda name: -known[name])
    chosen = [*patterns[:1], *(name for name in ("entropy", "max_probability", "distance") if name in known)]
    return "   ".join(f"{MEASURES[name].title} {written(known[name], name)}" for name in chosen)
