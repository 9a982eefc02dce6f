"""What a clipping ledger says about the clip value, in words."""

from typing import NamedTuple

import numpy as np

from lightning_seq.callbacks.gradients.ledger import ClippingLedger

SAFETY_NET, OFTEN = 0.1, 0.5
"""Up to these shares of clipped steps clipping is a safety net, and a frequent brake; beyond, it rules."""

FAR = 10.0
"""So many times the usual norm is no place for a threshold."""

BROKEN = 0.1
"""From this share of gradients that are not finite on, the training has broken down."""


class Advice(NamedTuple):
    """What clipping does, the numbers that show it, and what to do."""

    role: str
    facts: str
    suggestion: str

    def __str__(self) -> str:
        return "; ".join(part for part in self if part)


def advise(ledger: ClippingLedger) -> Advice | None:
    """Returns what to make of the steps so far; None where no norm was seen."""
    norms = ledger.finite_norms()
    if not len(norms) and ledger.nonfinite:
        exploded = f"none of the {ledger.steps:,} gradients was finite"
        return Advice(exploded, "", "start again with a lower learning rate, and look at the first loss")
    if not len(norms):
        return None
    if not norms.any():
        return Advice(
            f"the gradients of all {ledger.steps:,} steps are 0", "", "nothing learns from this loss"
        )
    return Advice(_role(ledger, norms.max()), _facts(ledger), _suggestion(ledger))


def limit(ledger: ClippingLedger) -> str:
    """The threshold as the reader set it: ``1``, ``±0.5``, or a range where it follows the gradients."""
    if ledger.algorithm == "own":
        return "a threshold of the module's own"
    found = np.array([row.threshold for row in ledger.rows])
    found = found[np.isfinite(found)]
    if not len(found):
        return "a threshold that follows the norms"
    low, high = found.min(), found.max()
    sign = "±" if ledger.algorithm == "value" else ""
    return f"{number(low, 2)} to {number(high, 2)}" if _adapts(ledger) else f"{sign}{high:g}"


def number(value: float, digits: int = 3) -> str:
    """``value`` to so many digits, written out: 4300 and not 4.3e+03."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if 1000 <= rounded < 1e7 else f"{rounded:g}"


def clip_value(ledger: ClippingLedger) -> float:
    """A norm that one step in twenty exceeds, by the later half of the steps, to two digits."""
    norms = ledger.finite_norms()
    return float(f"{np.quantile(norms[len(norms) // 2 :], 0.95):.2g}")


def _broken(ledger: ClippingLedger) -> bool:
    later = list(ledger.rows)[len(ledger.rows) // 2 :]  # a loss scaler skips some of the first steps
    return sum(not np.isfinite(row.norm) for row in later) >= BROKEN * len(later)


def _adapts(ledger: ClippingLedger) -> bool:
    thresholds = {row.threshold for row in ledger.rows}
    return ledger.algorithm == "norm" and (len(thresholds) > 1 or np.inf in thresholds)


def _role(ledger: ClippingLedger, largest: float) -> str:
    share, steps = ledger.clipped_share, f"{ledger.steps:,} steps"
    if _broken(ledger):
        norms = f"norms reached {number(largest)}, then {ledger.nonfinite:,} of {steps} were not finite"
        return f"the gradients exploded: {norms}"
    if ledger.algorithm is None:
        return f"{_unseen(ledger) or 'gradients are not clipped'} ({steps})"
    clipping, cut = f"clipping at {limit(ledger)}", f"cuts {share:.1%} of {steps}"
    if ledger.algorithm == "value":
        left = np.mean([row.norm_clipped / row.norm for row in ledger.rows if 0 < row.norm < np.inf])
        return f"{clipping} by value {cut}, and leaves {left:.0%} of the norm"
    if _adapts(ledger) or ledger.algorithm == "own":
        return f"{clipping} {cut}"
    if not ledger.clipped:
        return f"{clipping} is a no-op: none of {steps} was cut, the largest norm is {number(largest)}"
    if share <= SAFETY_NET:
        return f"{clipping} is a safety net: it {cut}"
    if share <= OFTEN:
        return f"{clipping} is a frequent brake: it {cut}"
    return f"{clipping} is the true learning-rate control: it {cut}"


def _unseen(ledger: ClippingLedger) -> str:
    if ledger.out_of_sight:
        names = " and ".join(ledger.out_of_sight[:2])
        return f"no clipping was measured; clipping in {names} cannot be measured"
    return "no clipping was measured; clipping by hand with torch cannot be measured" if ledger.manual else ""


def _facts(ledger: ClippingLedger) -> str:
    norms = ledger.finite_norms()
    median, high = np.median(norms), np.quantile(norms, 0.99)
    facts = f"median norm {number(median)}, 99% below {number(high)}"
    if ledger.nonfinite and not _broken(ledger):
        facts += f", {ledger.nonfinite:,} not finite"
    if ledger.out_of_sight:
        facts += f", after {' and '.join(ledger.out_of_sight[:2])}"
    causes = [f"{group} ({share:.0%})" for group, share in ledger.causes()[:2] if share >= 0.1]
    return f"{facts}; mostly from {' and '.join(causes)}" if causes else facts


def _suggestion(ledger: ClippingLedger) -> str:
    if _broken(ledger):
        remedy = "a lower learning rate" if ledger.algorithm else "gradient_clip_val 1, or less"
        return f"start again with {remedy}"
    if _diverged(ledger):
        return "norms that grow or vary this much ask for a lower learning rate first"
    adapts = ledger.algorithm == "own" or _adapts(ledger)
    if adapts or (ledger.algorithm is None and _unseen(ledger)):
        return ""  # the threshold is not the reader's to set, or not known
    kept = len(ledger.finite_norms())
    value = number(clip_value(ledger), 2)
    text = f"gradient_clip_val {value} would cut 1 in 20 of the last {kept - kept // 2:,} steps"
    if ledger.algorithm == "value":
        return f"the gradient's direction changes: by norm {text}"
    return text if ledger.algorithm is None else _compared(ledger, value, text)


def _compared(ledger: ClippingLedger, value: str, text: str) -> str:
    """Returns what to make of the value that is set, by the same steps as the one that could be."""
    later = list(ledger.rows)[len(ledger.rows) // 2 :]
    share = sum(row.clipped for row in later) / len(later)
    if ledger.clipped and share <= SAFETY_NET:
        why = f": it cuts {share:.1%} of the last {len(later):,} steps"
        return "keep it" + (why if ledger.clipped_share > SAFETY_NET else "")
    return "" if value == number(ledger.rows[-1].threshold, 2) else text


def _diverged(ledger: ClippingLedger) -> bool:
    """Says whether the norms are no measure of a training that goes well."""
    norms = ledger.finite_norms()
    first, later = norms[: len(norms) // 2], norms[len(norms) // 2 :]
    usual = np.median(later)
    grown = len(first) > 0 and usual > FAR * np.median(first)
    ends = [row.norm for row in list(ledger.rows)[-3:]]
    return bool(grown or np.quantile(later, 0.95) > FAR * usual or not np.isfinite(ends).any())
