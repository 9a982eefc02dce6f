"""What is configured: parsed as ``fit`` parses it, and how it came about."""

import shlex
from argparse import ArgumentError
from pathlib import Path

from lightning_seq import recipes
from lightning_seq.cli import overrides
from lightning_seq.cli.configs import classes_in
from lightning_seq.cli.doctor.report import Section
from lightning_seq.cli.sequence_cli import SequenceCLI
from lightning_seq.errors import InputError

KNOWN = ("lightning_seq", "lightning", "torch")


class ParsedCLI(SequenceCLI):
    """Parses a command line as ``fit`` does, and neither builds nor runs anything.

    Args:
        words: The command line of ``fit``, without that word.
    """

    def __init__(self, words: list[str]) -> None:
        super().__init__(["fit", *words])

    def before_instantiate_classes(self) -> None:
        """Says which of a recipe's arguments another class dropped, and takes a checkpoint's."""
        self.of_fit = self.config["fit"]
        self.files = [str(path) for path in self.of_fit.config or []]
        overrides.report_class_changes(self.of_fit, self.files)
        if not self.of_fit.get("data") and "vocab_size" in (self.of_fit.model.get("init_args") or {}):
            raise InputError(
                "no data is chosen: give --config RECIPE or --data CLASS, say --data TextDataModule"
            )
        self._take_checkpoint(self.of_fit)
        if self.of_fit.weights:
            self._take_weights(self.of_fit)

    def instantiate_classes(self) -> None:
        """Left out."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Left out."""

    def resolved(self) -> str:
        """Returns the whole configuration as YAML, as ``config.yaml`` of a run holds it."""
        text: str = self._parser("fit").dump(self.of_fit, skip_none=False)
        return text


def parse(words: list[str]) -> ParsedCLI:
    """Returns what ``fit`` would be told by ``words``.

    Raises:
        ArgumentError: There is no such option, class or value.
        InputError: What is named cannot be used.
    """
    if any(word in ("--help", "-h") or word.startswith("--print_config") for word in words):
        raise ArgumentError(
            None, "doctor does not print that: `lightning-seq fit --help` does, or --resolved"
        )
    return ParsedCLI(words)


def prepare_command(parsed: ParsedCLI) -> str:
    """Returns the command that downloads and tokenizes what would be trained on."""
    configs = [f"--config {shlex.quote(_name(Path(file)))}" for file in parsed.files]
    options = [each for each in _joined(parsed.line[1:]) if each.startswith("--data")]
    return " ".join(["lightning-seq prepare", *configs, *options])


def configuration(parsed: ParsedCLI) -> Section:
    """Returns the files, the classes and the options."""
    section = Section("configuration")
    section.add("files", [_name(Path(file)) for file in parsed.files] or ["none"])
    options = [word for word in parsed.line[1:] if not word.startswith("--config=")]
    section.add("options", _joined(options) or ["none"])
    section.add(
        "classes", [_marked(path) for path in sorted(set(classes_in(parsed.of_fit.as_dict())), key=_marked)]
    )
    return section


def _name(file: Path) -> str:
    """Returns a recipe's name, or the path of a file that is none."""
    try:
        return file.resolve().relative_to(recipes.directory().resolve()).with_suffix("").as_posix()
    except ValueError:
        return str(file)


def _joined(words: list[str]) -> list[str]:
    """Puts a value behind its option."""
    options: list[str] = []
    for word in words:
        if word.startswith("-") or not options:
            options.append(word)
        else:
            options[-1] += f" {word}"
    return options


def _marked(path: str) -> str:
    return path if path.split(".")[0] in KNOWN else f"{path} (imports your own code)"
