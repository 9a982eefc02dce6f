"""What it costs to see attention: python tests/benchmarks/attention.py [TEXT_FILE] [--only NAME]

AttentionLogger at its default, one look at every validation, with a page at each and pictures at every
tripling and in the end, in trainings like the quickstart's, of 4 validations with 175 steps before each:
milliseconds of a look, of one drawing of all pictures, and the share of the training that all of its code
took. Beside it what it costs to see attention the usual way: softmax by hand in every step, in place of the
fused kernel; the median over pairs of neighbouring steps of one training, with the quartiles of the medians
of five parts.

With --whole also whole trainings in turns, with the logger and without, of 2 validations of 175 steps.
"""

import argparse
import logging
import math
import tempfile
import time
import warnings
from statistics import median, quantiles

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import AttentionLogger
from lightning_seq.data import TextDataModule
from lightning_seq.models import TransformerLanguageModel

VALIDATIONS, INTERVAL, PAIRS, WARMUP, TURNS = 4, 175, 30, 2, 4
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


class EagerEveryOtherStep(pl.Callback):
    """Takes the time of steps, every other one of which computes attention by hand."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        F.scaled_dot_product_attention = eager if trainer.global_step % 2 else fused
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.seconds.append(time.perf_counter() - self.start)
        F.scaled_dot_product_attention = fused


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
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        max_steps=steps,
        log_every_n_steps=50,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        **options,
    )
    start = time.perf_counter()
    trainer.fit(model, data)
    return time.perf_counter() - start


def against_eager(shape, data, folder):
    """Per pair of steps the time of the eager one over the other's; seconds of a fused one."""
    clock = EagerEveryOtherStep()
    steps = 2 * (PAIRS + WARMUP)
    fit(shape, data, folder, [clock], steps, val_check_interval=steps, num_sanity_val_steps=0)
    pairs = list(zip(clock.seconds[::2], clock.seconds[1::2], strict=True))[WARMUP:]
    return [slow / fast for fast, slow in pairs], median(fast for fast, _ in pairs)


def spread(ratios):
    low, _, high = quantiles([median(ratios[i::5]) - 1 for i in range(5)], n=4)
    return f"{median(ratios) - 1:+.1%} ({low:+.1%} to {high:+.1%})"


def whole(shape, data, folder):
    """The time of a whole training with the logger over that of one without, in turns."""
    seconds = {False: [], True: []}
    for turn in range(2 * TURNS):
        seen = bool(turn % 2)
        callbacks = [AttentionLogger()] if seen else []
        seconds[seen].append(fit(shape, data, folder, callbacks, 2 * INTERVAL, val_check_interval=INTERVAL))
    ratios = [b / a for a, b in zip(seconds[False], seconds[True], strict=True)]
    return f"{median(ratios) - 1:+.1%} ({min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", nargs="?", default="python-docs", help="a UTF-8 text file")
    parser.add_argument("--only", choices=SHAPES, help="only this shape")
    parser.add_argument("--whole", action="store_true", help="whole trainings in turns, too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {PAIRS} pairs of steps")
    print("| model | a step | a look | a drawing | AttentionLogger | eager attention |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            if options.only not in (None, name):
                continue
            data = TextDataModule(
                options.text,
                batch_size=shape[4],
                context_length=shape[3],
                batching="blocks",
                cache_dir=folder,
            )
            ratios, step = against_eager(shape, data, folder)
            logger = Timed()
            fit(shape, data, folder, [logger], 2 * VALIDATIONS, val_check_interval=2)
            share = logger.spent / (logger.spent + VALIDATIONS * INTERVAL * step)
            look, drawing = median(logger.looks), median(logger.drawings)
            kind = f"{name}: {shape[0]} x {shape[1]} heads, {shape[2]} wide, {shape[4]} x {shape[3]} tokens"
            figures = f"{1e3 * step:.0f} ms | {1e3 * look:.0f} ms | {1e3 * drawing:.0f} ms | {share:+.2%}"
            print(f"| {kind} | {figures} | {spread(ratios)} |", flush=True)
            if options.whole:
                print(f"{name}, whole trainings: {whole(shape, data, folder)}", flush=True)


if __name__ == "__main__":
    main()
