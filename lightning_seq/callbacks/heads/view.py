"""What a model attends to in one text: plain numbers, ready to be drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


SALIENCY = "saliency"
"""The name of the layer that is a whole model's saliency."""


@dataclass(frozen=True)
class Measure:
    """How a measure of a head is called.

    Attributes:
        title: A few words.
        explanation: What small and large values mean, one line.
        most: The largest value that there is, None where there is no bound.
    """

    title: str
    explanation: str
    most: float | None = 1.0


MEASURES: Mapping[str, Measure] = {
    "entropy": Measure("entropy", "0: all on a single token, 1: evenly on all that a token may see"),
    "max_probability": Measure("largest share", "on a single token, the mean over the tokens"),
    "previous_token": Measure("previous token", "share on the token just before"),
    "first_token": Measure("first token", "share on the first token, where heads at rest look"),
    "induction": Measure(
        "induction", "share on what followed the same token before, in random tokens said twice"
    ),
    "distance": Measure("mean distance", "how many tokens back", None),
    "max_logit": Measure("largest logit", "the largest score before the softmax", None),
    "sink": Measure("sink", "share on learnt keys that are no tokens, left out of the other measures"),
}
"""All that is measured of a head, in the order in which it is shown."""

KINDS: Mapping[str, str] = {
    "previous_token": "previous-token",
    "induction": "induction",
    "first_token": "resting",
}
"""Measures by which a head is said to be of a kind, and what it is called then."""


@dataclass(frozen=True)
class LayerView:
    """The heads of one layer, or the saliency of a whole model as a layer of one head.

    Attributes:
        name: What people read, such as "layer 0" or "saliency".
        module: Dotted name of the module that attends; empty for saliency.
        heads: The numbers of the heads that are shown.
        maps: Share of each key in each query's attention, (heads, queries, keys), fp32; 0 where it sees
            nothing. Row i is how token i looks, column j how it is looked at.
        measures: By a name of :data:`MEASURES`, a number for each head, (heads,); NaN where there is none. A
            measure that was not taken is left out.
    """

    name: str
    module: str
    heads: tuple[int, ...]
    maps: "NDArray[np.float32]"
    measures: "Mapping[str, NDArray[np.float32]]"


@dataclass(frozen=True)
class View:
    """One model on one text.

    Attributes:
        name: Which model, for a title: "quickstart-1/best.ckpt", or "step 500".
        tokens: What each token adds to the text; joined they are the text. May be white space, half a
            character (U+FFFD) or a number where there is no tokenizer.
        layers: In the order in which they ran. Maps have as many rows and columns as there are tokens, unless
            the model looks at something else than its own tokens.
        predictions: After each token the likeliest next one and its probability; empty where not known.
    """

    name: str
    tokens: tuple[str, ...]
    layers: tuple[LayerView, ...]
    predictions: tuple[tuple[str, float], ...] = ()


def written(value: float, measure: str) -> str:
    """The number of a measure with as many digits as say something."""
    return f"{value:.1f}" if MEASURES[measure].most is None else f"{value:.2f}"
