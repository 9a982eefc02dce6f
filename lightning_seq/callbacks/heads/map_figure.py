"""The picture of one head: who looks at whom, with the tokens at both sides."""

from typing import TYPE_CHECKING

import numpy as np

from lightning_seq.callbacks.heads.canvas import Canvas, width_of
from lightning_seq.callbacks.heads.colours import colored, draw_shares
from lightning_seq.callbacks.heads.labels import label
from lightning_seq.callbacks.heads.view import KINDS, MEASURES, SALIENCY, LayerView, View, written
from lightning_seq.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 840  # of the map, in pixels, for many tokens
_MOST_LABELS = 64
_EDGE, _HEAD, _RIGHT = 14, 74, 120  # pixels at the rim, of the lines above, and for the scale
_LOOKS = "Row: the token that looks. Column: the token looked at. Bright: much attention. Grey: out of sight."
_DEPENDS = (
    "Row: the prediction after this token. Column: a token read. Bright: depends much. Grey: out of sight."
)


def draw_map(view: View, layer: int, head: int) -> "Image":
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
    most = max(shown.maps[head].shape)
    zoom = max(1, min(32, _SIDE // most), 96 // most)
    picture = colored(shown.maps[head], zoom, block=-(-most // (2 * _SIDE)))
    height, width = picture.shape[:2]
    rows, columns = (_labels(view.tokens, count) for count in shown.maps[head].shape)
    turned = any(len(name) > 1 for name in columns.values())
    left = _EDGE + max(map(width_of, rows.values())) + 8
    top = _HEAD + (max(map(width_of, columns.values())) if turned else 14) + 6
    alone = shown.name == SALIENCY
    title = f"{'Saliency' if alone else f'Attention of {shown.name}, head {shown.heads[head]}'}, {view.name}"
    explanation = _DEPENDS if alone else _LOOKS
    least = 2 * _EDGE + max(width_of(title, 17, bold=True), width_of(explanation))
    canvas = Canvas(max(left + width + _RIGHT, least), top + max(height, 60) + _EDGE)
    canvas.text(_EDGE, 10, title, 17, bold=True)
    canvas.text(_EDGE, 35, _telling(shown, head), 13)
    canvas.text(_EDGE, 54, explanation)
    canvas.paste(picture, left, top)
    cell = height / shown.maps.shape[1]
    for i, name in rows.items():
        middle = top + (i + 0.5) * cell
        canvas.line(left - 3, middle, left - 1, middle)
        canvas.text(left - 5, middle, name, anchor="rm")
    for i, name in columns.items():
        middle = left + (i + 0.5) * width / shown.maps.shape[2]
        canvas.line(middle, top - 3, middle, top - 1)
        (canvas.upright if turned else canvas.text)(middle, top - 5, name, anchor="md")
    about = "share of what the prediction depends on" if alone else "share of the attention"
    bar = min(max(height, 60), 400)
    draw_shares(canvas, left + width + 18, top, bar, about if bar >= width_of(about) else "")
    return canvas.image


def _check(name: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"{name} is {index}, and there are {count}; give an index from 0 to {count - 1}")


def _labels(tokens: tuple[str, ...], count: int) -> dict[int, str]:
    """Tokens where the axis is that of the text, numbers where it is that of something else."""
    places = range(0, count, -(-count // _MOST_LABELS))
    if count != len(tokens):
        return {i: str(i) for i in places}
    if all(token.startswith(" ") for token in tokens[1:]):  # words: the space before each says nothing
        tokens = tuple(token.removeprefix(" ") or token for token in tokens)
    return {i: label(tokens[i]) for i in places}


def _telling(layer: LayerView, head: int) -> str:
    """The measures that say most: the pattern that fits best, then how sharp and how far."""
    values = {name: float(numbers[head]) for name, numbers in layer.measures.items() if name in MEASURES}
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    patterns = sorted((name for name in KINDS if name in known), key=lambda name: -known[name])
    chosen = [*patterns[:1], *(name for name in ("entropy", "max_probability", "distance") if name in known)]
    return "   ".join(f"{MEASURES[name].title} {written(known[name], name)}" for name in chosen)
