"""What ``lightning-seq time-gradient`` does: models of recipes and checkpoints, each on a text of its own."""

import json
from argparse import ArgumentError, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything

import lightning_seq.models  # noqa: F401  (classes that are known by name without their path)
from lightning_seq.callbacks.probe import call_of, with_sequences
from lightning_seq.callbacks.time_gradient_example import Example, example_of
from lightning_seq.callbacks.time_gradient_figure import Line, draw_models, factor
from lightning_seq.cli import usage
from lightning_seq.cli.configs import configs_first
from lightning_seq.cli.trained import context_of, label, model_and_data, validation_batch
from lightning_seq.data import SequenceDataModule
from lightning_seq.data.scored_text import file_text, scored_text
from lightning_seq.data.tokenization.ready_made import parse_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.figures import png_bytes
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.time_gradient import FEWEST_TOKENS, time_gradient

SEQUENCES = 8


def compare(options: Namespace) -> list[dict[str, Any]]:
    """Measures every model, draws all in one picture, and returns what is to be said of each.

    Args:
        options: As ``commands/time_gradient.py`` parses them.
    """
    results = []
    for name in options.models:
        model, data = _trained(name, options) if _is_checkpoint(name) else _recipe(name)
        example, call, text = _example(model, data, options)
        found = time_gradient(model, example.inputs, example.targets, call=call)
        names = {"model": name, "label": _label(name)}
        results.append({**names, **vars(found), "sequences": len(example.inputs), "text": text})
    figure = draw_models(
        [
            Line(each["label"], f"{factor(each['decay_per_step'])} per token", each["lags"], each["curve"])
            for each in results
        ]
    )
    options.output.write_bytes(png_bytes(figure))
    return results


def _label(name: str) -> str:
    """Returns a recipe's name, or the names of a checkpoint's run and file."""
    return label(name) if _is_checkpoint(name) else Path(name).stem


def _trained(checkpoint: str, options: Namespace) -> tuple[LightningModule, Any]:
    return model_and_data(checkpoint, options.trust, "time-gradient", with_data=options.text is None)


def _is_checkpoint(name: str) -> bool:
    return name.endswith(".ckpt")


def _recipe(name: str) -> tuple[LightningModule, Any]:
    """Returns the model that a training of the recipe begins with, and its data."""
    [word] = configs_first(["--config", name])
    content = yaml.safe_load(Path(word.partition("=")[2]).read_text(encoding="utf-8"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")
    try:
        config = parser.parse_args(
            [f"--{key}={_as_word(content.get(key), name, key)}" for key in ("data", "model")]
        )
    except ArgumentError as error:
        raise ArgumentError(None, usage.explain(error.message, parser._option_string_actions)) from error
    seed = content.get("seed_everything", 0)
    seed_everything(0 if isinstance(seed, bool) or seed is None else seed, verbose=False)
    try:
        built = parser.instantiate_classes(config)
    except Exception as error:
        unwrapped = usage.unwrapped(error)
        if unwrapped is error:
            raise
        raise unwrapped from error
    return built.model, built.data


def _as_word(section: Any, name: str, key: str) -> str:
    if not section:
        raise InputError(
            f"{name} has no section {key}, and the gradient needs a model and data: give another"
        )
    return section if isinstance(section, str) else json.dumps(section)


def _example(model: Any, data: Any, options: Namespace) -> tuple[Example, NetworkCall | None, str]:
    """Returns the sequences to look at, how the model is called for them, and what they are, for people."""
    lags = context_of(model, options.tokens + 1) - 1
    most = SEQUENCES * (lags + 2)
    if options.text is not None:
        tokenizer = getattr(model if data is None else data, "tokenizer", None)
        if tokenizer is None:
            raise InputError(f"{type(model).__name__} has no tokenizer to read --text by: leave it out")
        readable = parse_tokenizer(tokenizer.to_str(), "the model's tokenizer")
        windows = _windows(file_text(options.text, readable, most).ids, lags, options.text)
        return windows, None, options.text
    if data is None:
        return _random(model, lags), None, "random tokens, as no text was given (--text) nor found"
    name = data.describe() if isinstance(data, SequenceDataModule) else type(data).__name__
    name = f"{name}, validation split"
    if isinstance(data, SequenceDataModule):
        windows = _windows(scored_text(data.encoded("validation"), data.tokenizer, most).ids, lags, name)
        return windows, None, name
    batch = validation_batch(data)
    call = call_of("time-gradient", model, batch)
    example = example_of(batch if call is None else with_sequences(batch, call), SEQUENCES, lags)
    if example is None:
        raise InputError(f"the {name} has no batches of `inputs` (batch, time) with ids: give other data")
    return example, None if call is None else call.cut(example.rows, *example.window), name


def _windows(ids: npt.NDArray[np.int64], lags: int, name: str) -> Example:
    """Cuts a text into sequences of ``lags + 1`` tokens and the one that follows; a short one into fewer."""
    time = min(lags + 1, len(ids) - 1)
    if time < FEWEST_TOKENS:
        raise InputError(f"{name} has {len(ids)} tokens: give a text of {FEWEST_TOKENS + 1} or more")
    count = len(ids) // (time + 1)
    windows = torch.from_numpy(ids[: count * (time + 1)]).view(count, time + 1)
    return Example(windows[:, :-1], windows[:, -1])


def _random(model: Any, lags: int) -> Example:
    vocabulary = model.hparams.get("vocab_size")
    if vocabulary is None:
        raise InputError(
            f"{type(model).__name__} says no vocab_size, to draw random tokens from: give --text"
        )
    tokens = torch.randint(0, vocabulary, (SEQUENCES, lags + 2), generator=torch.Generator().manual_seed(0))
    return Example(tokens[:, :-1], tokens[:, -1])
