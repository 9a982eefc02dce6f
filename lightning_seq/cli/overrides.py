"""What wins where recipe, checkpoint and command line differ: line over checkpoint over recipe."""

import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_seq import checkpoints, distributed_checkpoints, recipes
from lightning_seq.data.tokenization.vocabulary import agreed
from lightning_seq.errors import InputError
from lightning_seq.models import LanguageModel


def report_class_changes(config: Any, files: Iterable[str]) -> None:
    """Says which of a recipe's arguments were kept and which dropped, where another class replaced its own.

    jsonargparse keeps what the new class takes, too, and drops the rest without a word.
    """
    for key in ("model", "data"):
        if not config.get(key):
            continue
        new, accepted = _short(config[key].class_path), config[key].get("init_args") or {}
        recipe = next(
            (section for section in _sections(files, key) if _short(section["class_path"]) != new), None
        )
        if recipe is None:
            continue
        named = recipe.get("init_args") or {}
        kept = ", ".join(name for name in named if name in accepted) or "nothing"
        lost = [name for name in named if name not in accepted]
        dropped = f"; dropped {', '.join(lost)}" if lost else ""
        old = _short(recipe["class_path"])
        rank_zero_info(f"{key}: {new} replaces the recipe's {old}; kept {kept}{dropped}")


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _sections(files: Iterable[str], key: str) -> Iterator[dict[str, Any]]:
    """Yields what each file says of ``key``, if it names a class there."""
    for file in files:
        section = recipes.content(Path(file)).get(key)
        if isinstance(section, str):
            yield {"class_path": section}
        elif isinstance(section, dict) and "class_path" in section:
            yield section


def adopt_checkpoint(config: Any, path: str, line: Iterable[str], fit: bool) -> dict[str, Any]:
    """Builds the model that the checkpoint's weights fit, with the checkpoint's tokenizer.

    Args:
        config: The parsed configuration; it is changed.
        path: The checkpoint.
        line: The command line, to tell what was given explicitly: that wins, except over what the weights
            need.
        fit: Whether a training is to go on from it.

    Returns:
        What the checkpoint holds.

    Raises:
        InputError: The checkpoint is broken, another class wrote it, no step is left to train, or
            ``tie_weights`` is given and differs.
    """
    content = _read(config, path)
    if fit:
        _check_steps_left(content.get("global_step", 0), config, path)
    _adopt(config, content, path, line, content.get("hyper_parameters", {}))
    return content


def adopt_weights(config: Any, path: str, line: Iterable[str]) -> dict[str, Any]:
    """Builds a network that the checkpoint's weights fit, with its tokenizer, to be trained as configured.

    Args:
        config: The parsed configuration; it is changed.
        path: The checkpoint.
        line: The command line: what it gives wins.

    Returns:
        What the checkpoint holds.

    Raises:
        InputError: The checkpoint is broken, or another class wrote it.
    """
    content = _read(config, path)
    if "state_dict" not in content:
        raise InputError(
            f"{path} is a checkpoint of many files: `lightning-seq consolidate {path}` makes one of it"
        )
    of_training = inspect.signature(LanguageModel.__init__).parameters  # optimizer, schedule and the like
    network = {k: v for k, v in content.get("hyper_parameters", {}).items() if k not in of_training}
    _adopt(config, content, path, line, network)
    return content


def vocabulary_of(content: dict[str, Any]) -> int:
    """Returns how many ids a checkpoint's model has, which may be more than its tokenizer; 0 without one."""
    known = content.get(checkpoints.KEY, {}).get("tokenizer")
    return int(content.get("hyper_parameters", {}).get("vocab_size", 0)) if known else 0


def _read(config: Any, path: str) -> dict[str, Any]:
    content = distributed_checkpoints.read(path)
    _check_class(config.model.class_path, content.get(checkpoints.KEY, {}).get("class_path"), path)
    return content


def _adopt(
    config: Any, content: dict[str, Any], path: str, line: Iterable[str], taken: dict[str, Any]
) -> None:
    """Takes ``taken`` of the checkpoint's hyperparameters, and its tokenizer."""
    entry = content.get(checkpoints.KEY, {})
    explicit = _given(line, "model")
    model = config.model.get("init_args") or {}
    for name, value in taken.items():
        if name not in model or name == "vocab_size" or _same(model[name], value):
            continue
        if name in explicit:
            _report_difference(name, model[name], value)
            continue
        rank_zero_info(f"model.{name}: {value!r} as in the checkpoint, not {model[name]!r}")
        model[name] = _plain(value)
    data = (config.get("data") or {}).get("init_args") or {}
    if entry.get("tokenizer") and "tokenizer" in data:
        if "tokenizer" in _given(line, "data"):
            agreed(entry["tokenizer"], data["tokenizer"])
        data["tokenizer"] = path
        if "max_vocab_size" in data:  # the checkpoint's tokenizer has its size
            data["max_vocab_size"] = None


def _report_difference(name: str, here: Any, there: Any) -> None:
    """Says that the line wins, as weights that fit all the same would be loaded without a word."""
    if name == "tie_weights":
        raise InputError(
            f"model.tie_weights is {here} and {there} in the checkpoint, whose matrices cannot be "
            f"{'made one' if here else 'told apart'}: leave it out"
        )
    rank_zero_info(f"model.{name}: {here!r} here, {there!r} in the checkpoint")


def _given(line: Iterable[str], section: str) -> set[str]:
    """Returns the names of the options of ``section`` that the command line holds itself."""
    pattern = rf"--{section}\.(?:init_args\.)?(\w+)"
    return {found[1] for word in line if (found := re.match(pattern, word))}


def _check_steps_left(step: int, config: Any, path: str) -> None:
    max_steps = config.trainer.get("max_steps", -1)
    if 0 <= max_steps <= step:
        raise InputError(
            f"{path} is at step {step:,} and trainer.max_steps is {max_steps:,}: nothing is left to "
            f"train, give --trainer.max_steps {step + 1} or more"
        )


def _same(one: Any, other: Any) -> bool:
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_class(configured: str, written: str | None, path: str) -> None:
    if written is None:
        return
    configured = checkpoints.class_path(pkgutil.resolve_name(configured))
    if configured != written:
        raise InputError(
            f"{path} holds a {written}, and the configuration builds a {configured}: take the recipe that "
            f"wrote it, or add --model {written}"
        )
