"""The pictures of gradients through time: curves over a training, and models side by side."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    Curve = tuple[Sequence[int], Sequence[float]]

LINES = 24
"""Most curves of one training that are drawn: more cannot be told apart."""

_BOTTOM = 1e-6  # less is as good as nothing, and would press what is more into a corner
_TOP = 1e6
_DPI = 100


class Line(NamedTuple):
    """One model's curve.

    Attributes:
        label: The model's name.
        figures: What is to be said of it, such as its decay per token.
        lags: In tokens.
        curve: Norm of the gradient at each, relative to lag 1.
    """

    label: str
    figures: str
    lags: Sequence[int]
    curve: Sequence[float]


def draw_training(history: Sequence[dict[str, Any]], of: str = "input") -> "Figure":
    """Draws one curve for each measurement, coloured by its step.

    Args:
        history: Measurements with ``step``, ``lags``, ``curve`` and ``decay_per_step``, ascending; of very
            many some are drawn, the first and the last among them.
        of: Where the gradient is taken: "input" or "state".
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize

    figure, axes = _axes("Gradient through time, over the training", of, 0.79)
    chosen = sorted({round(i) for i in np.linspace(0, len(history) - 1, LINES)})
    steps = [history[i]["step"] for i in chosen]
    norm = Normalize(steps[0], steps[-1] if steps[-1] > steps[0] else steps[0] + 1)
    for i, step in zip(chosen, steps, strict=True):
        ends = i in (0, len(history) - 1)
        label = f"step {step:,}: {factor(history[i]['decay_per_step'])} per token" if ends else None
        _draw(axes, history[i]["lags"], history[i]["curve"], _colors()(norm(step)), label, 2.2 if ends else 1)
    curves = [(history[i]["lags"], history[i]["curve"]) for i in chosen]
    _finish(axes, curves, min(len(chosen), 2))
    if len(chosen) > 1:
        bar = Colorbar(figure.add_axes((0.905, 0.11, 0.018, 0.745)), ScalarMappable(norm, _colors()))
        bar.set_label("training step", fontsize=9)
        bar.ax.tick_params(labelsize=9)
    return figure


def draw_models(lines: Sequence[Line], of: str = "input") -> "Figure":
    """Draws the curves of several models in one picture.

    Args:
        lines: A curve each.
        of: Where the gradient is taken: "input" or "state".
    """
    import matplotlib

    figure, axes = _axes("Gradient through time", of, 0.875)
    colors = matplotlib.colormaps["tab10" if len(lines) <= 10 else "turbo"]
    for i, line in enumerate(lines):
        color = colors(i if len(lines) <= 10 else i / (len(lines) - 1))
        _draw(axes, line.lags, line.curve, color, f"{line.label}: {line.figures}", 2.0)
    _finish(axes, [(line.lags, line.curve) for line in lines], len(lines))
    return figure


def factor(decay: float) -> str:
    """Returns a decay per token as the factor that it is, with as many digits as tell it from 1."""
    return f"×{decay:.2f}" if decay < 0.995 or decay >= 1.005 else f"×{decay:.3f}"


def _axes(title: str, of: str, width: float) -> "tuple[Figure, Axes]":
    figure = new_figure(9, 5.4)
    axes = figure.add_axes((0.095, 0.11, width, 0.745))
    figure.text(0.095, 0.955, title, fontsize=13, weight="bold", va="center")
    explanation = (
        f"How strongly the loss at one token depends on the {of} so many tokens before it. A straight\n"
        "line down: each token takes its share, it vanishes. Flat: nothing is lost. Up: it explodes."
    )
    figure.text(0.095, 0.932, explanation, fontsize=8.5, va="top", linespacing=1.3)
    axes.set_yscale("log")
    axes.set_xlabel(f"lag: tokens between the {of} and the loss", fontsize=10)
    axes.set_ylabel("norm of the gradient, relative to lag 1", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.minorticks_off()  # they take more time than all the rest, as do powers of ten in mathematical type
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _draw(
    axes: "Axes", lags: Sequence[int], curve: Sequence[float], color: Any, label: str | None, width: float
) -> None:
    shown = [(lag, value) for lag, value in zip(lags, curve, strict=True) if lag >= 1]
    x, y = zip(*shown, strict=True)
    # zero is minus infinity here: a value below the picture draws the fall
    axes.plot(x, np.maximum(y, _BOTTOM * 1e-6), color=color, label=label, linewidth=width)


def _finish(axes: "Axes", curves: "Sequence[Curve]", labels: int) -> None:
    """Sets what is seen, with room for ``labels`` lines of legend above it, and says where 1% is."""
    values = [value for lags, curve in curves for lag, value in zip(lags, curve, strict=True) if lag >= 1]
    last = max(lags[-1] for lags, _ in curves)
    low = math.log10(max(min(*values, 5e-3), _BOTTOM))
    high = math.log10(min(max(values), _TOP))
    legend = min(0.06 * labels + 0.05, 0.6)  # its share of the height
    axes.set_ylim(10 ** (low - 0.1), 10 ** (high + (high - low) * legend / (1 - legend)))
    axes.set_xlim(1, last)
    axes.axhline(0.01, color="0.45", linewidth=0.9, linestyle="--", zorder=1)
    axes.annotate(
        "1% of lag 1",
        (last, 0.01),
        (-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color="0.35",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
        zorder=5,
    )
    axes.legend(loc="upper right", fontsize=9, framealpha=0.9)


def _colors() -> "Colormap":
    import matplotlib

    return matplotlib.colormaps["viridis_r"]
