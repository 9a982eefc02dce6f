"""The colours of shares, in all pictures of attention."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

UNKNOWN = (224, 224, 224)
"""Grey: what a query may not look at is not the same as what it ignores, nor is what was not measured 0."""

_FAINTEST = 1e-3


def colored(maps: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    """Maps as red, green and blue: shares of 0.1% to 100% on a logarithmic scale, and grey where none is."""
    brightness = 1 - np.log10(np.clip(maps, _FAINTEST, 1)) / np.log10(_FAINTEST)
    picture: NDArray[np.uint8] = palette()[(brightness * 255).astype(np.uint8)]
    picture[maps == 0] = UNKNOWN
    return picture


def draw_scale(axes: "Axes", title: str) -> None:
    """Fills narrow axes with the colours and the shares that they stand for."""
    gradient = palette()[::-1, None]  # far cheaper than a Colorbar
    axes.imshow(gradient, aspect="auto", extent=(0, 1, 0, 3))
    axes.set_yticks([3, 2, 1, 0], ["100%", "10%", "1%", "≤ 0.1%"], fontsize=8)
    axes.set_xticks([])
    axes.yaxis.set_label_position("right")
    axes.yaxis.tick_right()
    axes.set_ylabel(title, fontsize=8)


@cache
def palette() -> "NDArray[np.uint8]":
    """The 256 colours from little to much, (256, 3)."""
    import matplotlib

    colors: NDArray[np.float64] = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))
    return np.asarray(colors[:, :3] * 255, np.uint8)
