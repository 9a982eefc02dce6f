"""``lightning-seq doctor``: what a training would do and need, and what is wrong with it."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from lightning_seq.commands import find_own_modules, importing

COMMANDS = {"doctor": "check a training before it is run: --config RECIPE"}

EXPLAINED = """\
Any option of `lightning-seq fit` may follow, such as --model.hidden_size 512.
No run directory is made, nothing is downloaded; local text is tokenized into
the cache, where fit will find it. Memory and FLOPs are found on tensors that
have shapes and no content, so that a large model is no burden here.

The status is 0 if all is well, 1 with a list of what to mend, 2 for options
that there are not.
"""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options, words = _parser().parse_known_args(argv[1:])
    find_own_modules()
    with importing():
        from lightning_seq.cli.doctor.examination import examine, resolved  # torch takes seconds: --help not
        from lightning_seq.cli.doctor.report import as_json, as_table

    for config in reversed(options.config or []):
        words = ["--config", config, *words]
    if options.resolved:
        print(resolved(words), end="")
        return 0
    sections, problems = examine(words)
    print(as_json(sections, problems) if options.json else as_table(sections, problems))
    return 1 if problems else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-seq doctor",
        usage="%(prog)s --config RECIPE [--config FRAGMENT ...] [option ...]",
        description="Say what a training would do and need, and what is wrong with it.",
        epilog=EXPLAINED,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", "-c", action="append", help="a recipe's name or a .yaml file; several merge in order")
    add("--resolved", action="store_true", help="print the whole configuration as YAML, and nothing else")
    add("--json", action="store_true", help="print one JSON object")
    return parser
