"""Each family beside a bare PyTorch loop over the same batches, and until it has learnt something."""

import logging
import tempfile
import time
import warnings
from itertools import chain, repeat

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

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
from lightning_seq.networks.recurrent_layers import lacks_bfloat16
from tests.benchmarks.quiet import trainer
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How fast does each family train, beside a bare loop? (--data)"
STEPS, WARMUP, ROWS, TIME, CLIP, RATE, TARGET = 20, 3, 32, 64, 1.0, 3e-3, 1.8
PROTOCOL = (
    "{parameters:,} parameters, batches of {rows} x {time} characters, AdamW, gradients clipped at 1, "
    "{how}: once in Lightning with this package's model and data, once the same network in a loop written "
    "by hand over batches that lie ready; tokens per second over {steps} steps."
)
UNTIL = (
    f"Seconds of training alone until the validation loss is below {TARGET} nats per character, validated "
    f"every 25 steps: models of about half a million parameters, learning rate {RATE} throughout."
)
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


def measure(options):
    """Yields a table for each family, and one of how long they learn."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    path = "python-docs" if options.data is None else str(options.data)
    halves = (False,) if lacks_bfloat16(torch.device("cpu")) else (False, True)
    with tempfile.TemporaryDirectory() as cache:
        for name in MODELS:
            for half in halves:
                for compiled in (False, True) if name in COMPILED else (False,):
                    yield speeds(name, path, cache, half, compiled, options.rounds)
        contenders = {name: lambda name=name: time_to(name, path, cache) for name in MODELS}
        table = Table(f"Until a validation loss of {TARGET}", UNTIL, "seconds", True, "lstm")
        yield in_turns(table, contenders, 1)


class Clock(pl.Callback):
    """Steps per second after the warm-up."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == WARMUP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == WARMUP + STEPS:
            self.speed = STEPS / (time.perf_counter() - self.start)


def ours(model, data, half):
    clock = Clock()
    precision = "bf16-mixed" if half else "32-true"
    options = {"limit_val_batches": 0, "precision": precision, "gradient_clip_val": CLIP}
    run = trainer(max_steps=WARMUP + STEPS, callbacks=[clock], **options)
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


def speeds(name, path, cache, half, compiled, rounds):
    """Returns the table of a family."""
    data = data_for(name, path, cache)
    model = build(name, data.vocab_size, compile=compiled)
    network = build(name, data.vocab_size).network.train()
    if compiled:
        network.compile()
    batches = some_batches(data)
    ways = {
        "bare loop": lambda: bare(network, batches, half),
        "lightning_seq": lambda: ours(model, data, half),
    }
    for way in ways.values():
        way()  # compiles, and warms up
    contenders = {label: lambda way=way: {"tokens/s": ROWS * TIME * way()} for label, way in ways.items()}
    how = ("bf16" if half else "fp32") + (", compiled" if compiled else "")
    parameters = sum(p.numel() for p in network.parameters())
    protocol = PROTOCOL.format(parameters=parameters, rows=ROWS, time=TIME, how=how, steps=STEPS)
    table = Table(f"Training: {name}, {how}", protocol, "tokens/s", False, "bare loop")
    return in_turns(table, contenders, rounds)


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


def time_to(name, path, cache):
    data = data_for(name, path, cache)
    model, until = build(name, data.vocab_size), Until(TARGET)
    options = {"val_check_interval": 25, "check_val_every_n_epoch": None, "gradient_clip_val": CLIP}
    run = trainer(max_steps=3000, callbacks=[until], **options)
    run.fit(model, data)
    return {"seconds": until.seconds, "steps": run.global_step, "loss": until.loss}
