"""``lightning-seq time-gradient``: how far back the gradients of models reach, side by side."""

import json
import math
import textwrap
from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from lightning_seq.commands import find_own_modules, shortened

COMMANDS = {"time-gradient": "how far back gradients reach, one picture: MODEL ..."}

COLUMNS = 80
_NAMES = 40  # columns of the names

EXPLAINED = """\
The loss of one token has a gradient at every input before it. How large it is,
against the distance in tokens, tells what a model can learn from: where it
vanishes, nothing; where it explodes, training breaks; where it stays, attention
or open gates carry it. A recipe's model is taken as it is initialised.
"""

_LEGEND = (
    "per token: what one more token leaves of the gradient; above 1 it explodes.",
    "half-life, 1% horizon: tokens until a half, and 1%, of it is left (>: beyond",
    "what was looked at).",
)


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = _parser().parse_args(argv[1:])
    _check_usage(options)
    find_own_modules()
    from lightning_seq.cli.time_gradient import compare  # torch takes seconds: wrong usage need not wait

    results = compare(options)
    print(_as_json(results, options) if options.json else _as_table(results, options))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq time-gradient",
        usage="%(prog)s MODEL [MODEL ...] [option ...]",
        description="Compare how far back in time the gradients of models reach, in one picture.",
        epilog=EXPLAINED,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "models", nargs="+", metavar="MODEL", help="a recipe, or a .ckpt file: runs/.../checkpoints/best.ckpt"
    )
    add(
        "--output",
        type=Path,
        default=Path("time_gradient.png"),
        metavar="FILE.png",
        help="where the picture goes, over an older one (default: time_gradient.png)",
    )
    add(
        "--tokens",
        type=int,
        default=128,
        metavar="N",
        help="how many tokens to look back, as far as the model's context reaches (default: 128)",
    )
    add(
        "--text",
        metavar="FILE",
        help="text to look at (default: the recipe's validation split; of a checkpoint that of the run's "
        "config.yaml, where it lies beside it, or else random tokens)",
    )
    add("--trust", action="store_true", help="import the class outside this package that a checkpoint names")
    add("--json", action="store_true", help="print one JSON object, curves included")
    return parser


def _check_usage(options: Namespace) -> None:
    if options.output.suffix.lower() != ".png":
        raise ArgumentError(None, f"--output is {str(options.output)!r}: give a name that ends in .png")
    if options.tokens < 3:
        raise ArgumentError(None, f"--tokens is {options.tokens}: give 3 or more, to tell a decay from")


def _as_json(results: list[dict[str, Any]], options: Namespace) -> str:
    """Returns one object; what is not finite is null: not within the lags that were looked at."""
    models = [
        {name: None if value == math.inf else value for name, value in result.items()} for result in results
    ]
    return json.dumps({"models": models, "picture": str(options.output)}, allow_nan=False)


def _as_table(results: list[dict[str, Any]], options: Namespace) -> str:
    lines = [f"{'model':{_NAMES}s}{'per token':>11s}{'half-life':>11s}{'1% horizon':>13s}"]
    for result in results:
        reach = result["lags"][-1]
        half_life = "explodes" if result["explodes"] else _number(result["half_life"], reach)
        lines.append(
            f"{shortened(result['label'], _NAMES):{_NAMES}s}{result['decay_per_step']:11.3f}"
            f"{half_life:>11s}{_number(result['horizon'], reach):>13s}"
        )
    lines += ["", *_LEGEND]
    texts: dict[str, list[str]] = {}
    for result in results:
        texts.setdefault(result["text"], []).append(result["label"])
    for text, names in texts.items():
        of = "" if len(texts) == 1 else f" ({', '.join(names)})"
        lines.append(textwrap.fill(f"text: {text}{of}", COLUMNS, subsequent_indent="      "))
    return "\n".join([*lines, f"picture: {options.output}"])


def _number(tokens: float, reach: int) -> str:
    return f"> {reach}" if tokens == math.inf else f"{tokens:.1f}"
