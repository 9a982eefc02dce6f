"""The command line's heart: SequenceCLI, ``run`` for the console script, ``from_recipe`` for notebooks."""

import json
import logging
import shutil
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import lightning_seq.data  # noqa: F401  (classes that are known by name without their path)
from lightning_seq import models, recipes
from lightning_seq.callbacks import ProgressBar
from lightning_seq.cli import overrides, run_directory, summary, usage
from lightning_seq.errors import InputError


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
        self.line = _with_recipe_paths(args)
        self.run_directory: Path | None = None
        try:
            super().__init__(
                save_config_callback=None,
                auto_configure_optimizers=False,  # the model owns its optimizer
                load_from_checkpoint_support=False,  # our checkpoints name their class, and stay flat
                parser_kwargs={"exit_on_error": False},
                args=self.line,
                run=run,
            )
        except BaseException:
            self._remove_empty_run()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's directory and the link from data to model."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="New directory for everything that this run writes (default: runs/<recipe>-<n>).",
        )
        parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and raises what is wrong in one line."""
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]  # ours is always a list
        except ArgumentError as error:
            options = {option for p in self._parsers() for option in p._option_string_actions}
            raise ArgumentError(None, usage.explain(error.message, options)) from error

    def _parsers(self) -> list[LightningArgumentParser]:
        return list(getattr(self, "_subcommand_parsers", {"": self.parser}).values())

    def _parse_ckpt_path(self) -> None:
        """Left out: Lightning would let a checkpoint's values win over the ones given explicitly."""

    def before_instantiate_classes(self) -> None:
        """Settles what comes from where, and makes the run's directory."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        files = [str(path) for path in config.config or []]
        overrides.report_class_changes(config, files)
        _check_complete(config)
        path = config.get("ckpt_path")
        if self.subcommand:
            config.weights_only = config.weights_only is not False  # Lightning's own default is to trust
            if path is None and self.subcommand != "fit":
                rank_zero_info(
                    f"{self.subcommand}: no --ckpt_path was given, so the weights are not trained ones"
                )
        if path and path not in ("last", "best", "hpc", "registry"):
            overrides.adopt_checkpoint(config, path, self.line)
        name = run_directory.run_name(files, config.model.class_path, self.subcommand or "fit")
        self.run_directory = run_directory.create(name, config.run_dir)
        _keep_wandb_inside(config.trainer.get("logger"), self.run_directory)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what they refuse is raised as it was, not wrapped by the parser."""
        try:
            super().instantiate_classes()
        except Exception as error:
            raise (_input_error(error) or error) from error
        self._save_config()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with what every run has: metrics.csv, best and last checkpoint, progress bar."""
        trainer = self._get(self.config_init, "trainer")
        callbacks = _as_list(trainer.get("callbacks"))
        if trainer.get("enable_progress_bar") is not False and not _has(callbacks, AnyProgressBar):
            callbacks.append(ProgressBar())
        if trainer.get("enable_checkpointing") is not False and not _has(callbacks, ModelCheckpoint):
            callbacks.append(_best_and_last(self.model))
        if trainer.get("enable_model_summary") is None:  # Lightning's table shows one row: the network
            kwargs["enable_model_summary"] = False
            parameters = sum(p.numel() for p in self.model.parameters())
            rank_zero_info(f"model: {type(self.model).__name__}, {parameters:,} parameters")
        root = str(self.run_directory)
        logger = trainer.get("logger")
        if logger is not False:
            others = [] if logger is True else _as_list(logger)
            logger = others if _has(others, CSVLogger) else [CSVLogger(root, name="", version=""), *others]
        return super().instantiate_trainer(
            callbacks=callbacks, logger=logger, default_root_dir=root, **kwargs
        )

    @rank_zero_only
    def _save_config(self) -> None:
        assert self.run_directory is not None
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.experiment  # noqa: B018  (made now: it warns of a directory that holds files)
        self._parser(self.subcommand).save(
            self._config_of_subcommand(),
            self.run_directory / "config.yaml",
            overwrite=True,
            multifile=False,
        )

    def _config_of_subcommand(self) -> Any:
        return self.config[self.subcommand] if self.subcommand else self.config

    def after_fit(self) -> None:
        """Saves the last state if no checkpoint holds it yet, and prints the summary."""
        for callback in self.trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or not callback.save_last or not callback.dirpath:
                continue
            if callback._last_global_step_saved != self.trainer.global_step:
                callback.last_model_path = str(Path(callback.dirpath, "last.ckpt"))
                self.trainer.save_checkpoint(callback.last_model_path)
        if self.trainer.is_global_zero and self.run_directory is not None:
            print(summary.end_of_fit(self.trainer, self.run_directory))

    @rank_zero_only
    def _remove_empty_run(self) -> None:
        """A run that failed before its first step leaves nothing behind."""
        trainer = getattr(self, "trainer", None)
        if self.run_directory is not None and (trainer is None or trainer.global_step == 0):
            shutil.rmtree(self.run_directory, ignore_errors=True)


def run(argv: list[str]) -> int:
    """Runs ``fit``, ``validate``, ``test`` or ``predict`` and returns the exit status."""
    _quieten()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # so that --model my_module.MyModel is found
    try:
        SequenceCLI(argv)
    except ArgumentError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    return 0


def from_recipe(name: str, **overrides_: Any) -> tuple[Trainer, LightningModule, LightningDataModule]:
    """Builds what a recipe describes, ready for ``trainer.fit(model, data)``.

    Args:
        name: A recipe's name, or the path of a .yaml file.
        **overrides_: What to change, nested or dotted: ``trainer={"max_steps": 10}`` or
            ``**{"data.batch_size": 8}``; ``model="LSTMLanguageModel"`` takes another class.

    Returns:
        Trainer, model and DataModule.

    Raises:
        InputError: There is no such recipe, or something in it does not fit.
    """
    line = ["--config", name, *_as_options("", overrides_)]
    try:
        cli = SequenceCLI(line, run=False)
    except ArgumentError as error:
        raise InputError(error.message) from error
    return cli.trainer, cli.model, cli.datamodule


def _as_options(prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and "class_path" not in value:
            yield from _as_options(f"{prefix}{key}.", value)
        else:
            yield f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"


def _with_recipe_paths(args: list[str]) -> list[str]:
    """Replaces recipes' names after --config by their paths."""
    line, is_config = [], False
    for word in args:
        if is_config:
            word = _readable(recipes.find(word))
        elif word.startswith(("--config=", "-c=")):
            option, _, name = word.partition("=")
            word = f"{option}={_readable(recipes.find(name))}"
        is_config = word in ("--config", "-c")
        line.append(word)
    return line


def _readable(path: Path) -> str:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no configuration: keys such as model, data and trainer are expected")
    return str(path)


def _check_complete(config: Any) -> None:
    arguments = config.model.get("init_args") or {}
    if not config.get("data") and "vocab_size" in arguments:
        raise InputError("no data is chosen: give --config RECIPE or --data CLASS, say --data TextDataModule")


def _best_and_last(model: LightningModule) -> ModelCheckpoint:
    monitor = "val_loss" if isinstance(model, models.LanguageModel) else None
    return ModelCheckpoint(
        monitor=monitor,
        filename="best" if monitor else None,
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=False,  # an epoch may end before the first validation
    )


def _keep_wandb_inside(loggers: Any, run_directory: Path) -> None:
    for logger in _as_list(loggers):
        arguments = logger.get("init_args") if hasattr(logger, "get") else None
        if arguments and "WandbLogger" in logger.class_path and arguments.get("save_dir") in (None, "."):
            arguments["save_dir"] = str(run_directory)


def _as_list(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _has(values: list[Any], kind: type) -> bool:
    return any(isinstance(value, kind) for value in values)


def _input_error(error: BaseException | None) -> InputError | None:
    """Finds the InputError that jsonargparse wrapped into its own."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _quieten() -> None:
    """Keeps advertisements and other libraries' deprecations out of a user's terminal."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # each run has its own
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
