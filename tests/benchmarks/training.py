"""Each family beside a bare PyTorch loop: python tests/benchmarks/training.py [TEXT_FILE] [--target LOSS]

The same network, optimizer, clipping and batches of characters, once in Lightning with this package's model
and data, once in a loop written by hand over batches that lie ready. In turns, in one process; tokens per
second are medians over the rounds, and the ratio is the median of the rounds' ratios. Peak is what a process
of its own grew by while it trained.

With --target: how long each family, of about as many parameters, trains until the validation loss is below
it.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import chain, repeat
from statistics import median

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from memory import forget_peak, memory

from lightning_seq.data import TextDataModule
from lightning_seq.models import (
    GRULanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    MinLSTMLanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from lightning_seq.networks.base import detach

ROUNDS, STEPS, WARMUP, ROWS, TIME, CLIP, RATE = 5, 20, 3, 32, 64, 1.0, 3e-3
MODELS = {  # of about half a million parameters
    "rnn": (RNNLanguageModel, {"embedding_dim": 128, "hidden_size": 592}),
    "gru": (GRULanguageModel, {"embedding_dim": 128, "hidden_size": 332}),
    "lstm": (LSTMLanguageModel, {"embedding_dim": 128, "hidden_size": 282}),
    "min_gru": (MinGRULanguageModel, {"embedding_dim": 128, "hidden_size": 256, "num_layers": 2}),
    "min_lstm": (MinLSTMLanguageModel, {"embedding_dim": 128, "hidden_size": 212, "num_layers": 2}),
    "transformer": (
        TransformerLanguageModel,
        {"embedding_dim": 144, "num_layers": 2, "num_heads": 4, "context_length": TIME},
    ),
}
COMPILED = ("min_gru", "min_lstm", "transformer")


def build(name, vocab_size, **options):
    cls, sizes = MODELS[name]
    torch.manual_seed(0)
    return cls(vocab_size, **sizes, learning_rate=RATE, **options)


def data_for(name, path, cache):
    batching = "blocks" if name == "transformer" else "contiguous"
    return TextDataModule(
        path, tokenizer="character", batching=batching, batch_size=ROWS, context_length=TIME, cache_dir=cache
    )


class Clock(pl.Callback):
    """Steps per second after the warm-up."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == WARMUP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == WARMUP + STEPS:
            self.speed = STEPS / (time.perf_counter() - self.start)


def trainer(**options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": CLIP,
    }
    return pl.Trainer(**{**quiet, **options})


def ours(model, data, half):
    clock = Clock()
    precision = "bf16-mixed" if half else "32-true"
    run = trainer(max_steps=WARMUP + STEPS, limit_val_batches=0, callbacks=[clock], precision=precision)
    run.fit(model, data)
    return clock.speed


def bare(network, batches, half):
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.95), fused=True)
    state = network.initial_state(ROWS) if "continues" in batches[0] else None
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            start = time.perf_counter()
        batch = batches[step]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, state = network(batch["inputs"], state)
            loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        state = detach(state)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
    return STEPS / (time.perf_counter() - start)


def some_batches(data):
    endless = chain.from_iterable(repeat(data.train_dataloader()))
    return [next(endless) for _ in range(WARMUP + STEPS)]


def speeds(name, path, cache, half, compiled):
    """Tokens per second and parameters."""
    data = data_for(name, path, cache)
    model = build(name, data.vocab_size, compile=compiled)
    network = build(name, data.vocab_size).network.train()
    if compiled:
        network.compile()
    batches = some_batches(data)
    rounds = []
    for number in range(ROUNDS + 1):
        pair = ours(model, data, half), bare(network, batches, half)
        if number:  # the first compiles, and warms up
            rounds.append(pair)
    mine, plain = (median(column) * ROWS * TIME for column in zip(*rounds, strict=True))
    return mine, plain, median(a / b for a, b in rounds), sum(p.numel() for p in network.parameters())


def peak(name, path, cache, half, compiled, how):
    """MiB that training adds to a process: prints it."""
    data = data_for(name, path, cache)
    model = build(name, data.vocab_size, compile=compiled and how == "ours")
    if compiled and how == "bare":
        model.network.compile()
    batches = some_batches(data)
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = forget_peak()
    ours(model, data, half) if how == "ours" else bare(model.network.train(), batches, half)
    print(memory("VmHWM") - before)


def peaks(name, path, half, compiled):
    flags = ["--half"] * half + ["--compiled"] * compiled
    command = [sys.executable, __file__, path, "--family", name, *flags, "--peak"]
    lines = [subprocess.check_output([*command, how], text=True).split()[-1] for how in ("ours", "bare")]
    return [float(line) for line in lines]


class Until(pl.Callback):
    """Ends training when validation is good enough; counts the seconds of training alone."""

    def __init__(self, target):
        self.target, self.seconds, self.loss = target, 0.0, float("inf")

    def on_train_batch_start(self, *args):
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.seconds += time.perf_counter() - self.start

    def on_validation_epoch_end(self, trainer, module):
        self.loss = float(trainer.callback_metrics.get("val_loss", "inf"))
        trainer.should_stop = self.loss < self.target


def time_to(target, name, path, cache):
    data = data_for(name, path, cache)
    model, until = build(name, data.vocab_size), Until(target)
    run = trainer(max_steps=3000, val_check_interval=25, check_val_every_n_epoch=None, callbacks=[until])
    run.fit(model, data)
    return sum(p.numel() for p in model.parameters()), run.global_step, until.seconds, until.loss


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="python-docs", help="a UTF-8 text file")
    parser.add_argument("--target", type=float, help="time to this validation loss instead")
    parser.add_argument("--family", choices=MODELS, help="only this one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="only this one")
    parser.add_argument("--half", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=("ours", "bare"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    names = [options.family] if options.family else list(MODELS)
    with tempfile.TemporaryDirectory() as cache:
        if options.peak:
            peak(names[0], options.text, cache, options.half, options.compiled, options.peak)
            return
        print(
            f"{options.text}: batches of {ROWS} x {TIME} characters, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads"
        )
        if options.target:
            targets_table(names, options.text, cache, options.target)
        else:
            halves = {"fp32": (False,), "bf16": (True,), None: (False, True)}[options.precision]
            speeds_table(names, halves, options.text, cache)


def targets_table(names, path, cache, target):
    print(
        f"{'family':12s} {'parameters':>10s} {'steps':>6s} {'seconds':>8s}  validation loss, below {target}"
    )
    for name in names:
        parameters, steps, seconds, loss = time_to(target, name, path, cache)
        print(f"{name:12s} {parameters:10,} {steps:6,} {seconds:8.1f}  {loss:.3f}", flush=True)


def speeds_table(names, halves, path, cache):
    print(f"medians of {ROUNDS} rounds of {STEPS} steps")
    head = ("tokens/s", "bare", "ratio", "peak MiB", "bare")
    print(f"{'family':12s} {'precision':10s} {'parameters':>10s}" + "".join(f" {each:>9s}" for each in head))
    for name in names:
        for half in halves:
            for compiled in (False, True) if name in COMPILED else (False,):
                mine, plain, ratio, parameters = speeds(name, path, cache, half, compiled)
                memory = peaks(name, path, half, compiled)
                how = ("bf16" if half else "fp32") + (" compiled" if compiled else "")
                figures = f" {mine:9,.0f} {plain:9,.0f} {ratio:9.3f} {memory[0]:9.0f} {memory[1]:9.0f}"
                print(f"{name:12s} {how:13s} {parameters:7,}{figures}", flush=True)


if __name__ == "__main__":
    main()
