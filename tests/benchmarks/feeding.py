"""What a batch costs beside about the cheapest training step that anybody makes."""

import tempfile
import time
from itertools import chain, repeat

import torch

from lightning_seq.data import CopyTask, SequenceDataModule, TextDataModule
from lightning_seq.networks import ElmanRNN
from tests.benchmarks.turns import Table, in_turns

QUESTION = "What does it cost to make a batch, beside a step? (--data)"
BATCHES, STEPS = 60, 12
PROTOCOL = (
    "Batches of 32 x 64 characters. ms: all that a loader does for one, the plan, reading the memory map, "
    "padding, document ids and the hash of what is consumed. a step: forward, backward and AdamW of a "
    "one-layer RNN of width 128 on the same batches, plain PyTorch, in milliseconds."
)
LAYOUTS = {
    "contiguous": {"batching": "contiguous"},
    "contiguous, separate documents": {"batching": "contiguous", "separate_documents": True},
    "blocks": {"batching": "blocks"},
    "blocks, separate documents": {"batching": "blocks", "separate_documents": True},
    "documents": {"batching": "documents"},
    "documents, token budget": {"batching": "documents", "tokens_per_batch": 2048},
}


def measure(options):
    """Yields the table."""
    path = "python-docs" if options.data is None else str(options.data)
    with tempfile.TemporaryDirectory() as cache:
        text = "".join(TextDataModule(path, cache_dir=cache).documents("train"))
        common = {"batch_size": 32, "context_length": 64, "cache_dir": cache}
        sources = {name: Paragraphs(text, **common, **layout) for name, layout in LAYOUTS.items()}
        sources["generated: CopyTask"] = CopyTask(batch_size=32)
        contenders = {name: _fed_by(data) for name, data in sources.items()}
        yield in_turns(Table("Feeding", PROTOCOL, "ms", True, "contiguous"), contenders, options.rounds)


def _fed_by(data):
    network = ElmanRNN(data.vocab_size, embedding_dim=128, hidden_size=128)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    batches = forever(data)
    for _ in range(2):  # to warm up
        feeding_time(batches), step_time(batches, network, optimizer)

    def times():
        feed, step = feeding_time(batches), step_time(batches, network, optimizer)
        return {"ms": feed, "a step": step, "share": feed / step}

    return times


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
    """Milliseconds."""
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return 1e3 * (time.perf_counter() - start) / BATCHES


def step_time(batches, network, optimizer):
    """Milliseconds."""
    ready = [next(batches) for _ in range(STEPS)]
    start = time.perf_counter()
    for batch in ready:
        loss, _ = network(batch["inputs"], None, batch["targets"])
        (loss / batch["targets"].numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return 1e3 * (time.perf_counter() - start) / STEPS
