"""The colours of shares, in all pictures of attention."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_seq.callbacks.heads.canvas import Canvas

UNKNOWN = (224, 224, 224)
"""Grey: what a query may not look at is not the same as what it ignores, nor is what was not measured 0."""

_FAINTEST = 1e-3


def colored(maps: "NDArray[np.float32]", zoom: int = 1, block: int = 1) -> "NDArray[np.uint8]":
    """Colours maps: shares of 0.1% to 100% on a logarithmic scale, and grey where none is.

    Args:
        maps: Shares, (..., queries, keys).
        zoom: How many pixels high and wide each share becomes.
        block: How many rows and columns become one before that: the largest share of them, so that no line
            is lost.

    Returns:
        Red, green and blue, (..., height, width, 3).
    """
    for axis in (-2, -1) if block > 1 else ():
        maps = np.maximum.reduceat(maps, np.arange(0, maps.shape[axis], block), axis=axis)
    brightness = 1 - np.log10(np.clip(maps, _FAINTEST, 1)) / np.log10(_FAINTEST)
    picture: NDArray[np.uint8] = palette()[(brightness * 255).astype(np.uint8)]
    picture[maps == 0] = UNKNOWN
    return picture.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def draw_shares(canvas: "Canvas", x: int, y: int, height: int, title: str) -> None:
    """Draws the colours beside the shares that they stand for, and a title beside these."""
    labels = ["100%", "10%", "1%", "≤ 0.1%"] if height >= 60 else ["100%", "≤ 0.1%"]
    draw_scale(canvas, x, y, height, labels)
    canvas.upright(x + 66, y + height / 2, title, anchor="lm")


def draw_scale(canvas: "Canvas", x: int, y: int, height: int, labels: list[str], width: int = 14) -> None:
    """Draws the colours from much to little, downwards, with labels at equal distances."""
    bar = palette()[np.linspace(255, 0, height).astype(np.uint8)]
    canvas.paste(bar[:, None].repeat(width, axis=1), x, y)
    for i, label in enumerate(labels):
        place = y + i * (height - 1) / (len(labels) - 1)
        canvas.line(x + width, place, x + width + 3, place)
        canvas.text(x + width + 6, place, label, anchor="lm")


@cache
def palette() -> "NDArray[np.uint8]":
    """The 256 colours from little to much, (256, 3)."""
    import matplotlib

    colors: NDArray[np.float64] = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))
    return np.asarray(colors[:, :3] * 255, np.uint8)
