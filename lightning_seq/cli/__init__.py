"""LightningCLI for sequence models: recipes by name, one directory a run, errors that help."""

from lightning_seq.cli.sequence_cli import SequenceCLI, from_recipe, run

__all__ = ["SequenceCLI", "from_recipe", "run"]
