"""The loss over a large vocabulary, forward and backward, in processes of their own."""

import json
import subprocess
import sys
import time
from statistics import median

import torch
import torch.nn.functional as F

from lightning_seq.networks.losses import linear_cross_entropy
from tests.benchmarks.memory import forget_peak, memory
from tests.benchmarks.turns import Table, in_turns

QUESTION = "What does the loss over a large vocabulary cost, beside all logits?"
SHAPES = ((4096, 256, 50_257), (700, 200, 33_278))  # tokens, width, words
STEPS = 4
WAYS = ("F.cross_entropy", "lightning_seq", "F.linear_cross_entropy")
PROTOCOL = (
    "{:,} tokens of width {}, {:,} words, fp32: linear layer and cross entropy, forward and backward. "
    f"ms: the median of {STEPS - 1} after the first. MiB: what the process grew by in its first, beyond "
    "weights and gradients. F.linear_cross_entropy: of torch 2.13, in chunks of 256."
)


def measure(options):
    """Yields the tables."""
    for shape in SHAPES:
        contenders = {way: lambda way=way, shape=shape: _in_a_process(way, shape) for way in WAYS}
        title = f"Cross entropy over {shape[-1]:,} words"
        table = Table(title, PROTOCOL.format(*shape), "ms", True, "F.cross_entropy")
        yield in_turns(table, contenders, options.rounds)


def _in_a_process(way, shape):
    command = [sys.executable, "-m", __spec__.name, way, *map(str, shape)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _loss(way, hidden, weight, targets):
    if way == "lightning_seq":
        return linear_cross_entropy(hidden[None], weight, None, targets[None])
    if way == "F.linear_cross_entropy":
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def _steps(way, tokens, width, vocab_size):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocab_size, width) * 0.02)
    targets = torch.randint(0, vocab_size, (tokens,))
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    _loss(way, hidden[:8], weight, targets[:8]).backward()  # loads the libraries
    before, times = forget_peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        (_loss(way, hidden, weight, targets) / tokens).backward()
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = memory("VmHWM") - before
    return {"ms": 1e3 * median(times[1:]), "MiB": peak}


if __name__ == "__main__":
    print(json.dumps(_steps(sys.argv[1], *map(int, sys.argv[2:]))))
