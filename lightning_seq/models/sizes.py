"""Whether data and model go together."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import takes_document_ids


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


def check_documents(network: Any, data: Any) -> None:
    """Refuses data that pack separate documents into one window, where the network cannot keep them apart.

    Args:
        network: What the batches are given to.
        data: A DataModule, or None.

    Raises:
        InputError: The network would read from one document into the next.
    """
    packed = getattr(data, "separate_documents", False) and getattr(data, "batching", None) == "blocks"
    if not packed or not isinstance(network, nn.Module) or takes_document_ids(network):
        return
    others = (
        'data.batching "contiguous" (its state begins anew with each document) or "documents" (a row each)'
    )
    if getattr(data, "streaming", False):
        others = f"data.max_tokens in place of streaming, with {others}"
    raise InputError(
        f"data.separate_documents is true with batching 'blocks', and {_no_documents(network)}: give "
        f"{others}, or separate_documents false"
    )


def _no_documents(network: Any) -> str:
    return (
        f"{type(network).__name__} cannot keep documents in one row apart (its forward has no document_ids)"
    )


def check_batch(model: LightningModule, batch: Any) -> None:
    """Refuses a batch that is no dict of ``inputs`` and ``targets``, or asks what the network cannot do.

    Args:
        model: What is trained or scored.
        batch: As a DataLoader gave it.

    Raises:
        InputError: It is something else.
    """
    got = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        missing = [name for name in ("inputs", "targets") if not isinstance(batch.get(name), Tensor)]
        if not missing and batch["inputs"].shape[:2] != batch["targets"].shape:
            shapes = tuple(batch["inputs"].shape), tuple(batch["targets"].shape)
            raise InputError(
                f"{type(model).__name__} got inputs {shapes[0]} and targets {shapes[1]}: give a target for "
                "each input, (batch, time) both, with -100 where nothing is predicted"
            )
        if not missing:
            _check_memory(model, batch)
            _check_document_ids(model, batch)
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


def _check_document_ids(model: Any, batch: Mapping[str, Any]) -> None:
    if "document_ids" in batch and not model._compilation.takes_document_ids:
        raise InputError(
            f"the batch has document_ids, and {_no_documents(model.network)}: give one document a row, or "
            "rows that go on from batch to batch with `continues` False where a document begins"
        )


def _otherwise(name: str) -> str:
    return "take the data it was made for" if name == "vocab_size" else "make the data's sequences shorter"
