"""The picture of gradient clipping: norms against the threshold, over time, and the layers they come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_seq.callbacks.gradients.advice import advise, limit, number
from lightning_seq.callbacks.gradients.ledger import ClippingLedger
from lightning_seq.errors import InputError
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_LET_THROUGH, _CUT, _LINE, _BARS, _BROKEN = "#4477aa", "#ee8866", "#222222", "#aac4e0", "#bb2233"
_MOST_CAUSES = 8


def drawable(ledger: ClippingLedger) -> bool:
    """Whether there is a norm that a logarithmic axis can show."""
    return bool((ledger.finite_norms() > 0).any())


def draw_clipping(ledgers: Sequence[ClippingLedger]) -> "Figure":
    """Draws a row of three panels for each optimizer that has made a step.

    Raises:
        InputError: None has, or none with a gradient that is finite and not 0.
    """
    shown = [(index, ledger) for index, ledger in enumerate(ledgers) if drawable(ledger)]
    if not shown:
        raise InputError(
            "got a monitor that has seen no gradient norm that is finite and above 0, "
            "expected one after training steps"
        )
    figure = new_figure(13, 4.2 * len(shown))
    grids = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for (index, ledger), part in zip(shown, grids, strict=True):
        advice = advise(ledger)
        assert advice is not None
        name = f"Optimizer {index}: " if len(ledgers) > 1 else ""
        title = name + advice.role
        part.suptitle(title[:1].upper() + title[1:], fontsize=12, weight="bold", y=0.98)
        told = "; ".join(each for each in advice[1:] if each)
        part.text(0.5, 0.895, told, fontsize=9, ha="center", va="center")
        left, middle, right = part.subplots(1, 3, width_ratios=(1.1, 1.5, 0.7))
        _draw_distribution(left, ledger)
        _draw_time(middle, ledger)
        _draw_causes(right, ledger)
        part.subplots_adjust(left=0.055, right=0.975, top=0.8, bottom=0.14, wspace=0.3)
    return figure


def _draw_distribution(axes: "Axes", ledger: ClippingLedger) -> None:
    rows = [row for row in ledger.rows if np.isfinite(row.norm) and row.norm > 0]
    norms, cut = np.array([row.norm for row in rows]), np.array([row.clipped for row in rows])
    threshold = _fixed_threshold(ledger)
    parts = [(norms[~cut], _LET_THROUGH, "let through"), (norms[cut], _CUT, "clipped")]
    values, colors, names = zip(*(part for part in parts if len(part[0])), strict=True)
    axes.hist(values, list(_bins(norms, threshold)), stacked=True, color=colors, label=names)
    axes.set_xscale("log")
    if threshold is not None:
        axes.axvline(threshold, color=_LINE, linestyle="--", label=f"threshold {limit(ledger)}")
    axes.set_xlabel("norm of the gradient before clipping (log)")
    axes.set_ylabel(f"steps, of {len(rows):,}")
    _whole_ticks(axes.yaxis)
    _plain_ticks(axes.xaxis)
    axes.legend(fontsize=8, loc="upper right")


def _bins(norms: "NDArray[np.float64]", threshold: float | None) -> "NDArray[np.float64]":
    """Some forty, equally wide on a logarithmic axis; the threshold is the border of two."""
    low, high = np.log(norms.min() * 0.9), np.log(norms.max() * 1.1)
    width = (high - low) / 40
    at = low if threshold is None else np.log(threshold)
    edges = np.arange(np.floor((low - at) / width), np.ceil((high - at) / width) + 1)
    bins: NDArray[np.float64] = np.exp(at + width * edges)
    return bins


def _draw_time(axes: "Axes", ledger: ClippingLedger) -> None:
    rows = list(ledger.rows)
    steps = np.arange(ledger.steps - len(rows) + 1, ledger.steps + 1)
    before, after, threshold = np.array(rows).T
    if ledger.algorithm is None:
        axes.plot(steps, after, ".", markersize=3, color=_LET_THROUGH, label="as the optimizer got it")
    else:
        axes.plot(steps, before, ".", markersize=3, color=_CUT, label="before clipping")
        axes.plot(steps, after, ".", markersize=3, color=_LET_THROUGH, label="as the optimizer got it")
    if ledger.algorithm != "value" and np.isfinite(threshold).any():
        lone = np.isinf(threshold).any()  # it holds for lone steps, through which no line goes
        style, size = ("_", 4.0) if lone else ("--", 1.0)
        threshold = np.where(np.isfinite(threshold), threshold, np.nan)
        name = f"threshold {limit(ledger)}"
        axes.plot(steps, threshold, style, linewidth=1, markersize=size, color=_LINE, label=name)
    broken = steps[~np.isfinite(before)]
    if len(broken):
        top = axes.get_xaxis_transform()
        name = f"not finite, {ledger.nonfinite:,} steps"
        axes.plot(
            broken, np.full(len(broken), 0.97), "|", markersize=4, color=_BROKEN, transform=top, label=name
        )
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    _whole_ticks(axes.xaxis)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("norm of the gradient (log)")
    axes.legend(fontsize=8, loc="best", markerscale=3)


def _draw_causes(axes: "Axes", ledger: ClippingLedger) -> None:
    causes = ledger.causes()[:_MOST_CAUSES][::-1]
    axes.set_xlabel(f"share of norm², {'clipped' if ledger.clipped else 'all'} steps")
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.barh(range(len(causes)), [share for _, share in causes], color=_BARS)
    axes.set_yticks([])
    for position, (group, share) in enumerate(causes):
        axes.text(0.02, position, f"{_short(group)}  {share:.0%}", fontsize=8, va="center")
    axes.set_title("which layers it comes from", fontsize=9)
    if not causes:
        axes.text(0.5, 0.5, "no groups (group_by)", transform=axes.transAxes, ha="center", fontsize=9)


def _short(group: str, most: int = 30) -> str:
    return group if len(group) <= most else f"…{group[1 - most :]}"


def _fixed_threshold(ledger: ClippingLedger) -> float | None:
    found = {row.threshold for row in ledger.rows}
    return found.pop() if ledger.algorithm == "norm" and len(found) == 1 else None


def _whole_ticks(axis: "Axis") -> None:
    """Steps are counted: 1, 2 and not 1.5."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))


def _plain_ticks(axis: "Axis") -> None:
    """Writes 0.3 and not 3 x 10^-1, and as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 200 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value) if value < 1e5 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())
