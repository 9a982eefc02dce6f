"""What it costs to see attention: AttentionLogger, and attention by hand in every step."""

import logging
import math
import tempfile
import time
import warnings
from statistics import median

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import AttentionLogger
from lightning_seq.data import TextDataModule
from lightning_seq.models import TransformerLanguageModel
from tests.benchmarks.quiet import trainer
from tests.benchmarks.turns import Table, in_turns

QUESTION = "What does it cost to see attention? (--data)"
VALIDATIONS, INTERVAL, STEPS, WARMUP = 4, 175, 10, 2
PROTOCOL = (
    "{layers} x {heads} heads, {width} wide, batches of {rows} x {time} characters. ms: of a training "
    "step, the median of {steps}; with AttentionLogger at its default, one look at every validation, its "
    "share of a training of {validations} validations with {interval} steps before each, pages, pictures "
    "and files included; eager: softmax by hand in every step, which is what it takes to see weights "
    "without it. look and drawing: ms, too."
)
# layers, heads, width, tokens, sequences
SHAPES = {
    "quickstart": (4, 4, 128, 64, 32),
    "nanoGPT's for a CPU": (4, 4, 128, 64, 12),
    "10 million parameters": (6, 6, 384, 256, 8),
    "GPT-2 124M, short": (12, 12, 768, 128, 4),
}
fused = F.scaled_dot_product_attention


def eager(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The same with its weights in sight, as libraries compute it when they are asked for weights."""
    scores = query @ key.mT * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    weights = F.dropout(scores.softmax(-1), dropout_p)
    return weights @ value


class Clock(pl.Callback):
    """Seconds of each step."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, *args):
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.seconds.append(time.perf_counter() - self.start)


class Timed(AttentionLogger):
    """Takes the time of all its hooks, of its looks and of its drawings."""

    def __init__(self):
        super().__init__()
        self.spent, self.looks, self.drawings = 0.0, [], []
        for name in [name for name in dir(self) if name.startswith("on_")]:
            setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, hook):
        def timed(*args, **options):
            start = time.perf_counter()
            try:
                return hook(*args, **options)
            finally:
                self.spent += time.perf_counter() - start

        return timed

    def _look(self, *args):
        start = time.perf_counter()
        entry = super()._look(*args)
        self.looks.append(time.perf_counter() - start)
        return entry

    def _draw(self, *args):
        start, before = time.perf_counter(), self._drawn
        super()._draw(*args)
        if self._drawn > before:
            self.drawings.append(time.perf_counter() - start)


def fit(shape, data, folder, callbacks, steps, **options):
    layers, heads, width, tokens, _ = shape
    torch.manual_seed(0)
    model = TransformerLanguageModel(
        data.vocab_size,
        embedding_dim=width,
        num_layers=layers,
        num_heads=heads,
        context_length=tokens,
        dropout=0.0,
        learning_rate=1e-4,
    )
    run = trainer(
        logger=CSVLogger(folder),
        callbacks=callbacks,
        max_steps=steps,
        check_val_every_n_epoch=None,
        **options,
    )
    run.fit(model, data)


def a_step(shape, data, folder, attention):
    """Milliseconds."""
    clock = Clock()
    F.scaled_dot_product_attention = attention
    try:
        fit(shape, data, folder, [clock], STEPS + WARMUP, limit_val_batches=0)
    finally:
        F.scaled_dot_product_attention = fused
    return 1e3 * median(clock.seconds[WARMUP:])


def logged(shape, data, folder):
    """Milliseconds of a step with the logger's share in it, of a look and of a drawing."""
    step, logger = a_step(shape, data, folder, fused), Timed()
    fit(shape, data, folder, [logger], 2 * VALIDATIONS, val_check_interval=2, limit_val_batches=1)
    ours = 1e3 * logger.spent / (VALIDATIONS * INTERVAL)
    look, drawing = 1e3 * median(logger.looks), 1e3 * median(logger.drawings)
    return {"ms": step + ours, "look": look, "drawing": drawing}


def measure(options):
    """Yields a table for each shape."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    text = "python-docs" if options.data is None else str(options.data)
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            layers, heads, width, tokens, rows = shape
            batches = {"batch_size": rows, "context_length": tokens, "batching": "blocks"}
            place = (shape, TextDataModule(text, **batches, cache_dir=folder), folder)
            contenders = {
                "fused": lambda place=place: {"ms": a_step(*place, fused)},
                "fused, with AttentionLogger": lambda place=place: logged(*place),
                "eager": lambda place=place: {"ms": a_step(*place, eager)},
            }
            sizes = {"layers": layers, "heads": heads, "width": width, "rows": rows, "time": tokens}
            numbers = {"steps": STEPS, "validations": VALIDATIONS, "interval": INTERVAL}
            table = Table(f"Attention: {name}", PROTOCOL.format(**sizes, **numbers), "ms", True, "fused")
            yield in_turns(table, contenders, options.rounds)
