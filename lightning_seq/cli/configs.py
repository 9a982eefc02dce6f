"""--config on the command line: recipes' names become paths, and files come before explicit options."""

from argparse import ArgumentError
from collections.abc import Iterator, ValuesView
from pathlib import Path
from typing import Any

from lightning_seq import recipes
from lightning_seq.errors import InputError

_OPTIONS = ("--config", "-c")


def configs_first(words: list[str]) -> list[str]:
    """Returns the line with every --config in front, by path: explicit options win wherever they stand."""
    configs, others, rest = [], [], iter(words)
    for word in rest:
        option, equals, name = word.partition("=")
        if (name or word).startswith("#"):
            raise InputError(
                f"{word!r}: what begins with # is a comment in YAML, and lost; give it in a .yaml file"
            )
        if option in _OPTIONS:
            name = name if equals else next(rest, "")
            if not name:
                raise ArgumentError(None, f"{option} stands alone: give a recipe or a .yaml file after it")
            configs.append(f"--config={_readable(recipes.find(name))}")
        else:
            others.append(word)
    subcommand = others[:1] if others and not others[0].startswith("-") else []
    return [*subcommand, *configs, *others[len(subcommand) :]]


def classes_in(section: Any) -> Iterator[str]:
    """Yields the classes that a section names, at any depth, and itself if it is but a name."""
    path = section.get("class_path") if isinstance(section, dict) else section
    if isinstance(path, str):
        yield path
    members = section.values() if isinstance(section, dict) else section
    if isinstance(members, list | tuple | ValuesView):
        for each in members:
            yield from () if isinstance(each, str) else classes_in(each)


def _readable(path: Path) -> str:
    recipes.content(path)
    return str(path)
