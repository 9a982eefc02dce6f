"""Whether data and model go together."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_seq.errors import InputError


def check_sizes(model: LightningModule, data: Any) -> None:
    """Refuses data with more ids, or longer sequences, than the model was built for.

    Args:
        model: One that keeps its vocab_size as a hyperparameter; a limit on lengths is its network's.
        data: A DataModule, or None.

    Raises:
        InputError: The data is too large for the model.
    """
    for name, of_model in (
        ("vocab_size", model.hparams.get("vocab_size")),
        ("context_length", getattr(getattr(model, "network", None), "context_length", None)),
    ):
        of_data = getattr(data, name, None)
        if of_data is None or of_model is None or of_data <= of_model:
            continue
        less = f"lower data.{name}" if name in getattr(data, "hparams", {}) else _otherwise(name)
        raise InputError(
            f"data.{name} is {of_data} and the model's {name} is {of_model}: {less}, or build the model with "
            f"model.{name} {of_data} or more"
        )


def check_batch(model: LightningModule, batch: Any) -> None:
    """Refuses a batch that is no dict of ``inputs`` and ``targets``.

    Args:
        model: What is trained or scored.
        batch: As a DataLoader gave it.

    Raises:
        InputError: It is something else.
    """
    got = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        missing = [name for name in ("inputs", "targets") if not isinstance(batch.get(name), Tensor)]
        if not missing:
            _check_memory(model, batch)
            return
        got = f"a dict of {', '.join(map(repr, batch)) or 'nothing'}, no tensor {' and '.join(missing)} in it"
    raise InputError(
        f"{type(model).__name__} got a batch that is {got}: a batch must be a dict of the tensors inputs and "
        "targets, ids (batch, time) both, each target being the token after its input"
    )


def _check_memory(model: LightningModule, batch: Mapping[str, Any]) -> None:
    mesh = model._device_mesh
    if mesh is None or "continues" not in batch or mesh["tensor_parallel"].size() == 1:
        return
    if getattr(model.network, "memory_length", 0):
        raise InputError(
            f"tensor_parallel_size is {mesh['tensor_parallel'].size()}, and the data's text goes on from "
            "batch to batch, while each rank would remember its own heads: give model.memory_length 0, or "
            "data.batching blocks"
        )


def _otherwise(name: str) -> str:
    return "take the data it was made for" if name == "vocab_size" else "make the data's sequences shorter"
