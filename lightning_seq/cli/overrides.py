"""What wins where recipe, checkpoint and command line differ: line over checkpoint over recipe."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from lightning_seq import checkpoints
from lightning_seq.data.vocabulary import agreed
from lightning_seq.errors import InputError


def report_class_changes(config: Any, files: Iterable[str]) -> None:
    """Says which of a recipe's arguments were kept and which dropped, where another class replaced its own.

    jsonargparse keeps what the new class takes, too, and drops the rest without a word.
    """
    for key in ("model", "data"):
        recipe = _last_section(files, key)
        if not recipe or not config.get(key):
            continue
        old, new = recipe["class_path"].rpartition(".")[2], config[key].class_path.rpartition(".")[2]
        if old == new:
            continue
        named, accepted = recipe.get("init_args", {}), config[key].get("init_args", {})
        kept = ", ".join(name for name in named if name in accepted) or "nothing"
        dropped = ", ".join(name for name in named if name not in accepted) or "nothing"
        rank_zero_info(f"{key}: {new} replaces the recipe's {old}; kept {kept}; dropped {dropped}")


def _last_section(files: Iterable[str], key: str) -> dict[str, Any] | None:
    found = None
    for file in files:
        section = (yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}).get(key)
        if isinstance(section, dict) and "class_path" in section:
            found = section
    return found


def adopt_checkpoint(config: Any, path: str, line: Iterable[str]) -> None:
    """Builds the model that the checkpoint's weights fit, with the checkpoint's tokenizer.

    Args:
        config: The parsed configuration; it is changed.
        path: The checkpoint.
        line: The command line, to tell what was given explicitly: that wins, except over what the weights
            need.

    Raises:
        InputError: The checkpoint is broken, or another class wrote it.
    """
    content = checkpoints.read(path)
    entry = content.get(checkpoints.KEY, {})
    _check_class(config.model.class_path, entry.get("class_path"), path)
    explicit = {found[1] for word in line if (found := re.match(r"--model\.(?:init_args\.)?(\w+)", word))}
    model = config.model.init_args
    for name, value in content.get("hyper_parameters", {}).items():
        if name in explicit or name not in model or name == "vocab_size" or model[name] == _plain(value):
            continue
        rank_zero_info(f"model.{name}: {value!r} as in the checkpoint, not {model[name]!r}")
        model[name] = _plain(value)
    if entry.get("tokenizer") and config.get("data") and "tokenizer" in config.data.init_args:
        agreed(entry["tokenizer"], config.data.init_args.tokenizer)
        config.data.init_args.tokenizer = path


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_class(configured: str, written: str | None, path: str) -> None:
    if written is None:
        return
    module, _, name = configured.rpartition(".")
    configured = checkpoints.class_path(getattr(importlib.import_module(module), name))
    if configured != written:
        raise InputError(
            f"{path} holds a {written}, and the configuration builds a {configured}: take the recipe that "
            f"wrote it, or add --model {written}"
        )
