"""The loss over a large vocabulary: python tests/benchmarks/cross_entropy.py [--tokens N] [--vocab_size N]

Forward and backward of linear layer and cross entropy, summed, in processes of their own, in turns:

- plain: F.cross_entropy of all logits;
- ours: lightning_seq.networks.losses.linear_cross_entropy;
- torch: F.linear_cross_entropy in chunks of 256 (torch 2.13 has it).

Peak is what the process grew by in its first step, beyond weights and gradients; time the median of the
others.
"""

import argparse
import subprocess
import sys
import time
from statistics import median

import torch
import torch.nn.functional as F
from memory import forget_peak, memory

from lightning_seq.networks.losses import linear_cross_entropy

WAYS, STEPS = ("plain", "ours", "torch"), 4


def loss_of(way, hidden, weight, targets):
    if way == "ours":
        return linear_cross_entropy(hidden[None], weight, None, targets[None])
    if way == "torch":
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def measure(way, tokens, width, vocab_size, half):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(vocab_size, width) * 0.02)
    targets = torch.randint(0, vocab_size, (tokens,))
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    small = loss_of(way, hidden[:8], weight, targets[:8])  # loads the libraries
    small.backward()
    before, times = forget_peak(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            (loss_of(way, hidden, weight, targets) / tokens).backward()
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = memory("VmHWM") - before
    print(peak, median(times[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab_size", type=int, default=50_257)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--half", action="store_true", help="bfloat16 by autocast")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.tokens, options.width, options.vocab_size)
    if options.way:
        measure(options.way, *sizes, options.half)
        return
    results = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            line = subprocess.check_output([sys.executable, __file__, *sys.argv[1:], "--way", way], text=True)
            results[way].append([float(value) for value in line.split()])
    precision = "bf16" if options.half else "fp32"
    print(
        f"{sizes[0]:,} tokens, width {sizes[1]}, vocabulary {sizes[2]:,}, {precision}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{'way':6s} {'peak MiB':>9s} {'share':>6s} {'ms':>7s} {'ratio':>6s}  ratios of the rounds")
    plain = results["plain"]
    for way, found in results.items():
        peak, ms = median(p for p, _ in found), median(t for _, t in found) * 1e3
        ratios = [t / plain_t for (_, t), (_, plain_t) in zip(found, plain, strict=True)]
        share = peak / median(p for p, _ in plain)
        spread = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{way:6s} {peak:9.0f} {share:6.2f} {ms:7.0f} {median(ratios):6.2f}  {spread}")


if __name__ == "__main__":
    main()
