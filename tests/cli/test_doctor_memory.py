"""What the doctor says of memory and FLOPs, beside what a training of each family takes."""

import json
import os
import subprocess
import sys

import pytest

from lightning_seq.cli.doctor.memory import Step, measure, without_content
from lightning_seq.cli.doctor.optimizer_state import state_size
from lightning_seq.networks import GRU, LSTM, ElmanRNN, MinGRU, MinLSTM, Transformer
from lightning_seq.optimization import build_optimizer

FAMILIES = {
    "transformer": lambda vocab_size: Transformer(vocab_size, 128, 4, 4, 128),
    "min_gru": lambda vocab_size: MinGRU(vocab_size, 128, num_layers=3),
    "min_lstm": lambda vocab_size: MinLSTM(vocab_size, 128, num_layers=3),
    "lstm": lambda vocab_size: LSTM(vocab_size, 128, 256, 2),
    "gru": lambda vocab_size: GRU(vocab_size, 128, 256, 2),
    "rnn": lambda vocab_size: ElmanRNN(vocab_size, 128, 256, 2),
}


def measured(family, vocab_size=200, **step):
    with without_content() as mode:
        network = FAMILIES[family](vocab_size)
    step = {"batch_size": 4, "time": 16, "vocab_size": vocab_size, **step}
    return network, measure(network, mode, Step(**step))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_gradients_are_four_bytes_each_and_activations_grow_with_the_batch(family):
    network, few = measured(family)
    parameters = sum(p.numel() for p in network.parameters())
    assert few.gradients == pytest.approx(4 * parameters, abs=1000)  # and a batch
    assert few.weights == 4 * parameters
    many = measured(family, batch_size=8)[1]
    assert many.activations == pytest.approx(2 * few.activations, rel=0.15)
    assert many.flops_per_token == pytest.approx(few.flops_per_token, rel=0.05)


@pytest.mark.parametrize("family", ["transformer", "min_gru", "lstm"])
def test_flops_are_six_a_weight_and_what_attention_adds(family):
    network, found = measured(family, time=64, batch_size=8)
    weights = sum(
        p.numel() for name, p in network.named_parameters() if p.dim() == 2 and "embedding" not in name
    )
    if family == "transformer":
        weights += 200 * 128  # of the head, which is the embedding
    assert 0.99 * 6 * weights < found.flops_per_token < 1.2 * 6 * weights


def test_a_large_vocabulary_is_computed_in_chunks():
    found = measured("transformer", 40_000, batch_size=16, time=128)[1]
    whole = 16 * 128 * 40_000 * 4
    assert found.activations + found.workspace < whole  # all logits alone
    head = 6 * 128 * 40_000
    assert head < found.flops_per_token < 1.5 * head + 6 * 4 * 12 * 128**2


def test_half_precision_checkpointing_and_memory_of_the_past_change_what_is_held():
    plain = measured("transformer", batch_size=8, time=128)[1]
    assert measured("transformer", batch_size=8, time=128, precision="bf16-mixed")[1].activations < (
        0.9 * plain.activations
    )
    assert measured("transformer", batch_size=8, time=128, carried=True)[1].activations > plain.activations
    with without_content() as mode:
        network = Transformer(200, 128, 4, 4, 128, activation_checkpointing=True)
    assert measure(network, mode, Step(8, 128, 200)).activations < 0.3 * plain.activations


def test_long_sequences_of_a_recurrent_layer_are_extrapolated():
    short, long = (measured("rnn", time=time)[1].activations for time in (32, 320))
    assert long == pytest.approx(10 * short, rel=0.05)


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({"name": "adamw"}, 2),
        ({"name": "adamw", "fused": True}, 2),
        ({"name": "sgd"}, 0),
        ({"name": "sgd", "momentum": 0.9}, 1),
        ({"name": "nt_asgd"}, 1),
    ],
)
def test_what_an_optimizer_keeps(options, copies):
    with without_content():
        network = FAMILIES["lstm"](200)
    optimizer = build_optimizer(network, learning_rate=1.0, **options)
    assert state_size(optimizer) == copies * 4 * sum(p.numel() for p in network.parameters())


def test_muon_keeps_one_copy_of_hidden_matrices_and_two_of_the_rest():
    with without_content():
        network = FAMILIES["lstm"](200)
    kept = state_size(build_optimizer(network, "muon", learning_rate=1.0))
    hidden = sum(p.numel() for name, p in network.named_parameters() if p.dim() == 2 and "layers" in name)
    assert kept == 4 * (2 * sum(p.numel() for p in network.parameters()) - hidden)


PEAK = """
import json, sys
from pathlib import Path
import torch
from tests.benchmarks.memory import forget_peak, memory
from tests.cli.test_doctor_memory import FAMILIES, measured
torch.set_num_threads(1)
found = {}
for family in FAMILIES:
    network = FAMILIES[family](800).train()
    tokens = torch.zeros(64, 128, dtype=torch.long)
    def run():
        half = sys.argv[1] != "32-true"
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False, enabled=half):
            return network(tokens, None, tokens)[0]
    run().backward()
    network.zero_grad()
    before = forget_peak()
    run().backward()  # the second step has the first one's gradients
    loss = run()
    network.zero_grad()
    loss.backward()
    del loss
    taken = memory("VmHWM") - before
    said = measured(family, 800, batch_size=64, time=128, precision=sys.argv[1])[1]
    found[family] = taken, (said.gradients + said.activations + said.workspace) / 2**20
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of a process")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_peak_of_a_training_step_is_what_was_said(precision):
    """What is freed goes back to the system at once, else the process would hold more than its tensors."""
    frugal = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "4096", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, precision],
        env={**os.environ, **frugal, "MALLOC_MMAP_MAX_": "1000000"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(FAMILIES)
    for family, (taken, said) in found.items():
        within = 0.02 if family in ("transformer", "min_gru", "min_lstm") else 0.2
        assert said == pytest.approx(taken, rel=within), (family, found)
