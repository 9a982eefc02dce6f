"""LightningCLI for sequence models: recipes by name, one directory a run, errors that help."""

from lightning_seq.cli.entry import from_recipe, run
from lightning_seq.cli.sequence_cli import SequenceCLI

__all__ = ["SequenceCLI", "from_recipe", "run"]
