"""Tokens per second of sampling, beside samplers with and without a cache."""

import time

import torch

from lightning_seq.generation import generate, stream
from lightning_seq.models import LSTMLanguageModel
from tests.benchmarks import gpt2_shape
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How fast are 511 tokens sampled, beside transformers and nanoGPT? (--nanogpt)"
VOCAB, LENGTH = 65, 512
PLACES = (512, 2048, 8192)


def measure(options):
    """Yields the tables."""
    models = {"lightning_seq": gpt2_shape.ours(VOCAB, LENGTH)}
    models["transformers"] = gpt2_shape.of_transformers(VOCAB, LENGTH)
    if options.nanogpt is not None:
        models["nanoGPT"] = gpt2_shape.of_nanogpt(options.nanogpt, VOCAB, LENGTH)
    size = gpt2_shape.same_size(models)
    samplers = {"lightning_seq": _ours, "transformers": _transformers, "nanoGPT": _nanogpt}
    layers, width, _ = gpt2_shape.SHAPE
    for batch in (1, 16):
        protocol = (
            f"GPT-2's architecture, {layers} layers of {width}, {size:,} parameters, fp32: "
            f"{LENGTH - 1} tokens after a prompt of one, temperature 0.8, {batch} "
            f"{'text' if batch == 1 else 'texts'} at once."
        )
        contenders = {
            name: lambda name=name, model=model, batch=batch: _timed(samplers[name], model.eval(), batch)
            for name, model in models.items()
        }
        reference = "nanoGPT" if "nanoGPT" in models else "transformers"
        table = Table(f"Generation, batch {batch}", protocol, "tokens/s", False, reference)
        yield in_turns(table, contenders, options.rounds)
    yield _along_the_text(options.rounds)


def _along_the_text(rounds):
    """The last 256 tokens of ever longer texts: what a token costs, wherever it stands."""
    torch.manual_seed(0)
    network = LSTMLanguageModel(VOCAB, embedding_dim=512, hidden_size=512).network
    table = Table(
        "A token of an LSTM, wherever it stands",
        "512 units, batch 1: tokens per second of the last 256 of so many tokens.",
        "tokens/s",
        False,
        f"{PLACES[0]} tokens",
    )
    contenders = {f"{n} tokens": lambda n=n: _last_tokens(network, n) for n in PLACES}
    return in_turns(table, contenders, rounds)


def _last_tokens(network, length):
    drawn = stream(network, torch.zeros(1, 1, dtype=torch.long), length, temperature=0.8, seed=0)
    for _ in range(length - 256):
        next(drawn)
    begun = time.perf_counter()
    for _ in drawn:
        pass
    return {"tokens/s": 256 / (time.perf_counter() - begun)}


def _timed(sampler, model, batch):
    prompt = torch.zeros(batch, 1, dtype=torch.long)
    sampler(model, prompt, 8)
    begun = time.perf_counter()
    tokens = sampler(model, prompt, LENGTH - 1)
    seconds = time.perf_counter() - begun
    assert tokens.shape == (batch, LENGTH)
    return {"tokens/s": batch * (LENGTH - 1) / seconds}


def _ours(model, prompt, count):
    return generate(model.network, prompt, count, temperature=0.8, seed=0)


def _transformers(model, prompt, count):
    mask = torch.ones_like(prompt)
    options = {"do_sample": True, "temperature": 0.8, "top_k": 0, "max_new_tokens": count, "use_cache": True}
    return model.generate(prompt, attention_mask=mask, **options)


@torch.no_grad()
def _nanogpt(model, prompt, count):
    return model.generate(prompt, count, temperature=0.8)
