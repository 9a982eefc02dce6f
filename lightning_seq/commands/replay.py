"""``lightning-seq replay``: the step of an incident, run again to see where it went wrong."""

from argparse import ArgumentParser

from lightning_seq.commands import find_own_modules

COMMANDS = {"replay": "run the step of an incident again: runs/NAME/incidents/step-N"}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = ArgumentParser(
        prog="lightning-seq replay",
        description="Run the step of an incident, as GradientIncidentRecorder saved it, again: say whether "
        "loss and gradient norm come out as recorded, which layers stood out, and which rows were hardest.",
        allow_abbrev=False,
    )
    parser.add_argument("incident", help="the directory: runs/.../incidents/step-000123")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: the kind it was recorded on, where there is one",
    )
    parser.add_argument(
        "--trust", action="store_true", help="import the class outside this package that the checkpoint names"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv[1:])
    # torch takes seconds: --help and wrong usage need not wait
    from lightning_seq.cli import replay_report
    from lightning_seq.cli.replay import replay

    if options.trust:
        find_own_modules()
    result = replay(options.incident, options.trust, device=options.device)
    print(replay_report.as_json(result) if options.json else replay_report.as_text(result))
    return 0
