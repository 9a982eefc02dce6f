"""What a batch costs beside the cheapest training step: python tests/benchmarks/feeding.py [TEXT_FILE]

Feeding is all that a loader does for a batch: the plan, reading the memory map, padding, document ids, and
the hash of what is consumed. The step is forward, backward and AdamW of a one-layer RNN of width 128, plain
PyTorch, on the same batches: about the cheapest that anybody trains. Both are timed in turns, in one process.
"""

import argparse
import tempfile
import time
from itertools import chain, repeat
from statistics import median

import torch

from lightning_seq.data import CopyTask, SequenceDataModule, TextDataModule
from lightning_seq.networks import ElmanRNN

ROUNDS, BATCHES, STEPS = 9, 60, 12
LAYOUTS = {
    "contiguous": {"batching": "contiguous"},
    "contiguous, separate documents": {"batching": "contiguous", "separate_documents": True},
    "blocks": {"batching": "blocks"},
    "blocks, separate documents": {"batching": "blocks", "separate_documents": True},
    "documents": {"batching": "documents"},
    "documents, token budget": {"batching": "documents", "tokens_per_batch": 2048},
}


class Paragraphs(SequenceDataModule):
    """The paragraphs of a text, a document each."""

    def __init__(self, text: str, **kwargs):
        super().__init__(**kwargs)
        self.text = text

    def documents(self, split):
        return self.text.split("\n\n")


def forever(data):
    """The training batches of all epochs."""
    return chain.from_iterable(repeat(data.train_dataloader()))


def feeding_time(batches):
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return (time.perf_counter() - start) / BATCHES


def step_time(batches, network, optimizer):
    ready = [next(batches) for _ in range(STEPS)]
    start = time.perf_counter()
    for batch in ready:
        loss, _ = network(batch["inputs"], None, batch["targets"])
        (loss / batch["targets"].numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / STEPS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="python-docs", help="a UTF-8 text file")
    path = parser.parse_args().text
    with tempfile.TemporaryDirectory() as cache:
        text = "".join(TextDataModule(path, cache_dir=cache).documents("train"))
        common = {"batch_size": 32, "context_length": 64, "cache_dir": cache}
        sources = {name: Paragraphs(text, **common, **layout) for name, layout in LAYOUTS.items()}
        sources["generated: CopyTask"] = CopyTask(batch_size=32)
        print(f"{path}: batches of 32 x 64 characters, {torch.get_num_threads()} threads, {ROUNDS} rounds")
        print(f"{'layout':32s} {'ms a batch':>10s} {'ms a step':>10s} {'share':>7s}")
        for name, data in sources.items():
            network = ElmanRNN(data.vocab_size, embedding_dim=128, hidden_size=128)
            optimizer = torch.optim.AdamW(network.parameters(), fused=True)
            batches = forever(data)
            for _ in range(2):  # to warm up
                feeding_time(batches), step_time(batches, network, optimizer)
            times = [(feeding_time(batches), step_time(batches, network, optimizer)) for _ in range(ROUNDS)]
            feed, step = (median(column) * 1e3 for column in zip(*times, strict=True))
            print(f"{name:32s} {feed:10.3f} {step:10.2f} {feed / step:7.2%}")


if __name__ == "__main__":
    main()
