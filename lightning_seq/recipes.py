"""Finds recipes: YAML files that the command line takes as --config. Imports nothing heavy."""

from pathlib import Path

from lightning_seq.errors import InputError, did_you_mean


def directory() -> Path:
    """Returns where the recipes lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Returns the recipes' names, sorted: their paths without ``.yaml``."""
    root = directory()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str) -> Path:
    """Returns the path of a recipe: what ends in .yaml is a path already, anything else a recipe's name.

    Raises:
        InputError: There is no such file or recipe.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"no file {name}: give a recipe's name (`lightning-seq recipes`) or a file")
        return Path(name)
    if name not in names():
        raise InputError(
            f"no recipe {name!r}{did_you_mean(name, names())}: `lightning-seq recipes` lists them; a path "
            "ends in .yaml"
        )
    return directory() / f"{name}.yaml"


def description(name: str) -> str:
    """Returns a recipe's first line, which says what it does."""
    with find(name).open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
