"""The sequences at which a model's attention is looked, and how a model is given them."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from lightning_seq.callbacks.probe import Example, sequences_of
from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.prompts import read


def example_of(batch: Any, n_sequences: int, max_tokens: int) -> Example:
    """Returns the first sequences of a batch, without the padding that all of them begin or end with.

    Args:
        batch: A tensor, a tuple that begins with one, or a mapping with ``inputs`` or ``input_ids``; with an
            ``attention_mask``, or ``targets`` or ``labels`` that end in ignored ones, padding is known.
        n_sequences: The most sequences.
        max_tokens: The most tokens of each.

    Returns:
        ``inputs`` (sequences, time, ...); where there is padding ``valid`` (sequences, time) bool, and the
        ``attention_mask`` if the batch had one.

    Raises:
        InputError: The batch is of another kind.
    """
    inputs = sequences_of(batch)[:n_sequences].detach()
    start, stop = window_of(batch, n_sequences, max_tokens)
    if inputs.dim() > 3:
        return {"inputs": inputs.clone()}
    mask = _of_same_shape(batch, "attention_mask", inputs)
    valid = _unpadded(batch, inputs) if mask is None else mask.bool()
    example = {"inputs": inputs[:, start:stop].clone()}
    if mask is not None:
        example["attention_mask"] = mask[:, start:stop].detach().clone()
    if not valid[:, start:stop].all():
        example["valid"] = valid[:, start:stop].clone()
    return example


def window_of(batch: Any, n_sequences: int, max_tokens: int) -> tuple[int, int]:
    """Returns the first token that is looked at, and the one after the last; see :func:`example_of`."""
    inputs = sequences_of(batch)[:n_sequences].detach()
    if inputs.dim() > 3:  # pictures have no tokens to leave out
        return 0, inputs.size(1)
    mask = _of_same_shape(batch, "attention_mask", inputs)
    columns = (_unpadded(batch, inputs) if mask is None else mask.bool()).any(0).nonzero()
    start = int(columns[0]) if len(columns) else 0
    return start, min(int(columns[-1]) + 1 if len(columns) else inputs.size(1), start + max_tokens)


def text_example(text: str, tokenizer: Any, vocab_size: int | None, max_tokens: int) -> Example:
    """Returns the first tokens of a text.

    Args:
        text: Text, or ids as numbers where there is no tokenizer.
        tokenizer: A tokenizers.Tokenizer, one of transformers, or None.
        vocab_size: How many ids the model knows, where there is no tokenizer.
        max_tokens: The most tokens.

    Raises:
        InputError: The text has no two tokens, or some that the model does not know.
    """
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        ids = read(text, tokenizer, vocab_size)
    else:
        ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) < 2:
        raise InputError(f"the text {text!r} has {len(ids)} token(s): give one of 2 or more")
    return {"inputs": torch.tensor([ids[:max_tokens]])}


def run(module: nn.Module, example: Example) -> Any:
    """Calls ``module`` as its author meant it to be: with the mask if it takes one."""
    inputs, mask = example["inputs"], example.get("attention_mask")
    parameters = inspect.signature(module.forward).parameters.values()
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    named = {each.name for each in parameters}
    options = {}
    if mask is not None and (anything or "attention_mask" in named):
        options["attention_mask"] = mask
    positional = [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    if not positional and anything:
        return module(input_ids=inputs, **options)
    return module(inputs, **options)


def _of_same_shape(batch: Any, name: str, inputs: Tensor) -> Tensor | None:
    found = batch.get(name) if isinstance(batch, Mapping) else None
    if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] != inputs.shape[1]:
        return None
    return found[: len(inputs)]


def _unpadded(batch: Any, inputs: Tensor) -> Tensor:
    """Says which tokens come before the last that is scored, in rows where one is."""
    targets = _of_same_shape(batch, "targets", inputs)
    targets = _of_same_shape(batch, "labels", inputs) if targets is None else targets
    if targets is None:
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    scored = targets != IGNORE_INDEX
    to_come = scored.flip(1).cumsum(1).flip(1) > 0
    return to_come | ~scored.any(1, keepdim=True)
