"""The whole examination: configuration, data, model, training, memory, plan, and what is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_seq.cli.doctor import building, memory, strategies
from lightning_seq.cli.doctor.budget import Budget, step_of
from lightning_seq.cli.doctor.configuration import configuration, parse, prepare_command
from lightning_seq.cli.doctor.optimizer_state import optimizers_of, schedule_of
from lightning_seq.cli.doctor.report import Section
from lightning_seq.cli.doctor.sizes import Text, examine_data, examine_model
from lightning_seq.cli.doctor.training import (
    Length,
    batches_of,
    check_length,
    length_of,
    ranks_of,
    training,
)
from lightning_seq.data.sources.hub import offline
from lightning_seq.models.sizes import check_documents

ASSUMED_VOCABULARY = 32_768  # where the data's is not known, nor how large it may become


def resolved(words: list[str]) -> str:
    """Returns the whole configuration of a command line as YAML."""
    with building.quiet():
        return parse(words).resolved()


def examine(words: list[str]) -> tuple[list[Section], list[str]]:
    """Returns what there is to say of a training, and what is wrong with it.

    Args:
        words: The command line of ``fit``, without that word.

    Raises:
        ArgumentError: An option is none.
        InputError: There is no configuration to examine.
    """
    problems: list[str] = []
    with building.quiet():
        parsed = parse(words)
        trainer, loggers = building.build_trainer(parsed.of_fit, problems.append)
        found = _Found(parsed.of_fit, prepare_command(parsed), trainer, problems)
        with offline():
            found.look()
        sections = [configuration(parsed), *found.sections]
        sections.append(strategies.plan(trainer, found.length, parsed.of_fit, loggers))
    return sections, list(dict.fromkeys(problems))


@dataclass
class _Found:
    """What is found one after the other: each step goes on where the one before failed."""

    config: Any
    prepare: str
    trainer: Trainer
    problems: list[str]
    sections: list[Section] = field(default_factory=list)
    data: Any = None
    model: Any = None
    text: Text = field(default_factory=Text)
    length: Length = field(default_factory=Length)

    def look(self) -> None:
        """Looks at everything."""
        complain = self.problems.append
        if self.config.run_dir and Path(self.config.run_dir).exists():
            complain(f"run_dir {self.config.run_dir} exists already: give a new directory")
        with building.complaining(complain):
            self.data = building.build_data(self.config.data)
        data, self.text = examine_data(self.data, self.prepare, complain)
        ranks, batches = ranks_of(self.trainer), None
        if self.text.tokens or not hasattr(self.data, "store_path"):
            with building.complaining(complain):
                batches = batches_of(self.data, self.trainer, self.text, ranks)
        elif getattr(self.data, "streaming", False):
            batches = self.data.steps_per_epoch
        self.length = length_of(self.trainer, batches, ranks)
        with building.complaining(complain):
            check_length(self.trainer, self.length)
        assumed = None if self.text.vocab_size or not self.config.data else self._assumed()
        mode = self._build_model(assumed or self.text.vocab_size)
        self.sections.append(data)
        self._examine_model(mode, assumed)
        known = self.data if self.text.vocab_size else None  # nobody is to ask for what is not there
        self.problems += strategies.complaints(self.trainer, self.model, known, self.config, self.length)

    def _assumed(self) -> int:
        given = (self.config.data.get("init_args") or {}).get("max_vocab_size")
        cutoffs = (self.config.model.get("init_args") or {}).get("adaptive_cutoffs") or [0]
        return max(int(given or ASSUMED_VOCABULARY), int(cutoffs[-1]) + 1)  # else they would seem wrong

    def _build_model(self, vocab_size: int | None) -> Any:
        """Builds the model without content or, where it cannot be built so, as it is."""
        try:
            with memory.without_content(str(self.trainer.precision)) as mode:
                self.model = building.build_model(self.config.model, vocab_size)
            return mode
        except Exception:
            with building.complaining(self.problems.append):
                self.model = building.build_model(self.config.model, vocab_size)
        return None

    def _examine_model(self, mode: Any, assumed: int | None) -> None:
        optimizers, schedule = [], None
        if self.model is not None:
            data = self.data if self.text.vocab_size else None
            self.sections.append(examine_model(self.model, data, assumed, self.problems.append))
            self.model.trainer = self.trainer
            with building.complaining(self.problems.append):
                configured = self.model.configure_optimizers()
                optimizers, schedule = optimizers_of(configured), schedule_of(configured)
            self.problems += strategies.unclippable(self.trainer, optimizers)
        self.sections.append(training(self.trainer, self.data, self.length, schedule, self.text.estimated))
        if self.model is not None:
            budget = Budget(self.trainer, self.model, optimizers)
            vocab_size = assumed or self.text.vocab_size
            step = step_of(self.trainer, self.data, vocab_size or 0)
            with building.complaining(self.problems.append):
                check_documents(getattr(self.model, "network", None), self.data)
            failing = f"{type(self.model).__name__} cannot run a training step, correct its network's forward"
            with building.complaining(self.problems.append, failing):
                budget.measure(mode, step, lambda: building.build_model(self.config.model, vocab_size))
            self.sections.append(budget.section(self.config, self.problems.append))
