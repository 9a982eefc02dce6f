"""What is known of the steps of one optimizer: which are incidents, and which layers stood out."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from lightning_seq.callbacks.gradients.groups import layer_of, sums_by_group
from lightning_seq.callbacks.gradients.seam import GradientStep
from lightning_seq.callbacks.incidents.detector import SpikeDetector, Step
from lightning_seq.callbacks.incidents.figure import Incident

_RECENT = 50  # steps whose layers are compared with
_AFTER = 50  # steps that are drawn after an incident


class Watch:
    """Follows the steps of one optimizer.

    Args:
        detector: Tells which of them are incidents.
    """

    def __init__(self, detector: SpikeDetector) -> None:
        self.detector = detector
        self.in_a_row = 0  # of steps that were incidents, up to now
        self.incident: Incident | None = None  # the last one
        self.entry = 0  # its place in the history
        self._recent: deque[tuple[list[Parameter], Tensor]] = deque(maxlen=_RECENT)

    def add(self, step: GradientStep, found: Step, wrong: bool) -> None:
        """Takes note of a step."""
        if not wrong and self.incident is not None and len(self.incident.after) < _AFTER:
            self.incident.after.append(found)
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        self.detector.add(found, wrong)
        if found.finite and not wrong:
            self._recent.append((step.parameters, step.norms))  # on the device still

    def layers(self, norms: dict[str, float], names: dict[int, str]) -> dict[str, tuple[float, float]]:
        """Returns the norm of each layer's gradient, and what was usual of it: NaN where nothing is known.

        Args:
            norms: Of each parameter's gradient.
            names: Of parameters, by their ids.
        """
        usual: dict[str, list[float]] = {}
        for parameters, recent in self._recent:
            for layer, norm in by_layer(name_all(parameters, names), recent.tolist()).items():
                usual.setdefault(layer, []).append(norm)
        now = by_layer(norms, norms.values())
        return {layer: (norm, median(usual.get(layer, [math.nan]))) for layer, norm in now.items()}

    def forget(self) -> None:
        """Lets go of what only serves a training under way."""
        self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the last steps."""
        return {"steps": [list(step) for step in self.detector.steps]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the steps of a checkpoint."""
        self.detector.load(state["steps"])


def name_all(parameters: list[Parameter], names: dict[int, str]) -> list[str]:
    """Returns the parameters' names; one that the module does not know gets a number."""
    return [names.get(id(parameter), f"parameter {i}") for i, parameter in enumerate(parameters)]


def by_layer(names: Iterable[str], norms: Iterable[float]) -> dict[str, float]:
    """Returns the norms of layers, made of those of their parameters."""
    squares = sums_by_group((layer_of(name) for name in names), (norm * norm for norm in norms))
    return {layer: math.sqrt(square) for layer, square in squares.items()}
