"""Which steps are incidents: those that are not finite, and those far above the steps before them."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

from lightning_seq.errors import InputError

_AS_DEVIATION = 1.4826  # makes the median absolute deviation of normal numbers their standard deviation
_LEAST_NORM = 3.0  # a norm below three times the median is no spike, however even the others are
_LEAST_LOSS = 1.1  # nor is a loss that is not a tenth above it
_NEW_LEVEL = 10  # so many steps far above in a row are no spike


class Step(NamedTuple):
    """A step of one optimizer: its number, its loss (None where none was seen), the norm of its gradient."""

    step: int
    loss: float | None
    norm: float

    @property
    def finite(self) -> bool:
        """Whether both are numbers to go by."""
        return math.isfinite(self.norm) and (self.loss is None or math.isfinite(self.loss))


class Verdict(NamedTuple):
    """Why a step is an incident, nothing where it is none; and the limits that it was held against."""

    reasons: list[str]
    loss_limit: float
    norm_limit: float


_NOTHING = Verdict([], math.inf, math.inf)


class SpikeDetector:
    """Holds each step against the median of the last ones, and their spread about it.

    The spread is the median absolute deviation, scaled to be a standard deviation where steps vary normally:
    a spike among the last steps changes neither. Norms are compared by their logarithms; a loss must be far
    above the others and, where all are positive, above them by its logarithm, too. A norm must also be three
    times the median, and a loss a tenth above it.

    Args:
        threshold: How many times the spread a step must be above the median.
        window: How many of the last steps count.
        warmup_steps: How many steps must be known before one is called a spike.
    """

    def __init__(self, threshold: float, window: int, warmup_steps: int) -> None:
        if not threshold > 0:
            raise InputError(f"got threshold={threshold}, expected above 0: spreads above the median")
        if warmup_steps < 5:
            raise InputError(f"got warmup_steps={warmup_steps}, expected at least 5: a spread takes some")
        if window < warmup_steps:
            raise InputError(
                f"got window={window}, expected at least warmup_steps={warmup_steps}: raise window or lower "
                "warmup_steps"
            )
        self.threshold, self.warmup_steps = threshold, warmup_steps
        self.steps: deque[Step] = deque(maxlen=window)  # the last ones that were finite
        self._spikes = 0  # in a row

    def judge(self, step: Step, loss_alone: bool = False) -> Verdict:
        """Says whether ``step`` is an incident, before it is added.

        Args:
            step: What is known of it.
            loss_alone: Whether to leave the norm out, which is not finite for a harmless reason.
        """
        reasons = []
        if step.loss is not None and not math.isfinite(step.loss):
            reasons.append(f"the loss is {step.loss}")
        if not math.isfinite(step.norm) and (reasons or not loss_alone):
            reasons.append(f"the gradient norm is {step.norm}")
        if reasons:
            return Verdict(reasons, *self.limits())
        if self._is_usual(step):
            return _NOTHING
        loss_limit, norm_limit = self.limits()
        if step.norm > norm_limit and not loss_alone:
            usual = median(each.norm for each in self.steps if each.norm > 0)
            times = f"{step.norm / usual:.3g} times the recent median {usual:.3g}"
            reasons.append(f"gradient norm {step.norm:.3g}, {times}")
        if step.loss is not None and step.loss > loss_limit:
            reasons.append(f"loss {step.loss:.4g}, recent median {median(self._losses()):.4g}")
        return Verdict(reasons, loss_limit, norm_limit)

    def _is_usual(self, step: Step) -> bool:
        """Says of nearly every step, and soon, that it is no spike: it is not far enough above the median."""
        if len(self.steps) < self.warmup_steps:
            return True
        losses = self._losses()
        usual_loss = step.loss is None or not losses or step.loss <= _least_loss(losses)
        return usual_loss and step.norm <= _LEAST_NORM * median(each.norm for each in self.steps)

    def limits(self) -> tuple[float, float]:
        """Returns loss and norm from which on a step is a spike; infinity during the warm-up."""
        if len(self.steps) < self.warmup_steps:
            return math.inf, math.inf
        norms = [each.norm for each in self.steps if each.norm > 0]
        norm_limit = math.inf
        if norms:
            norm_limit = max(_log_limit(norms, self.threshold), _LEAST_NORM * median(norms))
        losses = self._losses()
        if not losses:
            return math.inf, norm_limit
        loss_limit = max(_limit(losses, self.threshold), _least_loss(losses))
        if min(losses) > 0:  # one of a task that is solved varies by its logarithm, too
            loss_limit = max(loss_limit, _log_limit(losses, self.threshold))
        return loss_limit, norm_limit

    def add(self, step: Step, spike: bool) -> None:
        """Takes note of a step: what is not finite says nothing of the next ones, and a spike little."""
        if not step.finite:
            return
        self._spikes = self._spikes + 1 if spike else 0
        if self._spikes >= _NEW_LEVEL:  # the level has changed for good: learn the new one
            self.steps.clear()
            self._spikes = 0
        self.steps.append(step)

    def load(self, steps: Iterable[Any]) -> None:
        """Goes on with the steps of a checkpoint."""
        self.steps.clear()
        self.steps.extend(Step(*each) for each in steps)

    def _losses(self) -> list[float]:
        return [each.loss for each in self.steps if each.loss is not None]


def _least_loss(losses: list[float]) -> float:
    usual = median(losses)
    return usual + (_LEAST_LOSS - 1) * abs(usual)


def _limit(values: list[float], threshold: float) -> float:
    middle = median(values)
    return middle + threshold * _AS_DEVIATION * median(abs(value - middle) for value in values)


def _log_limit(values: list[float], threshold: float) -> float:
    limit = _limit([math.log(value) for value in values], threshold)
    return math.exp(min(limit, 700.0))  # the largest that a float can hold
