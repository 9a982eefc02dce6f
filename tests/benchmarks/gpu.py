"""How busy training keeps a GPU: GPT-2 124M and a large LSTM, against the card's own matrix products."""

import time
import warnings
from types import SimpleNamespace

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from lightning_seq.models import LSTMLanguageModel
from tests.benchmarks import gpt2_shape
from tests.benchmarks.quiet import trainer
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How busy does training keep a GPU? (--nanogpt)"
GPT2 = (12, 768, 12)  # layers, width, heads
WORDS, CONTEXT, ROWS = 50_304, 1024, 12
LSTM_WORDS, UNITS, LSTM_ROWS, LSTM_STEPS = 10_000, 1500, 64, 35
STEPS, WARMUP, SIDE = 30, 10, 8192
PROTOCOL = (
    "{what}, bf16, batches that lie on the card, AdamW (fused), gradients clipped at 1: tokens per second "
    "over {steps} steps after {warmup}. mfu: floating-point operations of the model, 6 a parameter and "
    "token (without embeddings that are looked up) and 12 a layer, width and place of attention, against "
    "{rate:.0f} TFLOP/s, what products of {side:,} x {side:,} matrices reach on this card."
)


def measure(options):
    """Yields the tables, none where there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu: not measured, there is none")
        return
    warnings.simplefilter("ignore")
    rate = _matrix_rate()
    tokens = torch.randint(WORDS, (ROWS, CONTEXT + 1))
    contenders = {"lightning_seq": lambda: _ours(_gpt2(), tokens, rate, _flops_of_gpt2())}
    if options.nanogpt is not None:
        contenders["nanoGPT"] = lambda: _nanogpt(options.nanogpt, tokens, rate)
    what = f"GPT-2 124M, compiled, {ROWS} x {CONTEXT:,} tokens"
    yield in_turns(_table(what, rate, next(reversed(contenders))), contenders, options.rounds)

    tokens = torch.randint(LSTM_WORDS, (LSTM_ROWS, LSTM_STEPS + 1))
    what = f"LSTM of 2 x {UNITS:,}, {LSTM_WORDS:,} words, dropout 0.65, {LSTM_ROWS} x {LSTM_STEPS} tokens"
    contenders = {"lightning_seq": lambda: _ours(_lstm(), tokens, rate, _flops_of_lstm())}
    yield in_turns(_table(what, rate, "lightning_seq"), contenders, options.rounds)


def _table(what, rate, reference):
    protocol = PROTOCOL.format(what=what, steps=STEPS, warmup=WARMUP, rate=rate / 1e12, side=SIDE)
    title = f"Training on {torch.cuda.get_device_name()}"
    return Table(title, protocol, "tokens/s", False, reference)


def _matrix_rate():
    """Floating-point operations a second of large products in bf16: the best of ten."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 10 * 2 * SIDE**3 / best


def _gpt2():
    return gpt2_shape.ours(WORDS, CONTEXT, GPT2, learning_rate=6e-4, compile=True)


def _lstm():
    torch.manual_seed(0)
    sizes = {"embedding_dim": UNITS, "hidden_size": UNITS, "num_layers": 2, "dropout": 0.65}
    return LSTMLanguageModel(LSTM_WORDS, **sizes)


def _flops_of_gpt2():
    """Of a token: the tied matrix is multiplied by, places are looked up."""
    layers, width, _ = GPT2
    parameters = sum(p.numel() for p in _gpt2().parameters()) - CONTEXT * width
    return 6 * parameters + 12 * layers * width * CONTEXT


def _flops_of_lstm():
    parameters = sum(p.numel() for p in _lstm().parameters()) - LSTM_WORDS * UNITS
    return 6 * parameters


class _Clock(pl.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step in (WARMUP, WARMUP + STEPS):
            torch.cuda.synchronize()
            self.begun, self.last = getattr(self, "last", 0.0), time.perf_counter()

    def figures(self, tokens, rate, flops):
        speed = STEPS * tokens.size(0) * (tokens.size(1) - 1) / (self.last - self.begun)
        return {"tokens/s": speed, "mfu": speed * flops / rate}


def _ours(model, tokens, rate, flops):
    clock = _Clock()
    run = trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=WARMUP + STEPS,
        gradient_clip_val=1.0,
        callbacks=[clock],
    )
    on_card = tokens.cuda()
    batches = [{"inputs": on_card[:, :-1], "targets": on_card[:, 1:]}] * (WARMUP + STEPS)
    run.fit(model, DataLoader(batches, batch_size=None))
    return clock.figures(tokens, rate, flops)


def _nanogpt(directory, tokens, rate):
    """Its model and its optimizer, in its way of a step."""
    model = gpt2_shape.of_nanogpt(directory, WORDS, CONTEXT, GPT2).cuda()
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cuda")
    compiled, on_card, clock = torch.compile(model), tokens.cuda(), _Clock()
    for step in range(WARMUP + STEPS):
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = compiled(on_card[:, :-1].contiguous(), on_card[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.on_train_batch_end(SimpleNamespace(global_step=step + 1))
    return clock.figures(tokens, rate, _flops_of_gpt2())
