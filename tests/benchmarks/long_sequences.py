"""A step's time and memory against the length of its sequences, for each family, as tables and a picture."""

import json
import subprocess
import sys
import time
from statistics import median

import torch

from lightning_seq.figures import new_figure, png_bytes
from lightning_seq.models import (
    GRULanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    MinLSTMLanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from tests.benchmarks.memory import forget_peak, memory
from tests.benchmarks.turns import Table, in_turns

QUESTION = "What do longer sequences cost each family? (--picture FILE)"
LENGTHS = (128, 512, 2048, 8192)
VOCAB, WIDTH, LAYERS, STEPS = 256, 128, 2, 3
FAMILIES = {
    "lstm": LSTMLanguageModel,
    "gru": GRULanguageModel,
    "rnn": RNNLanguageModel,
    "min_gru": MinGRULanguageModel,
    "min_lstm": MinLSTMLanguageModel,
    "transformer": TransformerLanguageModel,
}
PROTOCOL = (
    f"One sequence of {{length:,}} tokens a step, {LAYERS} layers of {WIDTH}, {VOCAB} words, fp32; forward, "
    f"backward and AdamW, each measurement in a process of its own: milliseconds of a step (the median of "
    f"{STEPS} after the first), and the most memory that training adds, in MiB."
)


def measure(options):
    """Yields a table for each length, and draws all of them."""
    tables = {}
    for length in LENGTHS:
        contenders = {name: lambda name=name, length=length: _in_a_process(name, length) for name in FAMILIES}
        title, protocol = f"Sequences of {length:,} tokens", PROTOCOL.format(length=length)
        tables[length] = in_turns(Table(title, protocol, "ms", True, "lstm"), contenders, options.rounds)
        yield tables[length]
    if options.picture is not None:
        options.picture.write_bytes(png_bytes(_draw(tables)))


def _in_a_process(name, length):
    command = [sys.executable, "-m", __spec__.name, name, str(length)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _steps(name, length):
    torch.manual_seed(0)
    sizes = {"embedding_dim": WIDTH, "num_layers": LAYERS}
    sizes |= {"context_length": length, "num_heads": 4} if name == "transformer" else {"hidden_size": WIDTH}
    network = FAMILIES[name](VOCAB, **sizes).network.train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    tokens = torch.randint(VOCAB, (1, length + 1))
    state = network.initial_state(1) if name != "transformer" else None
    before, seconds = forget_peak(), []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss, _ = network(tokens[:, :-1], state, tokens[:, 1:])
        (loss.sum() / length).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return {"ms": 1e3 * median(seconds[1:]), "MiB": memory("VmHWM") - before}


def _draw(tables):
    figure = new_figure(9, 4)
    for place, (unit, label) in enumerate((("ms", "milliseconds a step"), ("MiB", "MiB that training adds"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for name in FAMILIES:
            heights = [median(each[unit] for each in table.measured[name]) for table in tables.values()]
            axes.plot(list(tables), heights, marker="o", markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=10 if unit == "ms" else 2)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xticks(list(tables), [f"{length:,}" for length in tables])
        axes.set_xlabel("tokens in a sequence")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    print(json.dumps(_steps(sys.argv[1], int(sys.argv[2]))))
