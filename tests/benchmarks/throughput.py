"""Tokens per second of training, beside a bare loop, transformers' Trainer and nanoGPT's own loop."""

import time
import warnings

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from tests.benchmarks import gpt2_shape
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How many tokens a second are trained on, beside a bare loop and transformers' Trainer?"
VOCAB, CONTEXT, ROWS, STEPS, WARMUP, RATE, CLIP = 4096, 128, 8, 14, 4, 3e-4, 1.0
PROTOCOL = (
    f"GPT-2's architecture, {gpt2_shape.LAYERS} layers of {gpt2_shape.WIDTH}, {VOCAB:,} words, fp32, batches "
    f"of {ROWS} x {CONTEXT} tokens that lie ready, AdamW (fused), gradients clipped at {CLIP}, no dropout: "
    f"tokens per second over {STEPS - WARMUP} steps after {WARMUP}. Loss: of the last step, same batches."
)


def measure(options):
    """Yields the table."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCAB, (STEPS, ROWS, CONTEXT + 1), generator=generator)
    models = {"lightning_seq": gpt2_shape.ours(VOCAB, CONTEXT)}
    models["transformers"] = gpt2_shape.of_transformers(VOCAB, CONTEXT)
    gpt2_shape.same_size(models)
    contenders = {
        "bare loop": lambda: _bare(ids),
        "lightning_seq": lambda: _ours(ids),
        "transformers' Trainer": lambda: _transformers(ids),
    }
    table = Table("Training throughput", PROTOCOL, "tokens/s", False, "bare loop")
    yield in_turns(table, contenders, options.rounds)


class Clock:
    """Tokens per second of the steps after the first ones."""

    def __init__(self):
        self.at = []

    def tick(self):
        self.at.append(time.perf_counter())

    def speed(self):
        assert len(self.at) == STEPS, len(self.at)
        return (STEPS - WARMUP) * ROWS * CONTEXT / (self.at[-1] - self.at[WARMUP - 1])


def _bare(ids):
    """The same network, in a loop written by hand, with all logits."""
    network, clock = gpt2_shape.ours(VOCAB, CONTEXT).network, Clock()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, betas=(0.9, 0.95), fused=True)
    for rows in ids:
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
        self.loss = float(outputs["loss"]) if trainer.global_step == STEPS else None


def _ours(ids):
    warnings.simplefilter("ignore")
    model, clock = gpt2_shape.ours(VOCAB, CONTEXT, learning_rate=RATE), Clock()
    ticks = _Ticks(clock)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        gradient_clip_val=CLIP,
        callbacks=[ticks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [{"inputs": rows[:, :-1], "targets": rows[:, 1:]} for rows in ids]
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return {"tokens/s": clock.speed(), "loss": ticks.loss}


def _transformers(ids):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()

    class Ticks(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.tick()

    clock = Clock()
    arguments = TrainingArguments(
        output_dir="unused",
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        learning_rate=RATE,
        adam_beta2=0.95,
        max_grad_norm=CLIP,
        report_to="none",
        save_strategy="no",
        logging_steps=STEPS,
        disable_tqdm=True,
    )
    # transformers moves the targets by itself, so its sequences have one token less to learn
    data = [{"input_ids": row[:-1], "labels": row[:-1]} for rows in ids for row in rows]
    trainer = Trainer(
        gpt2_shape.of_transformers(VOCAB, CONTEXT), arguments, train_dataset=data, callbacks=[Ticks()]
    )
    result = trainer.train()
    return {"tokens/s": clock.speed(), "loss": result.training_loss}
