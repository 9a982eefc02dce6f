"""One look at a model: attention, and saliency where there is none, as numbers on the CPU."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_seq.callbacks.heads.example import run
from lightning_seq.callbacks.heads.labels import token_texts
from lightning_seq.callbacks.heads.view import MEASURES, SALIENCY, LayerView, View
from lightning_seq.callbacks.probe import Example
from lightning_seq.errors import InputError
from lightning_seq.networks.attention_capture import AttentionCall, capture_attention
from lightning_seq.networks.attention_measures import (
    attention_maps,
    induction_score,
    measure_heads,
    repeated_tokens,
)
from lightning_seq.networks.embedded_inputs import find_logits
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.saliency import saliency

MOST_SHOWN = 256  # tokens of a map: more make pages of many megabytes

_PERIOD, _SEQUENCES = 16, 4  # of the random tokens that show induction

_Measures = dict[str, Tensor]


class Looked(NamedTuple):
    """What was found.

    Attributes:
        layers: Of the attention, in the order in which it ran, and of the saliency.
        predicted: After each token of the first sequence the likeliest id and its probability; empty where
            the model gives no logits.
        unseen: Modules that attend by a kernel that shows nothing.
    """

    layers: tuple[LayerView, ...]
    predicted: tuple[tuple[int, float], ...]
    unseen: tuple[str, ...]


def look(
    module: nn.Module,
    example: Example,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
    with_saliency: bool | None = None,
    call: NetworkCall | None = None,
) -> Looked:
    """Looks at what a model attends to.

    Args:
        module: Any; in evaluation mode, without gradients.
        example: What ``example_of`` gave, on the module's device.
        layers: Numbers of the layers to look at (default: all).
        heads: Numbers of the heads of each (default: all).
        with_saliency: Whether to add the saliency of the whole model (default: where there is no attention).
        call: How the module is called for the example (default: with its inputs and, if it takes one, its
            mask).

    Raises:
        InputError: The weights have diverged; no layer, or no head of one, is among the chosen; or there is
            no saliency where it was asked for.
    """
    valid, inputs = example.get("valid"), example["inputs"]
    repeated = _repeated(module, inputs)

    def reduce(seen: AttentionCall) -> tuple[str, Tensor, _Measures]:
        fits = valid is not None and valid.shape == (seen.sequences, seen.queries)
        return seen.module, attention_maps(seen, MOST_SHOWN), measure_heads(seen, valid if fits else None)

    found, output, unseen = _capture(module, len(inputs), _runner(module, example, call), reduce, layers)
    induction = {} if repeated is None or not found else _induction(module, repeated, layers, call)
    views = [
        _view(f"layer {i}", name, maps, measures | induction.get(i, {}), heads)
        for i, (name, maps, measures) in found.items()
    ]
    if with_saliency or (with_saliency is None and not found and not unseen):
        views.append(_saliency(module, inputs, valid, repeated, call))
    return Looked(tuple(views), _predicted(output, inputs), tuple(unseen))


def view_of(name: str, example: Example, looked: Looked, tokenizer: Any) -> View:
    """Returns what was found, with the tokens as text.

    Args:
        name: Which model.
        example: What was looked at.
        looked: What was found.
        tokenizer: Decodes ids; None: they are shown as numbers.
    """
    inputs = example["inputs"][0]
    shown = min(len(inputs), MOST_SHOWN) if inputs.dim() == 1 else 0
    ids = [] if inputs.is_floating_point() else inputs[:shown].tolist()
    tokens = token_texts(ids, tokenizer) if ids else tuple(map(str, range(len(inputs))))
    predicted = [i for i, _ in looked.predicted[:shown]] if ids else []
    following = token_texts(predicted, tokenizer, after=ids[: len(predicted)])
    shares = [share for _, share in looked.predicted[: len(following)]]
    return View(name, tokens, looked.layers, tuple(zip(following, shares, strict=True)))


def most_telling(view: View) -> tuple[int, int]:
    """Returns layer and head, as indices, of the largest induction score, or else of the smallest entropy."""
    best = "induction" if any("induction" in layer.measures for layer in view.layers) else "entropy"
    sign = 1 if best == "induction" else -1
    scores = {
        (i, h): sign * float(score) if np.isfinite(score) else -np.inf
        for i, layer in enumerate(view.layers)
        for h, score in enumerate(layer.measures.get(best, ()))
    }
    return max(scores, key=scores.__getitem__)  # the first of equals


def _capture(
    module: nn.Module,
    sequences: int,
    forward: Callable[[], Any],
    reduce: Callable[[AttentionCall], Any],
    layers: Collection[int] | None,
) -> tuple[dict[int, Any], Any, list[str]]:
    """Returns by layer what ``reduce`` made of it, the model's output, and what could not be seen."""
    number = count()

    def chosen(call: AttentionCall) -> Any:
        i = next(number)
        return reduce(call) if layers is None or i in layers else None

    with capture_attention(module, sequences, chosen) as captured:
        output = forward()
    found = {i: each for i, each in enumerate(captured.calls) if each is not None}
    if captured.calls and not found:
        raise _none_of("layers", layers, len(captured.calls))
    return found, output, captured.unseen


def _none_of(name: str, chosen: Collection[int] | None, count: int) -> InputError:
    return InputError(
        f"{name} is {list(chosen or ())}, and there are {count}: give numbers from 0 to {count - 1}"
    )


def _repeated(module: nn.Module, inputs: Tensor) -> Tensor | None:
    """Returns random tokens said twice, None where the inputs are no tokens or too few."""
    period = min(_PERIOD, inputs.size(1) // 2)
    embedding = next((m for m in module.modules() if isinstance(m, nn.Embedding)), None)
    if period < 4 or inputs.dim() != 2 or inputs.is_floating_point() or embedding is None:
        return None
    return repeated_tokens(embedding.num_embeddings, period, _SEQUENCES).to(inputs.device)


def _runner(module: nn.Module, example: Example, call: NetworkCall | None) -> Callable[[], Any]:
    return partial(run, module, example) if call is None else partial(call.run, module)


def _induction(
    module: nn.Module, repeated: Tensor, layers: Collection[int] | None, call: NetworkCall | None
) -> dict[int, _Measures]:
    period = repeated.size(1) // 2
    try:
        call = None if call is None else call.with_inputs(repeated)
        forward = _runner(module, {"inputs": repeated}, call)
        found, _, _ = _capture(
            module, len(repeated), forward, lambda seen: {"induction": induction_score(seen, period)}, layers
        )
    except Exception:  # somebody else's model may not take any tokens: its attention is seen all the same
        return {}
    return found


def _saliency(
    module: nn.Module, inputs: Tensor, valid: Tensor | None, repeated: Tensor | None, call: NetworkCall | None
) -> LayerView:
    if inputs.dim() != 2 or inputs.is_floating_point():
        raise InputError(
            f"saliency needs token ids (batch, time), and the inputs have shape {tuple(inputs.shape)} and "
            f"{inputs.dtype}: leave saliency out"
        )
    seen = _saliency_call(module, inputs, call)
    measures = measure_heads(seen, valid)
    if repeated is not None:
        try:
            other = None if call is None else call.with_inputs(repeated[:1])
            again = _saliency_call(module, repeated[:1], other)
            measures["induction"] = induction_score(again, repeated.size(1) // 2)
        except InputError:  # it is not known how the model is called for other tokens
            if call is None:
                raise
    return _view(SALIENCY, "", attention_maps(seen, MOST_SHOWN), measures, None)


def _saliency_call(module: nn.Module, inputs: Tensor, call: NetworkCall | None) -> AttentionCall:
    maps = saliency(module, inputs, call=call).maps[:, None]  # (sequences, 1 head, queries, keys)
    visible = torch.arange(1, inputs.size(1) + 1, device=maps.device).expand(maps.shape[:-1])
    return AttentionCall.of_maps(maps, visible)


def _view(
    name: str, module: str, maps: Tensor, measures: Mapping[str, Tensor], heads: Collection[int] | None
) -> LayerView:
    shown = [i for i in range(len(maps)) if heads is None or i in heads]
    if not shown:
        raise _none_of("heads", heads, len(maps))
    if not maps.isfinite().all():
        raise InputError("the attention holds numbers that are not finite: the weights have diverged")
    return LayerView(
        name,
        module,
        tuple(shown),
        maps[shown].float().cpu().numpy(),
        {each: measures[each][shown].float().cpu().numpy() for each in MEASURES if each in measures},
    )


def _predicted(output: Any, inputs: Tensor) -> tuple[tuple[int, float], ...]:
    try:
        logits = find_logits(output, *inputs.shape[:2])[0]
    except InputError:
        return ()
    likeliest = logits.float().softmax(-1).max(-1)
    return tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
