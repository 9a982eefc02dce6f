"""Protocols: each equals a plain loop over targets, and scores every target exactly once."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation import Blocks, Sliding, Stream, initial_state_loss, score
from lightning_seq.networks import LSTM, Transformer
from tests.networks.families import FAMILIES, VOCAB_SIZE

lengths = st.integers(2, 70)


class Bigram(nn.Module):
    """A user's own network, which keeps no state, has no bound and knows nothing of targets."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, tokens, state=None, targets=None):
        return self.table(tokens), None


def make(family, **options):
    torch.manual_seed(0)
    return {"bigram": Bigram, **FAMILIES}[family](**options).eval()


STATEFUL = sorted(name for name in FAMILIES if make(name).initial_state(1) is not None)
NETWORKS = {name: make(name) for name in ("lstm", "transformer", "bigram")}


def text(length, seed=1):
    return torch.randint(0, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed))


def loss(network, past, target):
    """Of one target, from tokens that begin without past."""
    with torch.no_grad():
        logits = network(past[None])[0][0, -1].double()
    return -logits.log_softmax(-1)[target].item()


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-5, rtol=0)


@given(st.sampled_from(sorted(NETWORKS)), lengths, st.integers(1, 24), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_blocks_equal_a_loop(name, length, context, batch_size):
    network, tokens = NETWORKS[name], text(length)
    begins = [target // context * context for target in range(length - 1)]
    expected = [loss(network, tokens[b : i + 1], tokens[i + 1]) for i, b in enumerate(begins)]
    close(score(network, tokens, Blocks(context), batch_size), expected)


@given(st.sampled_from(sorted(NETWORKS)), lengths, st.integers(1, 24), st.data(), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_sliding_windows_equal_a_loop(name, length, context, data, batch_size):
    network, tokens = NETWORKS[name], text(length)
    stride = data.draw(st.integers(1, context))
    expected = []
    for i in range(length - 1):  # the first window that reaches target i
        window = max(0, -(-(i + 1 - context) // stride))
        expected.append(loss(network, tokens[window * stride : i + 1], tokens[i + 1]))
    close(score(network, tokens, Sliding(context, stride), batch_size), expected)


@given(lengths, st.integers(1, 24), st.data())
@settings(max_examples=40, deadline=None)
def test_a_stream_of_lanes_equals_a_loop(length, chunk, data):
    network, tokens = NETWORKS["lstm"], text(length)
    lanes = data.draw(st.integers(1, length - 1))
    bounds = [lane * (length - 1) // lanes for lane in range(lanes + 1)]
    assert max(bounds[i + 1] - bounds[i] for i in range(lanes)) <= (length - 1) // lanes + 1
    expected = []
    for start, stop in pairwise(bounds):
        expected += [loss(network, tokens[start : i + 1], tokens[i + 1]) for i in range(start, stop)]
    close(score(network, tokens, Stream(chunk, lanes)), expected)


@given(
    st.integers(1, 300),
    st.integers(1, 50),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 50)),
    st.integers(1, 20),
)
@settings(max_examples=200, deadline=None)
def test_every_target_is_scored_exactly_once(targets, context, batch_size, stride, lanes):
    for protocol in (
        Blocks(context),
        Sliding(context, min(stride or context, context)),
        Stream(context, lanes),
    ):
        if isinstance(protocol, Stream) and lanes > targets:
            continue
        pieces = list(protocol.pieces(targets, batch_size))
        found = torch.cat([places[scored] for places, scored in pieces])
        assert found.sort().values.tolist() == list(range(targets))
        assert all(places.min() >= 0 and places.max() < targets for places, _ in pieces)
        assert all(places.size(1) <= context for places, _ in pieces)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stream_equals_one_pass_over_the_whole_text(name):
    network, tokens = make(name), text(60)
    inputs, targets = tokens[None, :-1], tokens[None, 1:]
    with torch.no_grad():
        whole = network(inputs, None, targets)[0][0].double()
    chunk = 60 if "transformer" in name else 7  # beyond, a Transformer forgets
    torch.testing.assert_close(score(network, tokens, Stream(chunk)), whole, atol=2e-5, rtol=0)


def test_a_transformer_streams_with_a_past_of_one_chunk():
    network, tokens = NETWORKS["transformer"], text(50)
    found = score(network, tokens, Stream(8))
    state, expected = network.initial_state(1, 8), []
    for start in range(0, 49, 8):
        inputs, targets = tokens[None, start:-1][:, :8], tokens[None, start + 1 :][:, :8]
        with torch.no_grad():
            nll, state = network(inputs, state, targets)
        expected += nll[0].tolist()
    close(found, expected)


def test_batch_size_says_nothing():
    for network in NETWORKS.values():
        for protocol in (Blocks(7), Sliding(7, 3)):
            one, many = (score(network, text(80), protocol, batch_size) for batch_size in (1, 64))
            torch.testing.assert_close(one, many, atol=2e-6, rtol=0)


def test_a_stride_of_the_context_gives_blocks():
    network = NETWORKS["lstm"]
    assert score(network, text(80), Sliding(9, 9)).tolist() == score(network, text(80), Blocks(9)).tolist()


def test_the_network_is_left_alone():
    network = LSTM(VOCAB_SIZE, 12, 16, dropout=0.5).train()
    network.head.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, again = score(network, text(30), Stream(7)), score(network, text(30), Stream(7))
    assert one.tolist() == again.tolist()  # no dropout
    assert network.training
    assert not network.head.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(p.is_inference() or p.grad is not None for p in network.parameters())
    assert torch.is_grad_enabled()


def test_progress_counts_all_targets():
    seen = []
    score(NETWORKS["lstm"], text(50), Sliding(9, 4), 3, progress=seen.append)
    assert sum(seen) == 49


def test_names_say_all():
    assert Stream(128).name == "stream, 1 lane, chunks of 128"
    assert Stream(128, 4).name == "stream, 4 lanes, chunks of 128"
    assert Blocks(256).name == "blocks of 256"
    assert Sliding(256, 64).name == "sliding window, context 256, stride 64"


def shapeless(tokens, state=None, targets=None):
    return torch.zeros((*tokens.shape, 2, 2)), None


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - set(STATEFUL)))
def test_a_network_that_carries_nothing_of_its_own_accord_is_not_streamed(name):
    with pytest.raises(InputError, match='Transformer keeps no state, which "stream" carries'):
        score(make(name), text(9), Stream(4))
    assert score(make(name), text(9), Blocks(4)).isfinite().all()


@pytest.mark.parametrize(
    ("family", "length", "protocol", "message"),
    [
        ("bigram", 9, Stream(4), 'Bigram keeps no state, which "stream" carries: take "sliding" or "blocks"'),
        ("lstm", 1, Stream(4), r"the text is \(1,\) tokens: give one row of at least 2"),
        ("lstm", 9, Stream(4, 9), "lanes is 9: give 1 to 8"),
        ("lstm", 9, Stream(4, 0), "lanes is 0: give 1 to 8"),
        ("lstm", 9, Stream(0), "context_length is 0: give one at least 1"),
        ("lstm", 9, Sliding(4, 5), "stride is 5: give 1 to context_length, 4"),
        ("lstm", 9, Sliding(4, 0), "stride is 0: give 1 to context_length, 4"),
        ("transformer", 9, Blocks(65), "context_length is 65: give one from 1 to the network's own, 64"),
        ("transformer", 9, Sliding(65, 1), "context_length is 65: give one from 1 to the network's own, 64"),
        ("transformer", 9, Stream(65), "context_length is 65: give one from 1 to the network's own, 64"),
    ],
)
def test_what_does_not_fit_is_refused(family, length, protocol, message):
    with pytest.raises(InputError, match=message):
        score(NETWORKS[family], text(length), protocol)


def test_batches_of_nothing_and_outputs_of_no_shape_are_refused():
    with pytest.raises(InputError, match="batch_size is 0: give at least 1"):
        score(NETWORKS["lstm"], text(9), Blocks(4), 0)
    network = Bigram()
    network.forward = shapeless
    with pytest.raises(InputError, match=r"Bigram returned \(2, 4, 2, 2\) for 2 sequences of 4 tokens"):
        score(network, text(9), Blocks(4))


def test_a_bound_of_the_network_is_no_bound_of_the_text():
    network = Transformer(VOCAB_SIZE, 16, 1, 1, context_length=8)
    assert score(network, text(100), Blocks(8)).isfinite().all()
    assert score(network, text(100), Stream(4)).isfinite().all()


@pytest.mark.parametrize(
    "family", ["elman_tanh", "gru_learnt_start", "lstm", "min_gru", "min_lstm", "bigram"]
)
def test_the_initial_state_loss_is_that_of_the_first_20_tokens_without_a_past(family):
    network, tokens = make(family), text(64)
    expected = [
        loss(network, tokens[start : start + past], tokens[start + past])
        for start in (0, 20, 40, 60)
        for past in range(1, min(20, 63 - start) + 1)
    ]
    found = initial_state_loss(network, tokens)
    assert found == pytest.approx(sum(expected) / 63, rel=1e-4)
    assert initial_state_loss(network, tokens, batch_size=1) == pytest.approx(found, rel=1e-5)


def test_the_initial_state_loss_keeps_within_a_networks_context():
    network, tokens = Transformer(VOCAB_SIZE, 16, 1, 1, context_length=7).eval(), text(50)
    assert initial_state_loss(network, tokens) == pytest.approx(
        score(network, tokens, Blocks(7)).mean().item()
    )
