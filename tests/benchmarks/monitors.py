"""What the watchers of gradients cost: python tests/benchmarks/monitors.py [TEXT_FILE] [--only NAME]

Each watcher beside none, logging every step, on a Transformer of 10 million parameters with clipping: one
training, in which every other step is watched. The cost is the median over the pairs of neighbouring steps,
with the quartiles of the medians of five parts; and, since machines are noisier than that, the time that the
watcher's own code takes. wandb.watch is measured in the same table, in a training of
its own beside one without, in turns.

The probes look at validation time only: milliseconds of one probe, and its share of the training steps from
one validation to the next, as in the quickstart recipes.
"""

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median, quantiles

import lightning.pytorch as pl
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import (
    AutoClip,
    GradientClippingMonitor,
    GradientIncidentRecorder,
    RecurrentStateMonitor,
    TimeGradientMonitor,
    ZClip,
)
from lightning_seq.data import TextDataModule
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel

PAIRS, WARMUP, CLIP, VALIDATION_INTERVAL = 30, 2, 1.0, 175
WATCHERS = {
    "GradientClippingMonitor": GradientClippingMonitor,
    "AutoClip": AutoClip,
    "ZClip": ZClip,
    "GradientIncidentRecorder": GradientIncidentRecorder,
}
PROBES = {"TimeGradientMonitor": TimeGradientMonitor, "RecurrentStateMonitor": RecurrentStateMonitor}


def large(vocab_size):
    torch.manual_seed(0)
    return TransformerLanguageModel(
        vocab_size, embedding_dim=384, num_layers=6, num_heads=6, context_length=64, learning_rate=1e-4
    )


def trainer(folder, callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        **options,
    )


class EveryOther(pl.Callback):
    """Lets a watcher see every other step only, and takes the time of all."""

    def __init__(self, watcher):
        self.watcher, self.seconds, self.own = watcher, [], []

    def on_train_start(self, trainer, module):
        self.watcher.setup(trainer, module, "fit")
        self.watcher.on_train_start(trainer, module)
        self.watcher.on_exception(trainer, module, None)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.watched = trainer.global_step % 2 == 1
        if self.watched:
            self.watcher.setup(trainer, module, "fit")
            self.watcher.on_train_start(trainer, module)
            self.watcher.spent = 0.0
        self.start = time.perf_counter()
        if self.watched:
            self.watcher.on_train_batch_start(trainer, module, batch, batch_idx)

    def on_before_backward(self, trainer, module, loss):
        if self.watched:
            self.watcher.on_before_backward(trainer, module, loss)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.watched:
            self.watcher.on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        self.seconds.append(time.perf_counter() - self.start)
        if self.watched:
            self.own.append(self.watcher.spent)
            self.watcher.on_exception(trainer, module, None)  # closes what it opened


def watched(make, data, folder):
    """Per pair of steps, the time of the watched one over the other's."""
    adaptive = make in (AutoClip, ZClip)
    switch = EveryOther(timed(make()))
    run = trainer(
        folder,
        [switch],
        max_steps=2 * (PAIRS + WARMUP),
        limit_val_batches=0,
        log_every_n_steps=1,
        gradient_clip_val=None if adaptive else CLIP,
    )
    model = large(data.vocab_size)
    run.fit(model, data)
    pairs = list(zip(switch.seconds[::2], switch.seconds[1::2], strict=True))[WARMUP:]
    return [b / a for a, b in pairs], median(a for a, _ in pairs), median(switch.own[WARMUP:])


def watched_by_wandb(data, folder):
    seconds = {}
    for turn in range(4):
        model = large(data.vocab_size)
        session = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True))
        if turn % 2:
            session.watch(model, log="all", log_freq=1)
        clock = Clock()
        run = trainer(folder, [clock], max_steps=6, limit_val_batches=0, gradient_clip_val=CLIP)
        run.fit(model, data)
        session.finish()
        seconds.setdefault(turn % 2, []).extend(clock.seconds[1:])
    return [b / a for a, b in zip(seconds[0], seconds[1], strict=True)], median(seconds[0]), float("nan")


class Clock(pl.Callback):
    """Seconds of each step."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, *args):
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.seconds.append(time.perf_counter() - self.start)


def timed(callback):
    """The callback with the seconds of all its hooks in ``callback.spent``."""
    callback.spent = 0.0
    for name in dir(callback):
        if name.startswith("on_") or name in ("_see", "threshold"):  # what the seam calls
            setattr(callback, name, _timed(callback, getattr(callback, name)))
    return callback


def _timed(callback, hook):
    def wrapper(*args, **options):
        start = time.perf_counter()
        try:
            return hook(*args, **options)
        finally:
            callback.spent += time.perf_counter() - start

    return wrapper


def probed(make, data, folder, validations=4):
    """Milliseconds of one probe, pictures included, and of one training step."""
    probe, clock = timed(make()), Clock()
    run = trainer(
        folder,
        [probe, clock],
        max_steps=10 * validations,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        log_every_n_steps=10,
    )
    torch.manual_seed(0)
    run.fit(LSTMLanguageModel(data.vocab_size, hidden_size=256, num_layers=2), data)
    return 1e3 * probe.spent / validations, 1e3 * median(clock.seconds[3:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="python-docs", help="a UTF-8 text file")
    parser.add_argument("--only", choices=[*WATCHERS, *PROBES, "wandb.watch"], help="only this one")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    chosen = [options.only] if options.only else [*WATCHERS, "wandb.watch", *PROBES]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {PAIRS} pairs of steps")
    with tempfile.TemporaryDirectory() as folder:
        data = TextDataModule(
            options.text, batch_size=16, context_length=64, batching="blocks", cache_dir=folder
        )
        rows = TextDataModule(options.text, batch_size=32, context_length=64, cache_dir=folder)
        for name in chosen:
            if name in PROBES:
                probe, step = probed(PROBES[name], rows, folder)
                share = f"{probe / (VALIDATION_INTERVAL * step):.2%} of {VALIDATION_INTERVAL} steps"
                print(f"{name:25s} probe {probe:6.1f} ms, step {step:6.1f} ms: {share}")
                continue
            make = WATCHERS.get(name)
            ratios, step, own = watched(make, data, folder) if make else watched_by_wandb(data, folder)
            parts = [median(ratios[i::5]) - 1 for i in range(5)]
            low, _, high = quantiles(parts, n=4)
            spread = f"({low:+.2%} to {high:+.2%})"
            code = f"its own code {own * 1e3:.1f} ms, {own / step:.2%}" if make else "whole steps"
            print(f"{name:25s} {median(ratios) - 1:+.2%} {spread} of a step of {step * 1e3:.0f} ms; {code}")


if __name__ == "__main__":
    main()
