"""``lightning-seq evaluate``: how well a checkpoint predicts a text, under a protocol with a name."""

from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter

from lightning_seq.commands import find_own_modules, importing
from lightning_seq.errors import did_you_mean

COMMANDS = {"evaluate": "perplexity of a text by a named protocol: --checkpoint FILE"}

EXPLAINED = """\
The text is one, documents one after the other, and every token but the first
is scored once. Word perplexity is exp(sum of losses / words) of the text behind
the first token: words between white space and, as in PTB and WikiText, one end
of line for each newline. It compares models of different tokenizers, as do bits
per character and per byte; perplexity per token compares those of one tokenizer.
"""

_NEEDED = {  # an option, and the one without which it says nothing
    "dynamic_decay": "dynamic_learning_rate",
    "dynamic_epsilon": "dynamic_learning_rate",
    "dynamic_text": "dynamic_learning_rate",
    "dynamic_tokens": "dynamic_learning_rate",
    "cache_theta": "cache_window",
    "cache_lambda": "cache_window",
}
_OF_PROTOCOL = {
    "stride": "sliding",
    "lanes": "stream",
    "dynamic_learning_rate": "stream",
    "cache_window": "stream",
}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = _parser()
    options, data_words = parser.parse_known_args(argv[1:])
    _check_usage(parser, options, data_words)
    if options.trust or options.text is None:
        find_own_modules()
    with importing():
        from lightning_seq.cli.evaluation import evaluate  # torch takes seconds: wrong usage need not wait
        from lightning_seq.evaluation import report

    for config in reversed(options.config or []):
        data_words = ["--config", config, *data_words]
    result = evaluate(options, data_words)
    print(report.as_json(result) if options.json else report.as_table(result))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq evaluate",
        usage="%(prog)s --checkpoint FILE --protocol NAME (--text PATH | --config RECIPE) [option ...]",
        description="Say how well a trained model predicts a text, and under which protocol that was found.",
        epilog=EXPLAINED,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="a .ckpt file: runs/.../checkpoints/best.ckpt")
    add(
        "--protocol",
        required=True,
        choices=("stream", "sliding", "blocks"),
        help="stream: state carried through the whole text, in chunks of context_length; sliding: windows "
        "without past, moved by stride, the last stride tokens of each scored; blocks: windows side by side",
    )
    add(
        "--context_length",
        type=int,
        metavar="N",
        help="tokens in a chunk or window (default: as many as the network can, in a stream half as many; "
        "128 where it has no bound)",
    )
    add("--stride", type=int, metavar="N", help="of sliding windows (default: a quarter of context_length)")
    add(
        "--lanes",
        type=int,
        help="parts of a stream read side by side; more are faster, 1 is exact (default: 1)",
    )
    text = parser.add_argument_group("the text")
    text.add_argument("--text", metavar="PATH", help="a UTF-8 file, a glob, or a directory of .txt files")
    text.add_argument(
        "--config", "-c", action="append", help="or a recipe, whose data is taken; --data options change it"
    )
    text.add_argument(
        "--split", choices=("validation", "test", "train"), help="of the data (default: validation)"
    )
    text.add_argument("--max_tokens", type=int, metavar="N", help="stop after so many (default: all)")
    add(
        "--batch_size",
        type=int,
        default=32,
        help="windows at once; it does not change the result (default: 32)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one")
    add(
        "--trust", action="store_true", help="import the class outside this package that the checkpoint names"
    )
    add("--json", action="store_true", help="print one JSON object")
    _add_methods(parser)
    return parser


def _add_methods(parser: ArgumentParser) -> None:
    dynamic = parser.add_argument_group(
        "dynamic evaluation of a stream (Krause et al. 2018): it learns on"
    ).add_argument
    dynamic(
        "--dynamic_learning_rate",
        type=float,
        metavar="RATE",
        help="turns it on; 1e-5 to 1e-3, found on validation",
    )
    dynamic(
        "--dynamic_decay", type=float, metavar="X", help="pull towards the trained weights (default: 0.002)"
    )
    dynamic(
        "--dynamic_epsilon",
        type=float,
        metavar="X",
        help="holds weights that have no gradient (default: 2e-5)",
    )
    dynamic(
        "--dynamic_text",
        metavar="PATH",
        help="training text to scale steps by (default: the data's train split)",
    )
    dynamic("--dynamic_tokens", type=int, metavar="N", help="how much of it is read (default: 1,000,000)")
    cache = parser.add_argument_group(
        "neural cache of a stream (Grave et al. 2017): it repeats itself"
    ).add_argument
    cache("--cache_window", type=int, metavar="TOKENS", help="turns it on; how many tokens are remembered")
    cache("--cache_theta", type=float, metavar="X", help="how much likeness of states counts (default: 0.3)")
    cache(
        "--cache_lambda", type=float, metavar="X", help="the cache's share of the probability (default: 0.1)"
    )


def _check_usage(parser: ArgumentParser, options: Namespace, data_words: list[str]) -> None:
    """Refuses, with status 2, options that are none and those that do not go together."""
    for name in (word.partition("=")[0] for word in data_words if word.startswith("-")):
        if not name.startswith(("--data", "--model", "--trainer")):
            hint = did_you_mean(name, parser._option_string_actions)
            raise ArgumentError(None, f"no option {name}{hint}: `lightning-seq evaluate --help` lists them")
    given = {name for name, value in vars(options).items() if value is not None}
    data = "config" in given or bool(data_words)
    if ("text" in given) == data:
        got = "both --text and the options of data" if data else "no text"
        raise ArgumentError(None, f"{got}: give --text PATH, or --config RECIPE, whose data is taken")
    if "text" in given and "split" in given:
        raise ArgumentError(
            None, "--split divides the data of a recipe, and a --text is scored whole: leave one out"
        )
    _check_together(given, options.protocol)


def _check_together(given: set[str], protocol: str) -> None:
    for name in sorted(given & _NEEDED.keys()):
        if _NEEDED[name] not in given:
            raise ArgumentError(None, f"--{name} says nothing without --{_NEEDED[name]}: give that, too")
    for name in sorted(given & _OF_PROTOCOL.keys()):
        if _OF_PROTOCOL[name] != protocol:
            raise ArgumentError(
                None, f"--{name} belongs to --protocol {_OF_PROTOCOL[name]}, not {protocol}: leave one out"
            )
    if {"cache_window", "dynamic_learning_rate"} <= given:
        raise ArgumentError(None, "dynamic evaluation and the cache are not combined: leave one of them out")
