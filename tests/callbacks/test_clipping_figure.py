import math
import re
import time

import numpy as np
import pytest

from lightning_seq.callbacks.gradients.clipping_figure import draw_clipping
from lightning_seq.callbacks.gradients.ledger import KEPT, ClippingLedger, Row
from lightning_seq.errors import InputError
from lightning_seq.figures import png_bytes

NORMS = np.random.default_rng(0).lognormal(sigma=0.5, size=300)


def ledger(norms=NORMS, algorithm=None, threshold=math.nan, left=None, groups=("head", "body.0")):
    books = ClippingLedger()
    books.algorithm = algorithm
    for norm, at in zip(norms, np.broadcast_to(threshold, np.shape(norms)), strict=True):
        after = norm * left if left is not None else norm if math.isnan(at) else min(norm, at)
        squares = {group: float(i + 1) for i, group in enumerate(groups)}
        books.add(Row(float(norm), float(after), float(at)), squares)
    return books


BROKEN = NORMS.copy()
BROKEN[[10, 200]] = math.inf, math.nan
CASES = {
    "norm": ledger(algorithm="norm", threshold=1.0),
    "value": ledger(algorithm="value", threshold=0.01, left=0.4),
    "none": ledger(),
    "own": ledger(algorithm="own", left=0.5),
    "adaptive": ledger(algorithm="norm", threshold=np.linspace(0.5, 1.5, 300)),
    "rarely adaptive": ledger(algorithm="norm", threshold=[math.inf] * 299 + [0.9]),
    "not finite": ledger(BROKEN, "norm", 1.0),
    "no groups": ledger(groups=()),
    "one step": ledger([1.0], "norm", 0.5),
    "all alike": ledger([1.0] * 20),
    "some zero": ledger([0.0] * 20 + [1.0]),
    "large": ledger(NORMS * 1e5, "norm", 1e5),
    "small": ledger(NORMS * 1e-6, "norm", 1e-6),
    "long names": ledger(groups=[f"network.encoder.layers.{i}.feed_forward_block" for i in range(30)]),
}


def texts(figure):
    """All that is written but ticks, and where, in pixels."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    ticks = {t for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for t in axis.get_ticklabels()}
    found = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in ticks]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in found]


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_drawn_its_panels_are_named_and_nothing_leaves_its_place(case):
    figure = draw_clipping([CASES[case]])
    figure.canvas.draw()
    left, middle, right = figure.axes
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert left.get_ylabel()
    assert middle.get_ylabel()
    assert right.get_title()
    (part,) = figure.subfigs
    assert part.get_suptitle()
    written = " ".join(text for text, _ in texts(figure))
    assert not {"nan", "inf"} & set(written.split())

    width, height = figure.canvas.get_width_height()
    renderer = figure.canvas.get_renderer()
    axes = [
        (axis.get_label_text(), axis.get_tightbbox(renderer))
        for a in figure.axes
        for axis in (a.xaxis, a.yaxis)
    ]
    for text, box in [*texts(figure), *axes]:
        if box is not None:
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text
    left, middle, _ = (each.get_window_extent() for each in figure.axes)
    label = figure.axes[1].yaxis.label.get_window_extent()
    assert left.x1 + 5 < label.x0 < label.x1 < middle.x0


def ticks(axis):
    low, high = axis.get_view_interval()
    return [float(t.get_text()) for t in axis.get_ticklabels() if t.get_text()], (low, high)


@pytest.mark.parametrize("case", ["norm", "none", "large", "small"])
def test_the_logarithmic_axes_have_enough_numbers_to_read_from(case):
    figure = draw_clipping([CASES[case]])
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[1].yaxis):
        numbers, (low, high) = ticks(axis)
        assert len([n for n in numbers if low <= n <= high]) >= 3


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_legends_name_what_is_there_and_nothing_else():
    left, middle, _ = draw_clipping([CASES["norm"]]).axes
    assert legend(left) == ["let through", "clipped", "threshold 1"]
    assert legend(middle) == ["before clipping", "as the optimizer got it", "threshold 1"]
    left, middle, _ = draw_clipping([CASES["none"]]).axes
    assert left.get_legend() is None or "clipped" not in legend(left)
    assert middle.get_legend() is None or "before clipping" not in legend(middle)
    left, _, _ = draw_clipping([CASES["value"]]).axes
    assert "let through" not in legend(left)
    _, middle, _ = draw_clipping([CASES["not finite"]]).axes
    assert re.fullmatch(r"not finite\W+2\b.*", legend(middle)[-1])


def test_the_points_are_the_norms():
    _, middle, _ = draw_clipping([CASES["norm"]]).axes
    before, after = middle.lines[:2]
    np.testing.assert_allclose(before.get_ydata(), NORMS)
    np.testing.assert_allclose(after.get_ydata(), np.minimum(NORMS, 1.0))
    assert list(before.get_xdata()) == list(range(1, 301))


def test_the_bars_count_all_steps_and_none_twice():
    left, _, _ = draw_clipping([CASES["norm"]]).axes
    through, cut = left.containers
    assert sum(bar.get_height() for bar in through) == np.sum(NORMS <= 1)
    assert sum(bar.get_height() for bar in cut) == np.sum(NORMS > 1)
    # the threshold is between two bars, and in none
    assert all(bar.get_x() + bar.get_width() <= 1 + 1e-6 for bar in through if bar.get_height())
    assert all(bar.get_x() >= 1 - 1e-6 for bar in cut if bar.get_height())


def test_causes_are_named_with_their_share():
    _, _, right = draw_clipping([CASES["norm"]]).axes
    assert [text.get_text() for text in right.texts] == ["head  33%", "body.0  67%"]
    assert [round(bar.get_width(), 2) for bar in right.containers[0]] == [0.33, 0.67]


def test_a_threshold_that_holds_now_and_then_is_to_be_seen():
    """ZClip's: a line through lone points between infinities draws nothing."""
    threshold = np.full(300, math.inf)
    threshold[5::10] = 0.9
    _, middle, _ = draw_clipping([ledger(algorithm="norm", threshold=threshold)]).axes
    line = middle.lines[2]
    lone = np.isfinite(line.get_ydata()).sum()
    assert lone == 30
    assert line.get_marker() not in ("None", "", None)


def test_several_optimizers_are_rows_of_their_own():
    figure = draw_clipping([CASES["norm"], ClippingLedger(), CASES["value"]])
    assert len(figure.axes) == 6
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles[0].startswith("Optimizer 0: clipping at 1 ")
    assert titles[1].startswith("Optimizer 2: clipping at ±0.01 by value")  # the second made no step


def test_thousands_of_steps_that_are_not_finite_do_not_take_long():
    norms = np.full(KEPT, math.nan)
    norms[:100] = NORMS[:100]
    books = ledger(norms)
    began = time.process_time()
    png_bytes(draw_clipping([books]))
    assert time.process_time() - began < 3


@pytest.mark.parametrize("ledgers", [[], [ClippingLedger()]])
def test_nothing_seen_is_refused(ledgers):
    with pytest.raises(InputError, match="expected one after training steps"):
        draw_clipping(ledgers)


@pytest.mark.parametrize("norm", [math.nan, 0.0])
def test_nothing_but_nan_or_zero_is_drawn_or_refused_for_what_it_is(norm):
    try:
        draw_clipping([ledger([norm] * 4)])
    except InputError as error:
        assert "finite" in str(error)  # noqa: PT017 - and not that no norm was seen
