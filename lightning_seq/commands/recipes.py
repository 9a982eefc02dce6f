"""``lightning-seq recipes``: list, show and copy recipes, without importing torch."""

from argparse import ArgumentParser
from pathlib import Path

from lightning_seq import recipes
from lightning_seq.errors import InputError

WIDEST = 20  # longer names push what is said of them to the right

COMMANDS = {"recipes": "list recipes; recipes show NAME; recipes copy NAME [PATH]"}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = ArgumentParser(
        prog="lightning-seq recipes", description="List recipes, show one, or copy one to edit it."
    )
    actions = parser.add_subparsers(dest="action", metavar="{list,show,copy}")
    actions.add_parser("list", help="one line a recipe (the default)")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name", help="a recipe's name")
    copy = actions.add_parser("copy", help="copy a recipe to a file of your own")
    copy.add_argument("name", help="a recipe's name")
    copy.add_argument("path", nargs="?", type=Path, help="file or directory (default: ./NAME.yaml)")
    arguments = parser.parse_args(argv[1:])
    if arguments.action == "show":
        print(recipes.find(arguments.name).read_text(encoding="utf-8"), end="")
    elif arguments.action == "copy":
        _copy(arguments.name, arguments.path)
    else:
        _list(recipes.names())
        print("\nFragments, each for any recipe: fit --config RECIPE --config FRAGMENT")
        _list(recipes.fragments())
        print("\nSweeps: recipes copy NAME sweep.yaml && wandb sweep sweep.yaml")
        _list(recipes.sweeps())
    return 0


def _list(names: list[str]) -> None:
    width = min(max(map(len, names), default=0), WIDEST)
    for name in names:
        print(f"{name:{width}s}  {recipes.description(name)}")


def _copy(name: str, target: Path | None) -> None:
    source = recipes.find(name)
    target = target or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise InputError(f"{target} exists already: give another path, nothing is overwritten")
    if not target.parent.is_dir():
        raise InputError(f"no directory {target.parent}: make it first, or give another path")
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    recipe = "--config RECIPE " if name in recipes.fragments() else ""
    use = "wandb sweep" if name in recipes.sweeps() else f"lightning-seq fit {recipe}--config"
    print(f"{target}: edit it, then run: {use} {_as_path(target)}")


def _as_path(target: Path) -> str:
    return str(target) if target.suffix == ".yaml" else f"{target}  (rename it to end in .yaml first)"
