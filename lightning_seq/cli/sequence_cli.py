"""SequenceCLI: LightningCLI with recipes by name, one directory a run, and checkpoints that fit."""

import copy
import signal
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import lightning_seq.data  # noqa: F401  (classes that are known by name without their path)
from lightning_seq.callbacks.last_checkpoint import LastCheckpoint
from lightning_seq.callbacks.stop_on_signal import StopOnSignal
from lightning_seq.checkpoints import is_distributed
from lightning_seq.cli import (
    going_on,
    overrides,
    parts,
    predictions,
    run_directory,
    strategies,
    summary,
    usage,
    wandb_runs,
)
from lightning_seq.cli.checkpoint_files import write_whole_files
from lightning_seq.cli.configs import configs_first
from lightning_seq.errors import InputError
from lightning_seq.models import LanguageModel


class SequenceCLI(LightningCLI):
    """LightningCLI with recipes by name, vocab_size from the data, and one directory a run.

    Args:
        args: The command line after the program's name: a subcommand and its options, or options alone where
            ``run`` is False. ``--config NAME`` takes a recipe's name, ``--config FILE.yaml`` a path.
        run: Whether there is a subcommand (fit, validate, test, predict) to run.

    Attributes:
        run_directory: Where config.yaml, checkpoints, metrics.csv and figures of this run go.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        self.line = configs_first(args)
        self.run_directory: Path | None = None
        self._weights: dict[str, Any] = {}
        self._ids = 0  # of a checkpoint's model
        self._before: going_on.Before | None = None  # of a run that was stopped
        try:
            super().__init__(
                save_config_callback=None,
                auto_configure_optimizers=False,  # the model owns its optimizer
                load_from_checkpoint_support=False,  # our checkpoints name their class, and stay flat
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
                args=self.line,
                run=run,
            )
        except BaseException:
            self._remove_if_nothing_was_trained()
            self._say_how_to_go_on()
            if self._was_interrupted():
                raise KeyboardInterrupt from None
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's directory and the link from data to model."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="New directory for everything that this run writes (default: runs/<recipe>-<n>).",
        )
        parser.add_argument(
            "--resume",
            type=bool,
            default=False,
            help="Whether to go on in run_dir, from its newest checkpoint, if a training began there.",
        )
        parser.add_argument(
            "--weights",
            type=str | None,
            default=None,
            help="A .ckpt file whose weights and tokenizer a new training begins with: fine-tuning.",
        )
        parser.add_argument(
            "--log_text",
            type=bool,
            default=True,
            help="Whether samples, tokens and pages go to every logger; false keeps them in run_dir.",
        )
        parser.add_instantiator(self._build_model, LanguageModel)
        parser.link_arguments(
            "data.vocab_size", "model.init_args.vocab_size", compute_fn=self._at_least, apply_on="instantiate"
        )

    def _build_model(self, cls: type[LanguageModel], *args: Any, **kwargs: Any) -> LanguageModel:
        config = self.config[self.subcommand] if self.subcommand else self.config
        with strategies.where_weights_begin(config.trainer.get("strategy")):
            return cls(*args, **kwargs)

    def _at_least(self, vocab_size: int) -> int:
        """A checkpoint's vocabulary may be padded beyond its tokenizer, as those of GPT-2's often are."""
        return max(vocab_size, self._ids)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and raises what is wrong in one line."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]  # ours is always a list
        except ArgumentError as error:
            parsers = getattr(self, "_subcommand_parsers", {"": self.parser}).values()
            options = {option for each in parsers for option in each._option_string_actions}
            raise ArgumentError(None, usage.explain(error.message, options)) from error
        config = self.config.get(self.config.get("subcommand") or "", self.config)
        if not isinstance(seed := config.seed_everything, bool) and not 0 <= (seed or 0) < 2**32:
            raise InputError(f"seed_everything is {seed}: give a whole number from 0 to {2**32 - 1}")

    def _parse_ckpt_path(self) -> None:
        """Left out: Lightning would let a checkpoint's values win over the ones given explicitly."""

    def before_instantiate_classes(self) -> None:
        """Settles what comes from where, and makes the run's directory."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        files, checkpoint = [str(path) for path in config.config or []], None
        overrides.report_class_changes(config, files)
        if not config.get("data") and "vocab_size" in (config.model.get("init_args") or {}):
            raise InputError(
                "no data is chosen: give --config RECIPE or --data CLASS, say --data TextDataModule"
            )
        if config.trainer.get("default_root_dir") is not None:
            raise InputError(
                f"trainer.default_root_dir is {config.trainer.default_root_dir!r}, and a run writes into a "
                "directory of its own: give it as --run_dir"
            )
        name = run_directory.run_name(files, config.model.class_path, self.subcommand or "fit")
        entered = going_on.enter(config, name) if self.subcommand == "fit" else None
        if config.weights:
            self._take_weights(config)
        if self.subcommand:
            config.weights_only = config.weights_only is not False  # Lightning's own default is to trust
            checkpoint = self._take_checkpoint(config)
        self._resolved = copy.deepcopy(config)  # to be run again: without this run's own directory
        self._resolved.run_dir, self._resolved.resume = None, False
        if entered is not None:
            self._before = going_on.Before(entered, (checkpoint or {}).get("global_step", 0))
            run_directory.tell(entered)
        self.run_directory = entered or run_directory.create(name, config.run_dir)
        wandb_runs.prepare(config.trainer.get("logger"), self.run_directory, checkpoint, config.log_text)

    def _take_weights(self, config: Any) -> None:
        if self.subcommand not in (None, "fit") or config.get("ckpt_path"):
            raise InputError(
                "weights begin a new training, and ckpt_path goes on with one or scores it: give one of "
                "them, weights to `fit` alone"
            )
        content = overrides.adopt_weights(config, config.weights, self.line)
        self._weights, self._ids = content["state_dict"], overrides.vocabulary_of(content)

    def _take_checkpoint(self, config: Any) -> dict[str, Any] | None:
        """Returns the content of the checkpoint that a training goes on from."""
        path = config.get("ckpt_path")
        if path in ("last", "best"):
            raise InputError(
                f"ckpt_path is {path!r}, and every run has a directory of its own: give the path, such as "
                "runs/quickstart-1/checkpoints/last.ckpt, or --resume true and the run's --run_dir"
            )
        if path and is_distributed(path) and not strategies.spreads(config.trainer.get("strategy")):
            raise InputError(
                f"{path} is a checkpoint of many files, which ModelParallelStrategy alone reads: "
                f"`lightning-seq consolidate {path}` makes one of it"
            )
        if path:
            content = overrides.adopt_checkpoint(config, path, self.line, fit=self.subcommand == "fit")
            self._ids = overrides.vocabulary_of(content)
            return content if self.subcommand == "fit" else None
        if self.subcommand != "fit":
            rank_zero_info(f"{self.subcommand}: without --ckpt_path the weights are not trained ones")
        return None

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what they refuse is raised as it was, not wrapped by the parser."""
        try:
            super().instantiate_classes()
        except Exception as error:
            unwrapped = usage.unwrapped(error)
            if unwrapped is error:
                raise
            raise unwrapped from error
        if self._weights and not next(self.model.parameters()).is_meta:
            self.model.load_state_dict(self._weights)
        self._save_config()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with what every run has: metrics.csv, best and last checkpoint, progress bar."""
        assert self.run_directory is not None
        config = self._get(self.config_init, "trainer")
        if config.get("enable_model_summary") is None:  # Lightning's table shows one row: the network
            kwargs["enable_model_summary"] = False
            parameters = sum(p.numel() for p in self.model.parameters())
            rank_zero_info(f"model: {type(self.model).__name__}, {parameters:,} parameters")
        try:
            trainer = super().instantiate_trainer(
                callbacks=parts.callbacks(
                    config, self.model, self.run_directory, self._get(self.config_init, "log_text")
                ),
                logger=parts.loggers(config, self.run_directory),
                default_root_dir=str(self.run_directory),
                **kwargs,
            )
            strategies.share_out(trainer)
            write_whole_files(trainer)
            return trainer
        except (TypeError, ValueError) as error:  # what Lightning says of values that cannot be
            raise InputError(f"trainer: {usage.first_line(error).rstrip('.')}") from error

    @rank_zero_only
    def _save_config(self) -> None:
        assert self.run_directory is not None
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger) and self._before:
                self._before.log_on(logger)
            elif isinstance(logger, CSVLogger):
                logger.experiment  # noqa: B018  (made now: it warns of a directory that holds files)
        path = self.run_directory / "config.yaml"
        if self._before:
            self._before.keep(path)
        self._parser(self.subcommand).save(self._resolved, path, overwrite=True, multifile=False)

    def after_fit(self) -> None:
        """Prints the summary."""
        if self.trainer.is_global_zero and self.run_directory is not None:
            print(summary.end_of_fit(self.trainer, self.run_directory))

    def predict(self, **kwargs: Any) -> None:
        """Predicts, and writes the losses of a LanguageModel to losses.npy."""
        batches = self.trainer.predict(**kwargs)
        if not isinstance(self.model, LanguageModel) or not batches or self.run_directory is None:
            return
        if self.trainer.world_size > 1:
            rank_zero_info("predict: losses.npy is written by one process: give --trainer.devices 1")
            return
        path = self.run_directory / "losses.npy"
        of_loader: Any = getattr(self.trainer.predict_dataloaders, "batches", None)
        positions = of_loader.positions() if hasattr(of_loader, "positions") else None
        count = predictions.write_losses(path, batches, positions)  # type: ignore[arg-type]  # one loader, tensors
        print(f"{path}: the losses of {count:,} tokens of the test text, in nats, in its order")

    @rank_zero_only
    def _say_how_to_go_on(self) -> None:
        last = None if self.run_directory is None else self.run_directory / "checkpoints" / "last.ckpt"
        if last is not None and last.exists():
            print(f"stopped: go on with the same command and --ckpt_path {last}", file=sys.stderr)

    def _callbacks(self) -> list[Callback]:
        """The trainer's, if it was built."""
        return self.trainer.callbacks if hasattr(self, "trainer") else []  # type: ignore[attr-defined]

    def _was_interrupted(self) -> bool:
        """Whether a training was ended by Ctrl-C, which Lightning takes for any other signal."""
        return any(
            isinstance(each, StopOnSignal) and each.stopped_by == signal.SIGINT for each in self._callbacks()
        )

    @rank_zero_only
    def _remove_if_nothing_was_trained(self) -> None:
        """A run that failed before its first batch leaves nothing behind; files of others stay."""
        begun = any(isinstance(each, LastCheckpoint) and each.begun for each in self._callbacks())
        if self.run_directory is not None and not begun and self._before is None:
            run_directory.remove_what_is_ours(self.run_directory)
