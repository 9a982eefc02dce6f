"""What a gradient's norm at every lag comes to: its decay per token, its half-life, its horizon."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_seq.errors import InputError

HORIZON = 0.01
"""What is left of a gradient at its horizon."""

_SURE = 3.0  # standard errors between a slope and none


@dataclass(frozen=True)
class TimeGradient:
    """How the gradient of a loss changes with the lag: the tokens between the loss and where it is taken.

    Attributes:
        lags: Ascending. Lag 0, where there is one, is the token at which the loss is read.
        curve: Norm of the gradient at each lag, relative to that at lag 1: the geometric mean over the
            sequences. At lag 0 there is more than a path through time.
        decay_per_step: The factor of one more token, from a straight line through the logarithms from lag 1
            on: below 1 the gradient vanishes, above 1 it explodes.
        half_life: Tokens in which the curve falls, for good, to a half of lag 1; infinite where it does not
            within the lags.
        horizon: The lag beyond which less than 1% of lag 1 is left; infinite where there is none within the
            lags.
        explodes: Whether the gradient more than doubles over the lags, and not by chance.
    """

    lags: list[int]
    curve: list[float]
    decay_per_step: float
    half_life: float
    horizon: float
    explodes: bool


def describe_decay(lags: list[int], norms: Tensor, floor: float) -> TimeGradient:
    """Describes gradients by their norms.

    Args:
        lags: Ascending, lag 1 among them.
        norms: ``(sequences, lags)``, fp64.
        floor: Norms below it are too small for the precision in which they were computed; the line is drawn
            through what comes before.

    Raises:
        InputError: No finite gradient comes from one token to the next.
    """
    first = lags.index(1)
    precise = norms.isfinite() & (norms >= floor)
    norms, precise = norms[precise[:, first]], precise[precise[:, first]]
    if not len(norms):
        raise InputError(
            "no finite gradient reaches the token before the loss: the weights have diverged, or are zeros "
            "that let nothing through"
        )
    logs = norms.log() - norms[:, first : first + 1].log()
    curve = logs.mean(0).exp()
    finite = int(curve.isfinite().long().cumprod(0).sum())
    if finite < first + 2:
        raise InputError("the gradient two tokens before the loss is too large for a number: it explodes")
    lags, curve, logs = lags[:finite], curve[:finite], logs[:, :finite]
    # of the lags from 1 on, all before the first that is too small in some sequence
    usable = int(precise[:, first:finite].all(0).long().cumprod(0).sum())
    x = torch.tensor(lags[first : first + usable], dtype=torch.float64)
    slope, error = _slope(x, logs[:, first : first + usable])
    return TimeGradient(
        lags=lags,
        curve=curve.tolist(),
        decay_per_step=math.exp(slope),
        half_life=_crossing(lags[first:], curve[first:], 0.5) - 1,
        horizon=_crossing(lags[first:], curve[first:], HORIZON),
        explodes=slope > _SURE * error and slope * (lags[-1] - 1) > math.log(2),
    )


def _slope(x: Tensor, logs: Tensor) -> tuple[float, float]:
    """Returns the slope of ``logs`` (sequences, lags) over ``x`` (lags,), and its standard error."""
    if len(x) < 2:
        return -math.inf, 0.0  # nothing comes farther than lag 1
    centred = x - x.mean()
    spread = centred.square().sum()
    slopes = (logs - logs.mean(1, keepdim=True)) @ centred / spread
    if len(slopes) > 1:  # sequences know nothing of each other, as lags do
        return float(slopes.mean()), float(slopes.std() / math.sqrt(len(slopes)))
    residuals = logs[0] - logs[0].mean() - slopes[0] * centred
    error = (residuals.square().sum() / max(1, len(x) - 2) / spread).sqrt()
    return float(slopes[0]), float(error)


def _crossing(lags: list[int], curve: Tensor, level: float) -> float:
    """Returns the lag where ``curve`` falls below ``level`` for good: between two, along a line of logs."""
    last = int((curve >= level).nonzero().max())  # the first is lag 1, at 1
    if last == len(lags) - 1:
        return math.inf
    upper, lower = (math.log(max(float(each), 1e-300)) for each in curve[last : last + 2])
    share = (upper - math.log(level)) / (upper - lower)
    return lags[last] + share * (lags[last + 1] - lags[last])
