"""The picture of gradient clipping: norms against the threshold, over time, and the layers they come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_seq.callbacks.clipping_advice import advise, limit
from lightning_seq.callbacks.clipping_ledger import ClippingLedger
from lightning_seq.errors import InputError
from lightning_seq.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LET_THROUGH, _CUT, _LINE, _BARS, _BROKEN = "#4477aa", "#ee8866", "#222222", "#aac4e0", "#bb2233"
_MOST_CAUSES = 8


def draw_clipping(ledgers: Sequence[ClippingLedger]) -> "Figure":
    """Draws a row of three panels for each optimizer that has made a step.

    Raises:
        InputError: None has.
    """
    ledgers = [ledger for ledger in ledgers if len(ledger.finite_norms())]
    if not ledgers:
        raise InputError("got a monitor that has seen no gradient norm, expected one after training steps")
    figure = new_figure(13, 0.6 + 3.6 * len(ledgers))
    grids = figure.subfigures(len(ledgers), 1, squeeze=False)[:, 0]
    for index, (ledger, part) in enumerate(zip(ledgers, grids, strict=True)):
        advice = advise(ledger)
        assert advice is not None
        name = f"Optimizer {index}: " if len(ledgers) > 1 else ""
        title = name + advice.role
        part.suptitle(title[:1].upper() + title[1:], fontsize=12, weight="bold")
        left, middle, right = part.subplots(1, 3, width_ratios=(1.1, 1.5, 0.7))
        _draw_distribution(left, ledger)
        _draw_time(middle, ledger)
        _draw_causes(right, ledger)
        part.subplots_adjust(left=0.055, right=0.985, top=0.84, bottom=0.16, wspace=0.25)
    return figure


def _draw_distribution(axes: "Axes", ledger: ClippingLedger) -> None:
    rows = [row for row in ledger.rows if np.isfinite(row.norm) and row.norm > 0]
    norms, cut = np.array([row.norm for row in rows]), np.array([row.clipped for row in rows])
    low, high = norms.min(), norms.max()
    bins = np.geomspace(low * 0.95, high * 1.05, 41)
    parts, colors, names = [norms[~cut], norms[cut]], [_LET_THROUGH, _CUT], ["let through", "clipped"]
    count = 1 if ledger.algorithm is None else 2
    axes.hist(parts[:count], bins, stacked=True, color=colors[:count], label=names[:count])  # type: ignore[arg-type]
    axes.set_xscale("log")
    if (threshold := _fixed_threshold(ledger)) is not None:
        axes.axvline(threshold, color=_LINE, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set_xlabel("norm of the gradient before clipping (log)")
    axes.set_ylabel(f"steps, of {len(rows):,}")
    _plain_ticks(axes.xaxis)
    axes.legend(fontsize=8, loc="upper right")


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
        axes.plot(steps, threshold, "--", linewidth=1, color=_LINE, label=f"threshold {limit(ledger)}")
    broken = steps[~np.isfinite(before)]
    if len(broken):
        top = axes.get_xaxis_transform()
        name = f"not finite, {ledger.nonfinite:,} steps"
        axes.plot(broken, np.full(len(broken), 0.97), "|", color=_BROKEN, transform=top, label=name)
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
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
        axes.text(0.02, position, f"{group}  {share:.0%}", fontsize=8, va="center")
    axes.set_title("where it comes from", fontsize=9)
    if not causes:
        axes.text(0.5, 0.5, "no groups (group_by)", transform=axes.transAxes, ha="center", fontsize=9)


def _fixed_threshold(ledger: ClippingLedger) -> float | None:
    found = {row.threshold for row in ledger.rows}
    return found.pop() if ledger.algorithm == "norm" and len(found) == 1 else None


def _plain_ticks(axis: "Axis") -> None:
    """Writes 0.3 and not 3 x 10^-1, and as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    narrow = high < 30 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if narrow else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())
