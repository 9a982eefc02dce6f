"""What ``lightning-seq evaluate`` does: a checkpoint, a text, a protocol, and the figures."""

import math
import time
from argparse import Namespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_seq import checkpoints
from lightning_seq.data import SequenceDataModule
from lightning_seq.data.scored_text import ScoredText, file_sha256, file_text, scored_text
from lightning_seq.data.tokenization.ready_made import parse_tokenizer
from lightning_seq.data.training_text import comparison, recognized
from lightning_seq.data.unknown_tokens import check_unknown
from lightning_seq.errors import InputError
from lightning_seq.evaluation import (
    Blocks,
    DynamicEvaluation,
    MeanSquaredGradients,
    NeuralCache,
    Protocol,
    Sliding,
    Stream,
    initial_state_loss,
    mean_squared_gradients,
    measures,
    score,
)
from lightning_seq.evaluation.scoring import Method
from lightning_seq.models.sizes import check_documents

UNBOUNDED_CONTEXT = 128
STATISTICS_LANES = 100  # as the authors of dynamic evaluation have it
STATISTICS_TOKENS = 1_000_000


def evaluate(options: Namespace, data_words: list[str]) -> dict[str, Any]:
    """Returns all that is to be said of a checkpoint and a text, see :mod:`lightning_seq.evaluation.report`.

    Args:
        options: As ``commands/evaluate.py`` parses them.
        data_words: The words of the command line that choose the data, if no file is given.
    """
    model = checkpoints.load(options.checkpoint, options.trust)
    network = getattr(model, "network", None)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"{type(model).__name__} keeps no `network` that could be scored: give it one")
    network.to(_device(options.device))
    data = None if options.text is not None else _data(data_words, model)
    check_documents(network, data)
    split = options.split or "validation"
    text = _text(model, data, split, options.text, options.max_tokens)
    protocol = _protocol(options, getattr(network, "context_length", None))
    method = _method(options, model, data, protocol)
    start = time.perf_counter()
    with _progress(len(text.ids) - 1, "scoring") as bar:
        losses = score(network, torch.from_numpy(text.ids), protocol, options.batch_size, method, bar.update)
    seconds, from_start = time.perf_counter() - start, None
    if isinstance(protocol, Stream) and method is None:
        from_start = initial_state_loss(network, torch.from_numpy(text.ids), batch_size=options.batch_size)
    sizes = {"characters": text.characters, "bytes": text.bytes, "words": text.words}
    return {
        "checkpoint": options.checkpoint,
        "model": type(model).__name__,
        "text": options.text if data is None else data.describe(),
        "split": None if data is None else split,
        **_provenance(model, data, split, options.text, text),
        "protocol": protocol.name if method is None else f"{protocol.name}, {method.name}",
        "tokens": len(losses),
        **sizes,
        "unknown": text.unknown,
        "unknown_fraction": text.unknown / len(losses),
        "unknown_token": text.unknown_token,
        "unknown_written": text.written,
        **measures(_total(losses, options.dynamic_learning_rate), len(losses), **sizes),
        "initial_state_loss": from_start,
        "seconds": round(seconds, 3),
        "device": next((str(parameter.device) for parameter in network.parameters()), "cpu"),
    }


def _total(losses: torch.Tensor, dynamic_learning_rate: float | None) -> float:
    finite = bool(losses.isfinite().all())
    if not finite and dynamic_learning_rate is not None:
        raise InputError(
            f"some losses are not finite: dynamic_learning_rate {dynamic_learning_rate} may be "
            "too high, lower it"
        )
    if not finite:
        raise InputError("some losses are not finite: the network's weights have diverged, take others")
    return float(losses.sum())


def _device(name: str) -> str:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("device is cuda, and torch finds none: give --device cpu, or install torch for CUDA")
    return name if name != "auto" else "cuda" if there else "cpu"


def _data(words: list[str], model: Any) -> SequenceDataModule:
    """Returns the DataModule of a recipe, reading text as the checkpoint does."""
    from lightning_seq.cli.data_only import build_data

    data = build_data(words, "evaluate")
    if not isinstance(data, SequenceDataModule):
        raise InputError(
            f"{type(data).__name__} has no text that could be read from end to end: score it by "
            "`lightning-seq test`"
        )
    if (tokenizer := getattr(model, "tokenizer", None)) is not None:
        data.adopt_tokenizer(tokenizer.to_str())
    return data


def _text(
    model: Any, data: SequenceDataModule | None, split: Any, path: str | None, max_tokens: int | None
) -> ScoredText:
    """Returns what is to be scored: a split of ``data``, or what ``path`` means."""
    if path is not None:
        if (tokenizer := getattr(model, "tokenizer", None)) is None:
            raise InputError(
                "the checkpoint carries no tokenizer to read --text by: give its --config instead"
            )
        text = file_text(path, parse_tokenizer(tokenizer.to_str(), "the checkpoint's tokenizer"), max_tokens)
    else:
        assert data is not None
        text = scored_text(data.encoded(split), data.tokenizer, max_tokens)
    name = repr(path) if data is None else f"the {split} split of {data.describe()}"
    if len(text.ids) < 2:
        raise InputError(f"{name} has {len(text.ids)} tokens, nothing to predict: give a longer text")
    if text.unknown_token is not None:
        check_unknown(name, len(text.ids) - 1, max(0, text.unknown - text.written), text.unknown_token)
    known = model.hparams.get("vocab_size")
    if known is not None and (largest := int(np.max(text.ids))) >= known:
        raise InputError(
            f"the text has the id {largest} and the model knows {known}: take the data it was trained on"
        )
    return text


def _provenance(
    model: Any, data: SequenceDataModule | None, split: Any, path: str | None, text: ScoredText
) -> dict[str, Any]:
    """Returns the hash of the scored text, and how it compares with what the checkpoint was trained on."""
    record = getattr(model, "training_record", None)
    fraction = recognized(record, text.ids)
    if data is None:
        assert path is not None
        sha256, of_train = file_sha256(path), None
    else:
        sha256, of_train = data.content_sha256(split), data.content_sha256("train")
    return {
        "sha256": sha256,
        "trained_on": None if record is None else record["name"],
        "trained_on_sha256": None if record is None else record["sha256"],
        "training_text_fraction": fraction,
        "comparison": comparison(record, fraction, of_train),
    }


def _protocol(options: Namespace, bound: int | None) -> Protocol:
    """Returns the protocol; by default nothing is attended to from farther than the network was built for."""
    context = options.context_length
    if options.protocol == "stream":
        default = (
            UNBOUNDED_CONTEXT if bound is None else max(1, bound // 2)
        )  # the chunk, and as much before it
        return Stream(default if context is None else context, 1 if options.lanes is None else options.lanes)
    context = context if context is not None else bound or UNBOUNDED_CONTEXT
    if options.protocol == "blocks":
        return Blocks(context)
    return Sliding(context, max(1, context // 4) if options.stride is None else options.stride)


def _method(
    options: Namespace, model: Any, data: SequenceDataModule | None, protocol: Protocol
) -> Method | None:
    """Returns what goes on beside the network, if anything."""
    if options.cache_window is not None:
        given = {"theta": options.cache_theta, "share": options.cache_lambda}
        defaults = {"theta": 0.3, "share": 0.1}
        return NeuralCache(options.cache_window, **_over(defaults, given))
    if options.dynamic_learning_rate is None:
        return None
    if not 0 < options.dynamic_learning_rate < math.inf:
        raise InputError(
            f"dynamic_learning_rate is {options.dynamic_learning_rate}: give one above 0, such as 1e-4"
        )
    given = {"decay": options.dynamic_decay, "epsilon": options.dynamic_epsilon}
    settings = _over({"decay": 0.002}, given)
    nothing = MeanSquaredGradients([], 0, 0)
    DynamicEvaluation(options.dynamic_learning_rate, squares=nothing, **settings)  # may refuse, at once
    squares = _squares(options, model, data, protocol)
    return DynamicEvaluation(options.dynamic_learning_rate, squares=squares, **settings)


def _squares(
    options: Namespace, model: Any, data: SequenceDataModule | None, protocol: Protocol
) -> MeanSquaredGradients:
    """Returns how large gradients are on the training text."""
    if data is None and options.dynamic_text is None:
        raise InputError(
            "dynamic evaluation scales its steps by the training text: give it as --dynamic_text PATH"
        )
    most = STATISTICS_TOKENS if options.dynamic_tokens is None else options.dynamic_tokens
    if most < 2:
        raise InputError(f"dynamic_tokens is {most}: give 2 or more")
    ids = _text(model, data, "train", options.dynamic_text, most).ids
    lanes = max(1, min(STATISTICS_LANES, (len(ids) - 1) // protocol.context_length))
    stream = Stream(protocol.context_length, lanes)
    with _progress(len(ids) - 1, "gradients of the training text") as bar:
        return mean_squared_gradients(model.network, torch.from_numpy(ids), stream, bar.update)


def _over(defaults: dict[str, float], given: dict[str, float | None]) -> dict[str, float]:
    return {**defaults, **{name: value for name, value in given.items() if value is not None}}


def _progress(total: int, what: str) -> Any:
    return tqdm(total=total, desc=what, unit=" tokens", unit_scale=True, leave=False, delay=2, disable=None)
