"""Numbers that say how a recurrent layer is doing: saturation, memory, norms, dead units."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lightning_seq.networks.recurrent_states import LayerStates

CLOSED, OPEN = 0.05, 0.95
"""A gate that lets through less than the one is closed, more than the other open."""
LONGEST_HALF_LIFE = 1e6
"""Tokens; what is longer counts as this: no gate in fp32 tells it from for ever."""


def summarize(layers: Mapping[str, LayerStates]) -> dict[str, float]:
    """Returns numbers about each layer, ``layer0/forget_open`` and so on, in one move off the device.

    - ``<gate>_closed``, ``<gate>_open``: share of the gate's values below 0.05, and above 0.95.
    - ``saturated`` (tanh): share of states beyond ±0.95. ``zeros`` (relu): share of states that are 0.
    - ``half_life``, ``half_life_p90``: tokens after which the gates have let half of a unit's memory go, for
      the median unit and for the one that a tenth of the units outlast; see :func:`half_lives`.
    - ``hidden_norm``, ``cell_norm``: Euclidean norm, the mean over time.
    - ``dead_units``: share of the units whose state hardly varies, see :func:`dead_units`.
    """
    numbers = {f"{name}/{key}": value for name, layer in layers.items() for key, value in _numbers(layer)}
    if not numbers:
        return {}
    values = torch.stack([value.float() for value in numbers.values()]).tolist()
    return dict(zip(numbers, values, strict=True))


def _numbers(layer: LayerStates) -> Iterator[tuple[str, Tensor]]:
    for name, gate in layer.gates.items():
        yield f"{name}_closed", (gate < CLOSED).float().mean()
        yield f"{name}_open", (gate > OPEN).float().mean()
    if layer.activation == "tanh":
        yield "saturated", (layer.hidden.abs() > OPEN).float().mean()
    if layer.activation == "relu":
        yield "zeros", (layer.hidden == 0).float().mean()
    if layer.log_keep is not None:
        median, long = half_lives(layer.log_keep).quantile(layer.log_keep.new_tensor([0.5, 0.9]))
        yield "half_life", median
        yield "half_life_p90", long
    yield "hidden_norm", layer.hidden.norm(dim=-1).mean()
    if layer.cell is not None:
        yield "cell_norm", layer.cell.norm(dim=-1).mean()
    yield "dead_units", dead_units(layer.hidden).float().mean()


def half_lives(log_keep: Tensor) -> Tensor:
    """Tokens after which half of each unit's memory is gone, ``(units,)``, :data:`LONGEST_HALF_LIFE` at most.

    ln 2 / -ln f, where f is the geometric mean over time of the share that a step keeps. It counts what the
    gates keep by themselves, and not what a unit gets back through the weights between hidden states.

    Args:
        log_keep: ln f of every step, ``(sequences, time, units)``.
    """
    lost: Tensor = -log_keep.mean((0, 1))
    return math.log(2) / lost.clamp(min=math.log(2) / LONGEST_HALF_LIFE)


def dead_units(hidden: Tensor) -> Tensor:
    """Says which units hardly vary, ``(units,)`` bool.

    They are those whose standard deviation is below a hundredth of the mean unit's, or below a thousandth of
    the layer's mean absolute value: of a layer that is dead as a whole the mean unit is no measure. Looked at
    is the second half of the time: at first even a dead unit moves away from the state of no past.

    Args:
        hidden: ``(sequences, time, units)``.
    """
    late = hidden[:, hidden.size(1) // 2 :].flatten(0, 1)
    spread = late.std(0, correction=0)
    return spread <= torch.maximum(0.01 * spread.mean(), 0.001 * late.abs().mean())
