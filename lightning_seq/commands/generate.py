"""``lightning-seq generate``: text from a checkpoint."""

from argparse import ArgumentParser

from lightning_seq.commands import find_own_modules, importing

COMMANDS = {"generate": "text from a checkpoint: --checkpoint FILE --prompt TEXT"}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = ArgumentParser(
        prog="lightning-seq generate", description="Let a trained model go on with a text."
    )
    parser.add_argument("--checkpoint", required=True, help="a .ckpt file: runs/.../checkpoints/best.ckpt")
    parser.add_argument(
        "--prompt",
        default="\n",
        help="text to go on from, or ids where the model has them (default: a new line)",
    )
    parser.add_argument("--max_new_tokens", type=int, default=500, help="how many to add (default: 500)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="below 1 safer, above 1 wilder, 0 greedy (default: 0.8)",
    )
    parser.add_argument("--top_k", type=int, help="choose among the K likeliest tokens only")
    parser.add_argument(
        "--top_p", type=float, help="choose among the likeliest with this share of probability"
    )
    parser.add_argument("--seed", type=int, help="makes the text repeatable")
    parser.add_argument(
        "--trust", action="store_true", help="import the class outside this package that the checkpoint names"
    )
    options = vars(parser.parse_args(argv[1:]))
    # torch takes seconds: --help and wrong usage need not wait
    with importing():
        from lightning_seq.checkpoints import load

    trust = options.pop("trust")
    if trust:
        find_own_modules()
    model = load(options.pop("checkpoint"), trust)
    print(model.generate(options.pop("prompt"), **options))
    return 0
