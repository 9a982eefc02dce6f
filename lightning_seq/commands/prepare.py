"""``lightning-seq prepare``: what a training would download and tokenize first, without the training."""

from typing import Any

from lightning_seq.commands import find_own_modules

COMMANDS = {"prepare": "download and tokenize ahead of training: --config RECIPE"}


def main(argv: list[str]) -> int:
    """Runs the command."""
    find_own_modules()
    from lightning.pytorch import LightningDataModule  # Lightning takes seconds: nothing else waits for it

    from lightning_seq.cli.data_only import build_data
    from lightning_seq.data import SequenceDataModule

    data: Any = build_data(argv[1:])
    name = type(data).__name__
    if isinstance(data, SequenceDataModule):
        print(_prepare(data))
    elif type(data).prepare_data is LightningDataModule.prepare_data:
        print(f"{name} has nothing to prepare: it makes its data as training goes")
    else:
        data.prepare_data()
        print(f"prepared: {name}")
    return 0


def _prepare(data: Any) -> str:
    """Prepares, lets the data say what it is, and returns where it lies."""
    paths = [data.store_path(split) for split in data.stored_splits]
    before = sum(path.exists() for path in paths)
    data.prepare_data()
    data.setup("fit")
    size = sum(file.stat().st_size for path in set(paths) for file in path.iterdir())
    done = {0: "prepared", len(paths): "already there"}.get(before, f"prepared, {before} already there")
    return f"{done}: {size:,} bytes of {', '.join(data.stored_splits)} in {paths[0].parent}"
