"""``lightning-seq attention``: an interactive page of what trained models attend to in a text."""

import json
from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from lightning_seq.commands import find_own_modules, shortened

COMMANDS = {"attention": "what models attend to, one page: --checkpoint FILE ..."}

EXPLAINED = """\
A model without attention, such as an RNN, is shown by its saliency: the share of
each earlier token in the gradient of a prediction. With several checkpoints every
model's saliency is shown, so that an RNN, an LSTM and a Transformer can be compared
on one sentence. The page needs no network.
"""

_NAMES = 34  # columns of the names


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = _parser().parse_args(argv[1:])
    _check_usage(options)
    if options.trust:
        find_own_modules()
    from lightning_seq.cli.attention import look_at  # torch takes seconds: wrong usage need not wait

    results, text = look_at(options)
    if options.json:
        found = {"models": results, "text": text, "page": str(options.output)}
        print(json.dumps(found, allow_nan=False))
    else:
        print(_as_table(results, text, options))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq attention",
        usage="%(prog)s --checkpoint FILE [FILE ...] [option ...]",
        description="See what trained models attend to in a text, on an interactive page.",
        epilog=EXPLAINED,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        nargs="+",
        required=True,
        metavar="FILE",
        help=".ckpt files: runs/.../checkpoints/best.ckpt",
    )
    add(
        "--text",
        help="a text, or a file with one (default: the beginning of the validation split of the first "
        "checkpoint's run, where its config.yaml lies beside it)",
    )
    add(
        "--output",
        type=Path,
        default=Path("attention.html"),
        metavar="FILE.html",
        help="where the page goes, over an older one (default: attention.html)",
    )
    add(
        "--tokens",
        type=int,
        default=64,
        metavar="N",
        help="how many tokens to show, as far as the model's context reaches, 256 at most (default: 64)",
    )
    add("--saliency", action="store_true", help="show the saliency of a model with attention, too")
    add("--trust", action="store_true", help="import the class outside this package that a checkpoint names")
    add("--json", action="store_true", help="print one JSON object: all measures of all heads")
    return parser


def _check_usage(options: Namespace) -> None:
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(None, f"--output is {str(options.output)!r}: give a name that ends in .html")
    if not 2 <= options.tokens <= 256:
        raise ArgumentError(None, f"--tokens is {options.tokens}: give from 2 to 256")


def _as_table(results: list[dict[str, Any]], text: str, options: Namespace) -> str:
    lines = [f"{'model':{_NAMES}s}{'heads':>10s}{'entropy':>12s}{'distance':>12s}{'induction':>12s}"]
    lines += [
        _row(result, kind)
        for result in results
        for kind in ("attention", "saliency")
        if f"{kind}/entropy" in result["measures"]
    ]
    shown = text if len(text) <= 64 else f"{text[:61]}..."
    return "\n".join([*lines, "", f"text: {shown!r}", f"page: {options.output} (open it in a browser)"])


def _row(result: dict[str, Any], kind: str) -> str:
    measures = result["measures"]
    heads = str(result["heads"]) if kind == "attention" else kind
    cells = [
        f"{measures[key]:12.2f}" if (key := f"{kind}/{name}") in measures else f"{'-':>12s}"
        for name in ("entropy", "distance", "induction")
    ]
    return f"{shortened(result['label'], _NAMES):{_NAMES}s}{heads:>10s}{''.join(cells)}"
