"""``lightning-seq consolidate``: one file of a distributed checkpoint."""

from argparse import ArgumentParser
from pathlib import Path

COMMANDS = {"consolidate": "one file of a checkpoint that many processes wrote"}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = ArgumentParser(
        prog="lightning-seq consolidate",
        description="Write one .ckpt file, which loads anywhere, of a distributed checkpoint: a directory "
        "with a part of each process (save_distributed_checkpoint of ModelParallelStrategy).",
    )
    parser.add_argument("directory", type=Path, help="the distributed checkpoint")
    parser.add_argument("--output", type=Path, help="the file to write (default: DIRECTORY.ckpt)")
    arguments = parser.parse_args(argv[1:])

    from lightning_seq.distributed_checkpoints import consolidate

    output = arguments.output or arguments.directory.with_name(f"{arguments.directory.name}.ckpt")
    weights = consolidate(arguments.directory, output)
    print(f"{output}: {weights} weights and the optimizer's state; go on with --ckpt_path {output}")
    return 0
