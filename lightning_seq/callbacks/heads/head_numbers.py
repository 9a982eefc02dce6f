"""Numbers of heads, by the keys under which they are logged, and what in them is an alarm."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lightning_seq.callbacks.heads.view import KINDS, SALIENCY, LayerView


def of_heads(layers: Sequence[LayerView]) -> dict[str, float]:
    """Returns each measure of each head, as ``attention/entropy/layer0_head1``."""
    return {
        f"attention/{measure}/{layer.name.replace(' ', '')}_head{head}": float(value)
        for layer in layers
        if layer.name != SALIENCY
        for measure, values in layer.measures.items()
        for head, value in zip(layer.heads, values, strict=True)
    }


def is_of_head(key: str) -> bool:
    """Says whether a number is one head's."""
    return key.startswith("attention/") and "/layer" in key


def sentence(entry: Mapping[str, float]) -> str:
    """Returns an entry of the logger's history in one line."""
    if "attention/entropy" not in entry:
        return (
            f"saliency: entropy {entry['saliency/entropy']:.2f}, {entry['saliency/distance']:.1f} tokens back"
        )
    count = sum(key.startswith("attention/entropy/layer") for key in entry)
    kinds = [
        f"{round(entry[key] * count)} {name}"
        for kind, name in KINDS.items()
        if entry.get(key := f"attention/{kind}_heads")
    ]
    return f"entropy {entry['attention/entropy']:.2f} over {count} heads" + "".join(
        f", {each}" for each in kinds
    )


def summary(layers: Sequence[LayerView], threshold: float) -> dict[str, float]:
    """Returns mean, smallest and largest of each measure, and how many heads are of a kind.

    Args:
        layers: Of the attention and, perhaps, the saliency, which gives ``saliency/entropy`` and so on.
        threshold: The score from which on a head is of a kind.
    """
    numbers: dict[str, float] = {}
    measured: dict[str, list[float]] = {}
    for layer in layers:
        for measure, values in layer.measures.items():
            if layer.name == SALIENCY:
                numbers[f"saliency/{measure}"] = float(values[0])
            else:
                # NaN: of a head whose queries have no choice
                measured.setdefault(measure, []).extend(values[np.isfinite(values)].tolist())
    for measure, scores in measured.items():
        if not scores:
            continue
        numbers[f"attention/{measure}"] = float(np.mean(scores))
        numbers[f"attention/{measure}_min"] = min(scores)
        numbers[f"attention/{measure}_max"] = max(scores)
        if measure in KINDS:
            numbers[f"attention/{measure}_heads"] = float(np.mean(np.array(scores) >= threshold))
    return numbers


def alarms(
    layers: Sequence[LayerView], entropy_below: float | None, logit_above: float | None
) -> Iterator[tuple[str, str]]:
    """Yields what is wrong, and where: a word for the place, and one line.

    Args:
        layers: Those of the attention; saliency raises no alarm.
        entropy_below: The mean over a layer's heads below which its attention has collapsed.
        logit_above: The largest logit of a head.
    """
    for layer in layers:
        if layer.name == SALIENCY:
            continue
        entropy, logits = (_known(layer, name) for name in ("entropy", "max_logit"))
        mean = float(np.mean(list(entropy.values()))) if entropy else np.inf
        if entropy_below is not None and mean < entropy_below:
            yield (
                f"entropy of {layer.name}",
                f"the attention of {layer.name} has collapsed: the mean entropy of its heads is "
                f"{mean:.2g}, below {entropy_below:g} (warn_entropy_below); a lower learning rate, "
                "a longer warm-up or qk_norm keep attention open",
            )
        head = max(logits, key=logits.__getitem__, default=None)
        if logit_above is not None and head is not None and logits[head] > logit_above:
            yield (
                f"logits of {layer.name}",
                f"the attention of {layer.name}, head {head}, has a logit of {logits[head]:.4g}, above "
                f"{logit_above:g} (warn_logit_above): logits that grow break trainings; a lower learning "
                "rate, weight decay or qk_norm keep them small",
            )


def _known(layer: LayerView, measure: str) -> dict[int, float]:
    """A measure by head, without heads that have none."""
    values = layer.measures.get(measure, ())
    return {head: float(x) for head, x in zip(layer.heads, values, strict=False) if not np.isnan(x)}
