"""What Lightning, this package, each callback and each logger add to a step, and a probe to a validation."""

import logging
import tempfile
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from statistics import median

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from lightning_seq.callbacks import (
    AttentionLogger,
    AutoClip,
    GradientClippingMonitor,
    GradientIncidentRecorder,
    LastCheckpoint,
    ProgressBar,
    RecurrentStateMonitor,
    SampleLogger,
    StopOnSignal,
    TimeGradientMonitor,
    ZClip,
)
from lightning_seq.data import TextDataModule
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel
from tests.benchmarks.quiet import trainer
from tests.benchmarks.turns import Table, in_turns

QUESTION = "What do Lightning, callbacks, loggers and the progress bar add to a step?"
STEPS, WARMUP, CLIP, RATE = 300, 50, 1.0, 1e-3
OF_A_STEP = ("on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
OF_A_STEP += ("on_train_batch_end", "_see", "threshold")  # the last two: where gradients are clipped
SMALL = {"embedding_dim": 32, "hidden_size": 32}
LARGE = {"embedding_dim": 384, "num_layers": 6, "num_heads": 6, "context_length": 64}
PROBED_STEPS, VALIDATIONS = 175, 4
TINY = (
    f"An LSTM of 32 units and batches of 4 x 16 characters, so small that the rest can be seen: milliseconds "
    f"from step to step, the mean over {STEPS} after {WARMUP}. Loggers write every 50th step where nothing "
    "else is said. A step of real size takes 10 to 1,000 ms."
)
WATCHERS = (
    "A Transformer of 10.7 million parameters, batches of 16 x 64 characters, each logging every step: "
    "milliseconds of the watcher's own code in a step, beside the step of the training without any."
)
PROBES = (
    f"Milliseconds of one look at a validation with all that it writes and draws, over {VALIDATIONS} "
    f"validations, and its share of {PROBED_STEPS} training steps, as many as the quickstarts have from one "
    "to the next. An LSTM of 2 x 256 or a Transformer of 4 x 128, batches of 32 x 64 characters."
)


class Clock(pl.Callback):
    """The time at the end of each step."""

    def __init__(self):
        self.at = []

    def on_train_batch_end(self, *args):
        self.at.append(time.perf_counter())

    def a_step(self):
        """Milliseconds."""
        return 1e3 * (self.at[-1] - self.at[WARMUP - 1]) / (len(self.at) - WARMUP)


class Plain(pl.LightningModule):
    """The least that one writes for Lightning."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        logits, _ = self.network(batch["inputs"])
        return F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), RATE, fused=True)


def measure(options):
    """Yields the tables."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    text = "python-docs" if options.data is None else str(options.data)
    with tempfile.TemporaryDirectory() as folder:
        yield _of_a_step(text, folder, options.rounds)
        yield _watchers(text, folder, options.rounds)
        yield _probes(text, folder, options.rounds)


def _of_a_step(text, folder, rounds):
    data = TextDataModule(text, batch_size=4, context_length=16, cache_dir=folder)
    data.prepare_data()
    data.setup("fit")

    def training(callbacks=(), logger=None, **others):
        def measured():
            made, clock = logger is not None and logger(), Clock()
            given = [each() for each in callbacks]
            run = _trainer([*given, clock], max_steps=STEPS + WARMUP, logger=made, **others)
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # where bars are drawn
                run.fit(_small(data), data)
            wandb.finish()
            return {"ms": clock.a_step()}

        return measured

    def csv():
        return CSVLogger(folder)

    def offline():
        return _offline(folder)

    contenders = {
        "bare loop": lambda: _bare(data),
        "Lightning, a plain module": lambda: _plain(data),
        "lightning_seq": training(),
        "+ CSVLogger": training(logger=csv),
        "+ CSVLogger, every step": training(logger=csv, log_every_n_steps=1),
        "+ WandbLogger": training(logger=offline),
        "+ WandbLogger, every step": training(logger=offline, log_every_n_steps=1),
        "+ Lightning's progress bar": training(enable_progress_bar=True),
        "+ ProgressBar": training([ProgressBar], enable_progress_bar=True),
        "+ StopOnSignal": training([StopOnSignal]),
        "+ LastCheckpoint": training([lambda: LastCheckpoint(f"{folder}/last")], enable_checkpointing=True),
        "+ GradientClippingMonitor": training([_monitor], csv),
        "+ GradientIncidentRecorder": training([GradientIncidentRecorder], csv),
        "+ AutoClip": training([AutoClip], csv, gradient_clip_val=None),
        "+ ZClip": training([ZClip], csv, gradient_clip_val=None),
    }
    return in_turns(Table("What is added to a step", TINY, "ms", True, "bare loop"), contenders, rounds)


def _monitor():
    """One that draws no picture in the middle of so short a training."""
    return GradientClippingMonitor(advise_after=None)


def _offline(folder):
    return WandbLogger(save_dir=folder, offline=True, settings=wandb.Settings(silent=True))


def _small(data):
    torch.manual_seed(0)
    return LSTMLanguageModel(data.vocab_size, **SMALL, learning_rate=RATE)


def _trainer(callbacks, **others):
    return trainer(callbacks=callbacks, **{"limit_val_batches": 0, "gradient_clip_val": CLIP, **others})


def _bare(data):
    network, clock = _small(data).network, Clock()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, fused=True)
    batches = iter(data.train_dataloader())
    for _ in range(STEPS + WARMUP):
        batch = next(batches)
        optimizer.zero_grad()
        logits, _ = network(batch["inputs"])
        F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        clock.on_train_batch_end()
    return {"ms": clock.a_step()}


def _plain(data):
    clock = Clock()
    _trainer([clock], max_steps=STEPS + WARMUP).fit(Plain(_small(data).network), data)
    return {"ms": clock.a_step()}


def _watchers(text, folder, rounds, steps=6, warmup=2):
    data = TextDataModule(text, batch_size=16, context_length=64, batching="blocks", cache_dir=folder)
    data.prepare_data()
    data.setup("fit")
    makers = (GradientClippingMonitor, AutoClip, ZClip, GradientIncidentRecorder)

    def run(make=None, watched=False):
        torch.manual_seed(0)
        model, clock = TransformerLanguageModel(data.vocab_size, **LARGE, learning_rate=1e-4), Clock()
        watcher = make and timed(make(), OF_A_STEP)
        logger = CSVLogger(folder)
        if watched:
            logger = _offline(folder)
            logger.experiment.watch(model, log="all", log_freq=1)
        clip = None if make in (AutoClip, ZClip) else CLIP
        training = _trainer(
            [watcher, clock] if watcher else [clock],
            max_steps=steps + warmup,
            logger=logger,
            log_every_n_steps=1,
            gradient_clip_val=clip,
        )
        training.fit(model, data)
        wandb.finish()
        each = [1e3 * (b - a) for a, b in zip(clock.at[warmup - 1 :], clock.at[warmup:], strict=False)]
        own = 1e3 * median(watcher.spent[warmup:-1]) if watcher else 0.0
        return {"ms": median(each), "own code": own, "share": own / median(each)}

    contenders = {"no watcher": run, **{make.__name__: lambda make=make: run(make) for make in makers}}
    contenders['wandb.watch(log="all", log_freq=1)'] = lambda: run(watched=True)
    return in_turns(Table("Watchers of gradients", WATCHERS, "ms", True, "no watcher"), contenders, rounds)


def _probes(text, folder, rounds):
    recurrent = TextDataModule(text, batch_size=32, context_length=64, cache_dir=folder)
    blocks = TextDataModule(text, batch_size=32, context_length=64, batching="blocks", cache_dir=folder)
    makers = (TimeGradientMonitor, RecurrentStateMonitor, SampleLogger, AttentionLogger)

    def run(make):
        torch.manual_seed(0)
        data = blocks if make is AttentionLogger else recurrent
        data.prepare_data()
        data.setup("fit")
        probe, clock = timed(make(), [name for name in dir(make) if name.startswith("on_")]), Clock()
        if make is AttentionLogger:
            model = TransformerLanguageModel(
                data.vocab_size, embedding_dim=128, num_layers=4, num_heads=4, context_length=64
            )
        else:
            model = LSTMLanguageModel(data.vocab_size, hidden_size=256, num_layers=2)
        training = _trainer(
            [probe, clock],
            max_steps=10 * VALIDATIONS,
            val_check_interval=10,
            check_val_every_n_epoch=None,
            limit_val_batches=1,
            logger=CSVLogger(folder),
            log_every_n_steps=10,
        )
        training.fit(model, data)
        step = median(b - a for a, b in zip(clock.at, clock.at[1:], strict=False))
        look = sum(probe.spent) / VALIDATIONS
        return {"ms": 1e3 * look, "a step": 1e3 * step, "share": look / (look + PROBED_STEPS * step)}

    contenders = {make.__name__: lambda make=make: run(make) for make in makers}
    return in_turns(Table("Probes", PROBES, "ms", True, "TimeGradientMonitor"), contenders, rounds)


def timed(callback, hooks):
    """The callback with the seconds of its hooks, step by step, in ``callback.spent``."""
    callback.spent = [0.0]
    for name in [name for name in hooks if hasattr(callback, name)]:
        setattr(callback, name, _timed(callback, getattr(callback, name), ends=name == "on_train_batch_end"))
    return callback


def _timed(callback, hook, ends):
    def wrapper(*args, **options):
        start = time.perf_counter()
        try:
            return hook(*args, **options)
        finally:
            callback.spent[-1] += time.perf_counter() - start
            if ends:
                callback.spent.append(0.0)

    return wrapper
