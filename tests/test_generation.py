"""Sampling: the prefix is read once, settings mean what they say, the global random state is left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.generation import generate, sample, stream
from lightning_seq.networks import Transformer
from tests.networks.families import FAMILIES, VOCAB_SIZE


@pytest.fixture(params=FAMILIES)
def network(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]()


def greedy_by_recomputing(network, tokens, steps):
    network.eval()
    for _ in range(steps):
        tokens = torch.cat([tokens, network(tokens)[0][:, -1:].argmax(-1)], 1)
    return tokens


def test_greedy_text_equals_running_over_everything_again(network):
    prompt = torch.randint(0, VOCAB_SIZE, (3, 5))
    ours = generate(network, prompt, 20, temperature=0)
    assert ours.tolist() == greedy_by_recomputing(network, prompt, 20).tolist()


def test_the_prefix_is_read_once(network):
    widths = []
    network.register_forward_pre_hook(lambda _, args: widths.append(args[0].size(1)))
    generate(network, torch.zeros(2, 7, dtype=torch.long), 4)
    assert widths == [7, 1, 1, 1]


class Bigram(nn.Module):
    """A user's own network, which keeps no state and knows nothing of targets."""

    context_length = 3

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)
        self.widths = []

    def forward(self, tokens, state=None, targets=None):
        self.widths.append(tokens.size(1))
        return self.table(tokens), None


def test_a_network_without_state_is_run_over_its_context():
    network, prompt = Bigram(), torch.zeros(2, 2, dtype=torch.long)
    assert generate(network, prompt, 4, temperature=0).shape == (2, 6)
    assert network.widths == [2, 3, 3, 3]


def test_seeds_repeat_and_differ_and_leave_the_global_state_alone(network):
    prompt = torch.zeros(1, 3, dtype=torch.long)
    before = torch.get_rng_state()
    one, again = generate(network, prompt, 30, seed=1), generate(network, prompt, 30, seed=1)
    other, free = generate(network, prompt, 30, seed=2), generate(network, prompt, 30)
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist() != free.tolist()
    assert torch.equal(before, torch.get_rng_state())


def test_the_mode_of_training_comes_back_between_tokens(network):
    network.train()
    for _ in stream(network, torch.zeros(1, 3, dtype=torch.long), 2):
        assert network.training
        assert torch.is_grad_enabled()
    assert not any(p.is_inference() for p in network.parameters())


def frequencies(logits, **settings):
    drawn = sample(logits.expand(20_000, -1), generator=torch.Generator().manual_seed(0), **settings)
    return torch.bincount(drawn, minlength=logits.size(-1)) / 20_000


def test_temperature_divides_the_logits():
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    for temperature in (0.5, 1.0, 2.0):
        expected = (logits[0] / temperature).softmax(-1)
        torch.testing.assert_close(frequencies(logits, temperature=temperature), expected, atol=0.02, rtol=0)


def test_top_p_keeps_the_token_that_crosses_the_share():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    torch.testing.assert_close(
        frequencies(logits, top_p=0.6), torch.tensor([0.625, 0.375, 0, 0]), atol=0.02, rtol=0
    )
    assert frequencies(logits, top_p=0.5).tolist() == [1, 0, 0, 0]
    assert (frequencies(logits, top_p=1.0) > 0).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(1, 15), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_only_allowed_tokens_are_drawn(values, top_k, top_p):
    logits = torch.tensor([values])
    drawn = sample(logits.expand(200, -1), top_k=top_k, top_p=top_p)
    threshold = logits[0].sort(descending=True).values[min(top_k, len(values)) - 1]
    assert (logits[0][drawn] >= threshold - 1e-4).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1: give 0 or more"),
        ({"seed": 2**70}, f"seed is {2**70}: give a whole number from 0 to {2**64 - 1}"),
        ({"seed": -1}, "seed is -1: give a whole number from 0"),
    ],
)
def test_settings_without_meaning_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        generate(Bigram(), torch.zeros(1, 1, dtype=torch.long), **{"max_new_tokens": 1, **setting})


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="the prompt has no token"):
        generate(Bigram(), torch.zeros(1, 0, dtype=torch.long), 1)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_positions_that_count_from_the_first_token_do_not_run_out(positions):
    """Within the context as if run over all; beyond it, from the latter half of the context on."""
    torch.manual_seed(0)
    network = Transformer(11, 16, 1, 2, context_length=8, positions=positions).eval()
    prompt = torch.tensor([[1, 2, 3]])
    text = generate(network, prompt, 20, temperature=0)
    assert text.shape == (1, 23)
    read = 3
    start = 0
    for i in range(3, 23):
        if read == 8:
            start, read = i - 4, 4
        assert network(text[:, start:i])[0][0, -1].argmax() == text[0, i], i
        read += 1


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "none"])
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_a_text_read_in_pieces_is_the_text_read_at_once(positions, chunks, seed):
    torch.manual_seed(seed)
    options = {"positions": positions, "num_key_value_heads": 1, "qk_norm": True}
    network = Transformer(11, 16, 2, 2, context_length=32, **options).eval()
    tokens = torch.randint(11, (3, sum(chunks)))
    state = network.reading_state(sum(chunks))
    with torch.inference_mode():
        pieces = []
        for piece in tokens.split(chunks, 1):
            logits, state = network(piece, state)
            pieces.append(logits)
        whole, _ = network(tokens)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


def test_a_longer_text_than_is_seen_is_not_kept_whole():
    network = Transformer(11, 16, 1, 2, context_length=8)
    assert network.reading_state(9) is None
    assert Transformer(11, 16, 1, 2, context_length=8, sliding_window=4).reading_state(5) is None
