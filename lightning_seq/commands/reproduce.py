"""``lightning-seq reproduce``: a recipe run as it is, and its results beside the ones that it states."""

import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from argparse import ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TextIO

from lightning_seq import recipe_header, recipes
from lightning_seq.errors import InputError
from lightning_seq.recipe_header import RecipeHeader

COMMANDS = {"reproduce": "run a recipe, compare with the results it states: RECIPE"}

EXPLAINED = """\
RECIPE comes first: a recipe's name, or a .yaml file. Where its data comes from,
its licence and what to cite are printed before anything is downloaded. Then
`lightning-seq fit` trains, in a new directory, runs/RECIPE-reproduce-N, and a
table compares the hash of the data and every result, within its tolerance.

Any option of `fit` may follow, such as --trainer.accelerator gpu; one that
changes the experiment is said in the report. --json prints one JSON object at
the end, and everything else to stderr.

Status: 0 if all holds (or the recipe states nothing), 1 if something does not,
or training failed, 2 for wrong usage.
"""

COLUMNS = 80
_ELSEWHERE = re.compile(  # where and how it is run, but not what
    r"--(log_text|trainer\.(logger|devices|num_nodes|accelerator|enable_progress_bar))\b"
)


def main(argv: list[str]) -> int:
    """Runs the command."""
    options, words = _parser().parse_known_args(argv[1:])
    first = next(word for word in argv[1:] if word != "--json")
    if first != options.recipe:
        raise ArgumentError(None, f"{first} stands before the recipe: give that first, options after it")
    path = recipes.find(options.recipe)
    header, changed = recipe_header.read(path), _changed(words)
    options.run_dir = options.run_dir or _first_free(path.stem)
    words = ["fit", "--config", options.recipe, "--run_dir", str(options.run_dir), *words]
    said = sys.stderr if options.json else sys.stdout
    print(_before(options.recipe, header, changed, words), file=said, flush=True)
    began = time.monotonic()
    status = _fit(words, None if said is sys.stdout else said)
    if status in (2, 130):  # wrong usage, Ctrl-C: fit has said so
        return status
    if status:
        raise InputError(f"the training ended with status {status}, as said above: nothing is compared")
    result = {"recipe": options.recipe, "run": str(options.run_dir), "changed": changed}
    result["seconds"] = {"expected": header.seconds, "found": round(time.monotonic() - began, 1)}
    # torch takes seconds: source and licence are said before
    from lightning_seq.cli.reproduce import as_table, compare

    result |= compare(header, options.run_dir)
    print(json.dumps(result, allow_nan=False) if options.json else as_table(result, header))
    return 1 if result["reproduced"] is False else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq reproduce",
        usage="%(prog)s RECIPE [any option of fit ...] [--json]",
        description="Run a recipe as it is, and say whether the results that it states hold here.",
        epilog=EXPLAINED,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a recipe's name (`lightning-seq recipes` lists them), or its file")
    add("--run_dir", type=Path, metavar="DIR", help="a new directory (default: runs/RECIPE-reproduce-N)")
    add("--json", action="store_true", help="print one JSON object at the end")
    return parser


def _first_free(name: str) -> Path:
    numbered = (Path("runs", f"{name}-reproduce-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def _changed(words: list[str]) -> list[str]:
    """Returns the options that change the experiment, each with its value."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or word == "-c" or not options:
            options.append([])
        options[-1].append(word)
    return [shlex.join(option) for option in options if not _ELSEWHERE.match(option[0])]


def _before(recipe: str, header: RecipeHeader, changed: list[str], words: list[str]) -> str:
    rows = {
        "recipe": recipe,
        "source": header.source,
        "licence": header.licence,
        "citation": header.citation,
        "changed:": ", ".join(changed),
        "command": shlex.join(["lightning-seq", *words]),
    }
    return "\n".join(_filled(f"{name:11s}", text) for name, text in rows.items() if text)


def _filled(name: str, text: str) -> str:
    indent = " " * len(name)
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=name,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fit(words: list[str], output: TextIO | None) -> int:
    """Trains in a process of its own, which may start others for its ranks; returns its status."""
    with subprocess.Popen([sys.executable, "-m", "lightning_seq", *words], stdout=output) as training:
        before = signal.signal(signal.SIGTERM, lambda *_: training.terminate())
        try:
            return _waited(training)
        finally:
            signal.signal(signal.SIGTERM, before)


def _waited(training: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return training.wait()
        except KeyboardInterrupt:  # the training got it, too, and saves where it stands
            continue
