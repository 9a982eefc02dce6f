"""Combinations of the trainer's options that Lightning refuses, or that silently do nothing."""

import copy
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_seq.cli.doctor.building import complaining
from lightning_seq.cli.doctor.report import Section
from lightning_seq.cli.doctor.training import Length
from lightning_seq.cli.strategies import share_out, sharing_of
from lightning_seq.errors import InputError
from lightning_seq.networks.recurrent_layers import lacks_bfloat16
from lightning_seq.networks.spreading import tensor_parallel_plan


def plan(trainer: Trainer, length: Length, config: Any, loggers: list[Any]) -> Section:
    """Returns on what, how and under whose eyes is trained."""
    section = Section("plan")
    device = trainer.strategy.root_device.type
    section.add("devices", trainer.world_size, f"{trainer.world_size} x {device}")
    section.add("precision", str(trainer.precision))
    section.add("strategy", type(trainer.strategy).__name__)
    clip, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm or "norm"
    section.add("clipping", clip, f"{algorithm} {clip}" if clip else "none")
    section.add("accumulation", trainer.accumulate_grad_batches)
    compiled = bool((config.model.get("init_args") or {}).get("compile"))
    section.add("compile", compiled, "yes" if compiled else "no")
    section.add("loggers", [type(each).__name__ for each in loggers] or [CSVLogger.__name__])
    section.add("seed", config.seed_everything)
    return section


def complaints(trainer: Trainer, model: Any, data: Any, config: Any, length: Length) -> Iterator[str]:
    """Yields what is wrong with how the options go together, a line each."""
    yield from _precision(trainer, config)
    yield from _clipping(trainer, model, config)
    yield from _accumulation(trainer, length)
    yield from _strategy(trainer, model)
    yield from _compile(trainer, data, config)
    yield from _length(trainer, config, length)
    yield from _validation(trainer, config, length)
    yield from _callbacks(trainer, model)


def _precision(trainer: Trainer, config: Any) -> Iterator[str]:
    asked, device = str(config.trainer.precision), trainer.strategy.root_device
    if asked in ("16-mixed", "16") and trainer.precision == "bf16-mixed":
        yield "trainer.precision is 16-mixed, and a CPU gets bf16-mixed in its place: give that here"
    if str(trainer.precision).startswith("bf16") and lacks_bfloat16(device):
        yield (
            f"trainer.precision is {asked}, and this CPU only emulates bfloat16, many times slower: take "
            "--trainer.precision 32-true here"
        )
    if device.type == "cuda" and "bf16" in str(trainer.precision) and not torch.cuda.is_bf16_supported(False):
        yield f"trainer.precision is {asked}, and this GPU has no bfloat16: take 16-mixed"


def _clipping(trainer: Trainer, model: Any, config: Any) -> Iterator[str]:
    value, algorithm = trainer.gradient_clip_val, config.trainer.gradient_clip_algorithm
    if value is not None and value <= 0:
        yield f"trainer.gradient_clip_val is {value}, which clips nothing: give more than 0, or leave it out"
    elif value is None and algorithm is not None:
        yield (
            f"trainer.gradient_clip_algorithm is {algorithm!r} and clips nothing without "
            "trainer.gradient_clip_val: give that, too"
        )
    clips = bool(value)
    if clips and isinstance(trainer.strategy, FSDPStrategy) and algorithm != "value":
        yield (
            "FSDPStrategy cannot clip by norm in Lightning: leave trainer.gradient_clip_val out, or take "
            "another strategy"
        )
    if model is None or model.automatic_optimization:
        return
    manual = f"{type(model).__name__} optimizes by hand, and Lightning refuses"
    if clips:
        yield f"{manual} trainer.gradient_clip_val {value}: clip in training_step, and leave it out"
    if trainer.accumulate_grad_batches != 1:
        yield f"{manual} trainer.accumulate_grad_batches: accumulate in training_step, and leave it out"


def unclippable(trainer: Trainer, optimizers: list[Any]) -> Iterator[str]:
    """Yields a line for an optimizer whose gradients Lightning cannot clip, since it unscales them itself."""
    plugin = trainer.precision_plugin
    scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
    if not (scaled and trainer.gradient_clip_val):
        return
    for each in optimizers:
        if getattr(each, "_step_supports_amp_scaling", False):
            yield (
                f"{type(each).__name__} is fused and unscales gradients itself, so that in "
                f"{trainer.precision} Lightning cannot clip them: make it with fused=False"
            )


def _accumulation(trainer: Trainer, length: Length) -> Iterator[str]:
    count = trainer.accumulate_grad_batches
    if count < 1:
        yield f"trainer.accumulate_grad_batches is {count}: give 1 or more"
    elif length.batches is not None and count > max(length.batches, 1):
        yield (
            f"trainer.accumulate_grad_batches is {count} and an epoch has {length.batches:,} batches, and "
            f"Lightning steps at its end anyway: give {length.batches} or less"
        )


def _strategy(trainer: Trainer, model: Any) -> Iterator[str]:
    strategy = trainer.strategy
    static = isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph")
    if static and trainer.accumulate_grad_batches > 1:
        yield (
            "DDPStrategy with static_graph fails under accumulation: leave static_graph out, or "
            "trainer.accumulate_grad_batches"
        )
    built_whole = model is not None and not is_overridden("configure_model", model)
    if built_whole and isinstance(strategy, ModelParallelStrategy):
        yield (
            f"ModelParallelStrategy asks for configure_model, which {type(model).__name__} lacks: write it, "
            "or take strategy ddp"
        )
    yield from _sharing(trainer, model)
    cores = os.cpu_count() or 1
    if strategy.root_device.type == "cpu" and trainer.num_devices > cores:
        yield f"trainer.devices is {trainer.num_devices}, and this machine has {cores} cores: give {cores}"


def _sharing(trainer: Trainer, model: Any) -> Iterator[str]:
    """What only the processes would find out: whether the network can be shared out."""
    try:
        share_out(trainer)
        network = getattr(model, "network", None)
        if network is not None and (ranks := sharing_of(trainer)) > 1:
            tensor_parallel_plan(copy.deepcopy(network), ranks)
    except InputError as error:
        yield str(error)


def _compile(trainer: Trainer, data: Any, config: Any) -> Iterator[str]:
    if not (config.model.get("init_args") or {}).get("compile"):
        return
    if (budget := getattr(data, "tokens_per_batch", None)) is not None:
        yield (
            f"compile is true and data.tokens_per_batch {budget}, which makes batches of many shapes: give "
            "data.batch_size in its place, or leave compile out"
        )
    on_cpu = trainer.strategy.root_device.type == "cpu"
    compilers = [os.environ.get("CXX"), "g++", "clang++"]
    if on_cpu and not any(shutil.which(each) for each in compilers if each):
        yield "compile is true, and there is no C++ compiler for it here: install g++, or leave it out"


def _length(trainer: Trainer, config: Any, length: Length) -> Iterator[str]:
    given = config.trainer
    if given.max_steps == -1 and given.max_epochs is None and given.max_time is None:
        yield (
            "neither trainer.max_steps nor trainer.max_epochs is given, and Lightning trains for 1,000 "
            "epochs: give one of them"
        )
    steps, every = length.steps, int(getattr(trainer, "log_every_n_steps", 0))
    if steps and every > steps:
        yield (
            f"trainer.log_every_n_steps is {every} and there are {steps:,} steps, so that no training loss "
            f"is logged: give {max(1, steps // 10)}"
        )
    options = config.model.get("init_args") or {}
    warmup = options.get("warmup_steps") or 0
    if steps and warmup >= steps:
        yield (
            f"model.warmup_steps is {warmup:,} and there are {steps:,} steps, so that the learning rate only "
            "rises: lower it, or train longer"
        )
    start = options.get("decay_start") or warmup + (options.get("decay_interval") or 0)
    if steps and options.get("schedule") == "step" and start >= steps:
        yield (
            f"schedule step reduces the learning rate at step {start:,}, and there are {steps:,}: lower "
            "model.decay_start and decay_interval, or train longer"
        )


def _validation(trainer: Trainer, config: Any, length: Length) -> Iterator[str]:
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if not trainer.limit_val_batches or getattr(trainer, "fast_dev_run", False):
        options = config.model.get("init_args") or {}
        waits = options.get("schedule") == "plateau" or options.get("optimizer") == "nt_asgd"
        if waits:
            yield "schedule plateau and optimizer nt_asgd go by validations, and there is none: allow them"
        return
    batches = length.batches
    if isinstance(interval, int) and every is not None and batches is not None and interval > batches:
        yield (
            f"trainer.val_check_interval is {interval:,} and an epoch has {batches:,} batches: Lightning "
            "refuses that: give check_val_every_n_epoch null, to count through epochs, or a smaller one"
        )
    elif length.validations == 0 and length.steps:
        yield (
            f"the training ends before its first validation (val_check_interval {interval}, "
            f"check_val_every_n_epoch {every}, {length.batches_in_all:,} batches in all), and no best.ckpt "
            "is kept: lower them"
        )


def _callbacks(trainer: Trainer, model: Any) -> Iterator[str]:
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    for each in callbacks:
        if model is None or not type(each).__module__.startswith("lightning_seq."):
            continue
        problems: list[str] = []
        with complaining(problems.append):
            each.setup(trainer, model, "fit")
        yield from problems
