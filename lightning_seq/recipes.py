"""Finds recipes: YAML files that the command line takes as --config. Imports nothing heavy."""

from pathlib import Path
from typing import Any

from lightning_seq.errors import InputError, did_you_mean


def directory() -> Path:
    """Returns where the recipes lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Returns the recipes' names, sorted: their files without ``.yaml``."""
    return sorted(path.stem for path in directory().glob("*.yaml"))


def fragments() -> list[str]:
    """Returns the names of the fragments, sorted: what changes one thing in any recipe, as logger/wandb."""
    return [name for name in _in_folders() if not name.startswith("sweeps/")]


def sweeps() -> list[str]:
    """Returns the names of the sweeps, sorted: configurations of `wandb sweep`, as sweeps/quickstart."""
    return [name for name in _in_folders() if name.startswith("sweeps/")]


def _in_folders() -> list[str]:
    return sorted(f"{path.parent.name}/{path.stem}" for path in directory().glob("*/*.yaml"))


def find(name: str) -> Path:
    """Returns a file: what ends in .yaml is a path already, anything else a recipe's or fragment's name.

    Raises:
        InputError: There is no such file or recipe.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"no file {name}: give a recipe's name (`lightning-seq recipes`) or a file")
        return Path(name)
    known = [*names(), *_in_folders()]
    if name not in known:
        raise InputError(
            f"no recipe {name!r}{did_you_mean(name, known)}: `lightning-seq recipes` lists them; a path "
            "ends in .yaml"
        )
    return directory() / f"{name}.yaml"


def description(name: str) -> str:
    """Returns a recipe's first line, which says what it does."""
    with find(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def content(path: Path) -> dict[str, Any]:
    """Returns what a configuration file holds.

    Raises:
        InputError: It is no YAML, or no configuration.
    """
    import yaml  # recipes are found without it, and sooner

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no configuration: keys such as model, data and trainer are expected")
    return found
