"""Tokens per second of training, beside a bare loop and transformers' Trainer, at three shapes."""

import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from tests.benchmarks import gpt2_shape
from tests.benchmarks.quiet import trainer
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How many tokens a second are trained on, beside a bare loop and transformers' Trainer?"
WARMUP, RATE, CLIP = 4, 3e-4, 1.0
PROTOCOL = (
    "GPT-2's architecture, {layers} layers of {width}, {words:,} words, fp32, batches of {rows} x "
    "{context} tokens that lie ready, AdamW (fused), gradients clipped at 1, no dropout: tokens per second"
    " over {steps} steps after {warmup}. Loss: of the last step, same batches."
)


@dataclass
class Work:
    """What all contenders do."""

    name: str
    shape: tuple[int, int, int]  # layers, width, heads
    words: int
    rows: int
    context: int
    steps: int

    def ids(self):
        generator = torch.Generator().manual_seed(0)
        sizes = (self.steps + WARMUP, self.rows, self.context + 1)
        return torch.randint(self.words, sizes, generator=generator)

    def protocol(self):
        sizes = {"layers": self.shape[0], "width": self.shape[1], "words": self.words, "rows": self.rows}
        return PROTOCOL.format(**sizes, context=self.context, steps=self.steps, warmup=WARMUP)


WORKS = (
    Work("10 million parameters", (6, 384, 6), 4096, 8, 128, steps=10),
    Work("GPT-2's words", (4, 256, 4), 50_257, 8, 128, steps=6),
    Work("nanoGPT's for a CPU", (4, 128, 4), 65, 12, 64, steps=60),
)


def measure(options):
    """Yields a table for each shape."""
    warnings.simplefilter("ignore")
    for work in WORKS:
        models = {"lightning_seq": gpt2_shape.ours(work.words, work.context, work.shape)}
        models["transformers"] = gpt2_shape.of_transformers(work.words, work.context, work.shape)
        gpt2_shape.same_size(models)
        contenders = {
            "bare loop": partial(_bare, work),
            "lightning_seq": partial(_ours, work),
            "lightning_seq, compiled": partial(_ours, work, compile=True),
            "transformers' Trainer": partial(_transformers, work),
            "transformers' Trainer, compiled": partial(_transformers, work, torch_compile=True),
        }
        title = f"Training throughput, {work.name}"
        table = Table(title, work.protocol(), "tokens/s", False, "transformers' Trainer")
        yield in_turns(table, contenders, options.rounds)


class Clock:
    """Tokens per second of the steps after the first ones."""

    def __init__(self, work):
        self.work, self.at = work, []

    def tick(self):
        self.at.append(time.perf_counter())

    def speed(self):
        assert len(self.at) == self.work.steps + WARMUP, len(self.at)
        tokens = self.work.steps * self.work.rows * self.work.context
        return tokens / (self.at[-1] - self.at[WARMUP - 1])


def _bare(work):
    """The same network, in a loop written by hand, with all logits."""
    network, clock = gpt2_shape.ours(work.words, work.context, work.shape).network, Clock(work)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, betas=(0.9, 0.95), fused=True)
    for rows in work.ids():
        optimizer.zero_grad()
        logits, _ = network(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        clock.tick()
    return {"tokens/s": clock.speed(), "loss": loss.item()}


class _Ticks(pl.Callback):
    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.clock.tick()
        self.loss = outputs["loss"]


def _ours(work, **options):
    model = gpt2_shape.ours(work.words, work.context, work.shape, learning_rate=RATE, **options)
    clock = Clock(work)
    ticks = _Ticks(clock)
    run = trainer(
        max_steps=work.steps + WARMUP,
        gradient_clip_val=CLIP,
        callbacks=[ticks],
    )
    batches = [{"inputs": rows[:, :-1], "targets": rows[:, 1:]} for rows in work.ids()]
    run.fit(model, DataLoader(batches, batch_size=None))
    return {"tokens/s": clock.speed(), "loss": float(ticks.loss)}


def _transformers(work, **options):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

    class Ticks(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.tick()

    clock = Clock(work)
    # transformers moves the targets by itself, so its sequences have one token less to learn
    data = [{"input_ids": row[:-1], "labels": row[:-1]} for rows in work.ids() for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=work.steps + WARMUP,
            per_device_train_batch_size=work.rows,
            learning_rate=RATE,
            adam_beta2=0.95,
            max_grad_norm=CLIP,
            report_to="none",
            save_strategy="no",
            logging_steps=work.steps + WARMUP,
            disable_tqdm=True,
            **options,
        )
        model = gpt2_shape.of_transformers(work.words, work.context, work.shape)
        result = Trainer(model, arguments, train_dataset=data, callbacks=[Ticks()]).train()
    return {"tokens/s": clock.speed(), "loss": result.training_loss}
