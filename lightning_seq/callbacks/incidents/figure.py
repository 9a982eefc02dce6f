"""The picture of an incident: loss and gradient norm around it, and the layers that stood out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lightning_seq.callbacks.incidents.detector import Step
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LINE, _LIMIT, _INCIDENT, _BROKEN, _USUAL = "#4477aa", "#777777", "#bb2233", "#e3a5ad", "#aac4e0"
_MOST_LAYERS = 12
_NARROW = 150  # a range of so many times has more ticks than powers of ten


@dataclass
class Incident:
    """A step that was not as the others, or several in a row that began with it.

    Attributes:
        step: The first such step.
        reasons: What was wrong with it, in words.
        loss_limit: From which loss on it would have been a spike; infinity during the warm-up.
        norm_limit: The same of the norm.
        before: The steps before it.
        layers: By layer, the norm of its gradient and what is usual, the median of recent steps or NaN.
        optimizer: Whose step.
        after: Some of the steps that came after it.
        steps: How many were wrong in a row.
        directory: Where it is saved; empty where it is not.
    """

    step: Step
    reasons: list[str]
    loss_limit: float
    norm_limit: float
    before: list[Step]
    layers: dict[str, tuple[float, float]]
    optimizer: int = 0
    after: list[Step] = field(default_factory=list)
    steps: int = 1
    directory: str = ""

    def stood_out(self) -> list[tuple[str, float, float]]:
        """Returns layers, their norms and usual norms; what is not finite or grew most comes first."""
        rows = [(name, norm, usual) for name, (norm, usual) in self.layers.items()]
        return sorted(rows, key=lambda row: _growth(row[1], row[2]), reverse=True)


def _growth(norm: float, usual: float) -> float:
    if not math.isfinite(norm):
        return math.inf
    return norm / usual if usual > 0 else norm


def draw_incident(incident: Incident) -> "Figure":
    """Draws loss and norm of the steps around it, and its layers beside what is usual of them."""
    number = incident.step.step
    steps, limits = (
        [*incident.before, incident.step, *incident.after],
        (incident.loss_limit, incident.norm_limit),
    )
    title = f"What happened at step {number:,}"
    figure, right = _draw_steps(steps, limits, title, "; ".join(incident.reasons), number)
    _draw_layers(right, incident)
    return figure


def draw_calm(steps: Sequence[Step], limits: tuple[float, float]) -> "Figure":
    """Draws the last steps of a training that had no incident."""
    title = f"No incident up to step {steps[-1].step:,}"
    figure, right = _draw_steps(steps, limits, title, "no loss or gradient stood out", None)
    right.set_axis_off()
    right.text(0, 0.9, "Layers are shown here\nwhen there is an incident.", va="top", fontsize=10)
    return figure


def _draw_steps(
    steps: Sequence[Step], limits: tuple[float, float], title: str, subtitle: str, marked: int | None
) -> "tuple[Figure, Axes]":
    """Draws the left half; returns the axes of the right one."""
    figure = new_figure(12, 6)
    left, width = 0.075, 0.525
    upper = figure.add_axes((left, 0.51, width, 0.34))
    lower = figure.add_axes((left, 0.11, width, 0.34), sharex=upper)
    figure.text(left, 0.945, title, fontsize=13, weight="bold")
    figure.text(left, 0.905, subtitle, fontsize=10)
    numbers = [each.step for each in steps]
    losses = [math.nan if each.loss is None else each.loss for each in steps]
    _draw_series(upper, "loss", numbers, losses, limits[0], marked)
    _draw_series(lower, "norm of the gradient", numbers, [each.norm for each in steps], limits[1], marked)
    lower.set_xlabel("optimizer step")
    lower.locator_params(axis="x", integer=True)
    upper.tick_params(labelbottom=False)
    return figure, figure.add_axes((0.77, 0.19, 0.21, 0.61))


def _draw_series(
    axes: "Axes", name: str, steps: list[int], values: list[float], limit: float, marked: int | None
) -> None:
    """One line, what is not finite at the upper edge, and the limit."""
    finite = [value for value in values if math.isfinite(value)]
    shown = [value if math.isfinite(value) else math.nan for value in values]
    axes.plot(steps, shown, ".-", color=_LINE, linewidth=1, markersize=4)
    logarithmic = bool(finite) and min(finite) > 0 and max(finite) > 20 * min(finite)
    if logarithmic:
        axes.set_yscale("log")
        _write_plainly(axes.yaxis, max(finite) / min(finite))
    axes.set_ylabel(f"{name} (log)" if logarithmic else name)
    if math.isfinite(limit):
        axes.axhline(limit, color=_LIMIT, linestyle="--", linewidth=1, label=f"a spike from {limit:.3g} on")
    for step, value in zip(steps, values, strict=True):
        if step == marked:
            _mark(axes, step, value)
    axes.grid(alpha=0.25)
    axes.margins(y=0.15)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1.01, 0.97), ncols=2, frameon=False)


def _mark(axes: "Axes", step: int, value: float) -> None:
    axes.axvline(step, color=_INCIDENT, linewidth=1, alpha=0.5)
    if math.isfinite(value):
        axes.plot([step], [value], "o", color=_INCIDENT, markersize=7, label=f"step {step:,}: {value:.4g}")
    else:
        axes.plot([], [], "x", color=_INCIDENT, markersize=8, label=f"step {step:,}: {value}, not finite")
        axes.plot(step, 0.93, "x", color=_INCIDENT, markersize=9, transform=axes.get_xaxis_transform())


def _draw_layers(axes: "Axes", incident: Incident) -> None:
    """Two bars a layer, the one that stood out most at the top; what is not finite fills its row."""
    from matplotlib.patches import Patch

    rows = incident.stood_out()
    shown = rows[:_MOST_LAYERS][::-1]
    finite = [norm for _, *norms in shown for norm in norms if math.isfinite(norm) and norm > 0]
    low, high = (min(finite) / 3, max(finite) * 3) if finite else (0.1, 10.0)
    for position, (_, norm, usual) in enumerate(shown):
        if math.isfinite(norm):
            axes.barh(position + 0.2, norm, 0.4, color=_INCIDENT)
        else:
            axes.barh(position + 0.2, high, 0.4, color=_BROKEN)
            axes.text(low * 1.2, position + 0.2, f"{norm}, not finite", fontsize=8, va="center")
        axes.barh(position - 0.2, usual if usual > 0 else 0, 0.4, color=_USUAL)
    axes.set_xscale("log")
    _write_plainly(axes.xaxis, high / low)
    axes.set_xlim(low, high)
    axes.set_yticks(range(len(shown)), [_short(name) for name, *_ in shown], fontsize=8)
    axes.set_xlabel("norm of the layer's gradient (log)")
    more = f" ({len(shown)} of {len(rows)})" if len(rows) > len(shown) else ""
    axes.set_title(f"Layers that stood out most{more}", fontsize=10)
    names = {_INCIDENT: f"at step {incident.step.step:,}", _USUAL: "usual: median of the steps before"}
    handles = [Patch(color=color, label=name) for color, name in names.items()]
    axes.legend(handles=handles, fontsize=8, loc="upper center", bbox_to_anchor=(0.3, -0.16), frameon=False)


def _write_plainly(axis: "Axis", spread: float) -> None:
    """Writes 0.01 and not 10^-2, and saves the time that small ticks take."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < _NARROW else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _short(name: str) -> str:
    return name if len(name) <= 24 else "…" + name[-23:]
