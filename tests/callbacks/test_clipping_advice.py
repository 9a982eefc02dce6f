import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.callbacks.gradients.advice import advise, clip_value, limit
from lightning_seq.callbacks.gradients.ledger import ClippingLedger, Row

NORMS = np.random.default_rng(0).lognormal(sigma=0.5, size=400)


def ledger(norms=NORMS, algorithm=None, threshold=math.nan, left=None, groups=None):
    """Books of steps clipped by norm, unless ``left`` says which part of each norm remains."""
    books = ClippingLedger()
    books.algorithm = algorithm
    thresholds = np.broadcast_to(threshold, np.shape(norms))
    for norm, at in zip(norms, thresholds, strict=True):
        after = norm * left if left is not None else norm if math.isnan(at) else min(norm, at)
        row = Row(float(norm), float(after if math.isfinite(norm) else norm), float(at))
        books.add(row, groups or {"head": 3.0, "embedding": 1.0})
    return books


def quantile(norms, share):
    """By hand: linear between the two nearest of the sorted norms."""
    norms, place = sorted(norms), share * (len(norms) - 1)
    low = norms[math.floor(place)]
    return low + (place % 1) * (norms[math.ceil(place)] - low)


ROLES = {
    "no clipping": (ledger(), r"^gradients are not clipped \(400 steps\); "),
    "no-op": (
        ledger(algorithm="norm", threshold=50.0),
        r"^clipping at 50 is a no-op: none of 400 steps was cut, the largest norm is ",
    ),
    "safety net": (
        ledger(algorithm="norm", threshold=quantile(NORMS, 0.96)),
        r"is a safety net: it cuts 4\.0% of 400 steps; .*; keep it$",
    ),
    "frequent brake": (
        ledger(algorithm="norm", threshold=quantile(NORMS, 0.7)),
        r"is a frequent brake: it cuts 30\.0% of 400 steps; ",
    ),
    "learning-rate control": (
        ledger(algorithm="norm", threshold=quantile(NORMS, 0.2)),
        r"is the true learning-rate control: it cuts 80\.0% of 400 steps; ",
    ),
    "by value": (
        ledger(algorithm="value", threshold=0.01, left=0.4),
        r"^clipping at ±0\.01 by value cuts 100\.0% of 400 steps, and leaves 40% of the norm; .*direction",
    ),
    "own way": (
        ledger(algorithm="own", left=0.5),
        r"^clipping at a threshold of the module's own cuts 100\.0% of 400 steps; ",
    ),
    "adaptive": (
        ledger(algorithm="norm", threshold=np.linspace(0.5, 1.5, 400)),
        r"^clipping at 0\.5 to 1\.5 cuts \d\d\.\d% of 400 steps; ",
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_said_in_one_readable_line(role):
    books, pattern = ROLES[role]
    line = str(advise(books))
    assert re.search(pattern, line), line
    others = [p for name, (_, p) in ROLES.items() if name != role]
    assert not any(re.search(p, line) for p in others)
    assert "\n" not in line
    assert len(line) <= 265
    assert not re.search(r"nan|inf\b|e[+-]\d", line)
    median, high = np.median(NORMS), quantile(NORMS, 0.99)
    assert f"median norm {median:.3g}, 99% below {high:.3g}" in line
    assert "mostly from head (75%) and embedding (25%)" in line


@pytest.mark.parametrize(
    "role", ["no clipping", "no-op", "frequent brake", "learning-rate control", "by value"]
)
def test_a_value_is_suggested_that_cuts_one_step_in_twenty(role):
    line = str(advise(ROLES[role][0]))
    value = float(re.search(r"gradient_clip_val (\S+) would cut 1 in 20", line)[1])
    assert value == pytest.approx(quantile(NORMS[200:], 0.95), rel=0.05)
    assert np.mean(NORMS[200:] > value) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("role", ["safety net", "own way", "adaptive"])
def test_no_value_is_suggested_where_it_is_good_or_not_the_readers(role):
    assert "gradient_clip_val" not in str(advise(ROLES[role][0]))


@pytest.mark.parametrize(
    ("share", "role"),
    [(0.0, "no-op"), (0.1, "safety"), (0.125, "brake"), (0.5, "brake"), (0.525, "learning-rate")],
)
def test_the_borders_between_roles(share, role):
    cut = round(share * 40)
    books = ledger([2.0] * cut + [0.5] * (40 - cut), "norm", 1.0)
    assert books.clipped_share == pytest.approx(share, abs=0.001)
    assert role in advise(books).role


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60))
def test_the_suggestion_is_the_quantile_of_the_later_half(norms):
    assert clip_value(ledger(norms)) == pytest.approx(quantile(norms[len(norms) // 2 :], 0.95), rel=0.05)


def test_the_suggestion_says_of_which_steps_it_speaks():
    assert "gradient_clip_val 3 would cut 1 in 20 of the last 101 steps" in str(advise(ledger([3.0] * 201)))


@pytest.mark.parametrize("threshold", [0.9, 1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("early", [0.1, 1.0, 5.0, 20.0])
def test_a_value_that_is_suggested_cuts_more_steps_exactly_if_it_is_lower(threshold, early):
    norms = np.concatenate([NORMS[:200] * early, NORMS[200:]])
    books = ledger(norms, "norm", threshold)
    line = str(advise(books))
    cut = np.mean(NORMS[200:] > threshold)
    found = re.search(r"gradient_clip_val (\S+) would cut 1 in 20 of the last 200 steps", line)
    if found:
        assert (float(found[1]) < threshold) == (cut < 0.05)
        assert float(found[1]) != threshold
    elif "keep it" in line:
        assert books.clipped
        assert cut <= 0.1


def test_a_value_that_served_at_the_beginning_is_kept():
    line = str(advise(ledger([5.0] * 39 + [0.5] * 61 + [0.7] * 98 + [1.2] * 2, "norm", 1.0)))
    assert "cuts 20.5% of 200 steps" in line
    assert line.endswith("keep it: it cuts 2.0% of the last 100 steps")


@pytest.mark.parametrize("set_to", [1.0, 1.04, 0.996])
def test_the_value_that_is_set_is_not_suggested(set_to):
    books = ledger([1.0, 1.02] * 50, "norm", set_to)
    assert "gradient_clip_val" not in str(advise(books))


@pytest.mark.parametrize("algorithm", [None, "norm"])
@pytest.mark.parametrize(
    "norms",
    [
        [1.0] * 50 + [700.0] * 50,
        [1.0] * 90 + [700.0, 800.0, 1e4] * 4,
        list(np.geomspace(0.1, 1e6, 100)),
        [1.0] * 100 + [math.nan] * 3,
    ],
    ids=["jumps", "spikes", "grows", "ends"],
)
def test_no_value_is_suggested_after_norms_diverged(norms, algorithm):
    line = str(advise(ledger(norms, algorithm, 1.0 if algorithm else math.nan)))
    assert "would cut" not in line
    assert line.endswith("lower learning rate first")


def test_early_steps_do_not_count_for_the_suggestion():
    assert clip_value(ledger([1000.0] * 50 + [1.0] * 50)) == 1.0


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1.0, 137.0, 54321.0, 3e6])
def test_numbers_are_written_as_one_would_set_them(scale):
    for books in (ledger(NORMS * scale), ledger(NORMS * scale, "norm", scale)):
        line = str(advise(books))
        if scale < 1e5:
            assert not re.search(r"\de\+", line), line
        assert float(re.search(r"gradient_clip_val (\S+) would", line)[1]) > 0


def test_gradients_that_are_not_finite_are_said():
    norms = NORMS.copy()
    norms[[3, 30, 300]] = math.inf, math.nan, math.inf
    line = str(advise(ledger(norms, "norm", 1.0)))
    assert "3 not finite" in line
    assert not re.search(r"\bnan\b|\binf\b", line)


def test_a_training_that_broke_down_is_called_so():
    norms = np.concatenate([NORMS[:40], np.full(360, np.nan)])
    line = str(advise(ledger(norms)))
    assert line.startswith("the gradients exploded: ")
    assert "360 of 400 steps were not finite" in line
    assert "start again with gradient_clip_val" in line
    assert "start again with a lower learning rate" in str(advise(ledger(norms, "norm", 1.0)))


def test_the_first_steps_of_a_loss_scaler_are_no_breakdown():
    """In half precision the scale begins too high: a few steps are skipped until it fits."""
    norms = [math.inf] * 3 + [0.5] * 17
    assert "exploded" not in str(advise(ledger(norms)))


def test_nothing_seen_nothing_said():
    assert advise(ClippingLedger()) is None


@pytest.mark.parametrize("norms", [[0.0] * 4, [math.nan] * 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "norm", "threshold": 1.0},
        {"algorithm": "value", "threshold": 0.1},
        {"algorithm": "own"},
    ],
    ids=str,
)
def test_nothing_but_zero_or_nan_makes_no_nonsense(norms, options):
    line = str(advise(ledger(norms, **options)))
    assert not re.search(r"\bnan\b|gradient_clip_val 0 ", line)
    if math.isnan(norms[0]):
        assert re.search("not finite|none .* finite", line)


def test_the_limit_is_as_the_reader_set_it():
    assert limit(ledger(algorithm="norm", threshold=1.0)) == "1"
    assert limit(ledger(algorithm="norm", threshold=0.25)) == "0.25"
    assert limit(ledger(algorithm="norm", threshold=12345.0)) == "12345"
    assert limit(ledger(algorithm="value", threshold=0.5)) == "±0.5"
    assert limit(ledger(algorithm="norm", threshold=math.inf)) == "a threshold that follows the norms"
    warm = [math.inf] * 200 + [1.0, 2.0] * 100
    assert limit(ledger(algorithm="norm", threshold=warm)) == "1 to 2"
