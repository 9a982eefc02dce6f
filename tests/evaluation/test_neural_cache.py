"""The cache equals a loop over tokens, whatever the chunks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation import Blocks, NeuralCache, Stream, score
from tests.evaluation.test_scoring import NETWORKS, STATEFUL, Bigram, make, text


def naive(network, tokens, cache, chunk):
    """Equations of Grave et al. 2017, a token at a time, in fp64; hidden states come from the same chunks."""
    hidden, logits, state = [], [], network.initial_state(1, chunk)
    hook = network.head.register_forward_pre_hook(lambda _, args: hidden.append(args[0][0]))
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, chunk):
            output, state = network(tokens[None, start:-1][:, :chunk], state)
            logits.append(output[0])
    hook.remove()
    hidden, probabilities = torch.cat(hidden).double(), torch.cat(logits).double().softmax(-1)
    losses = []
    for t in range(len(tokens) - 1):
        target, weights = tokens[t + 1], {}
        for i in range(max(0, t - cache.window), t):
            word = int(tokens[i + 1])
            weights[word] = weights.get(word, 0) + math.exp(cache.theta * float(hidden[t] @ hidden[i]))
        p = float(probabilities[t, target])
        if weights:
            p = (1 - cache.share) * p + cache.share * weights.get(int(target), 0) / sum(weights.values())
        losses.append(-math.log(p))
    return torch.tensor(losses, dtype=torch.float64)


@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 40), st.floats(0, 1.5), st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_equals_a_loop_over_tokens(length, chunk, window, theta, share):
    network, cache, tokens = NETWORKS["lstm"], NeuralCache(window, theta, share), text(length)
    found = score(network, tokens, Stream(chunk), method=cache)
    torch.testing.assert_close(found, naive(network, tokens, cache, chunk), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", STATEFUL)
def test_every_family(name):
    network, cache, tokens = make(name), NeuralCache(9, 0.3, 0.2), text(40)
    found = score(network, tokens, Stream(7), method=cache)
    torch.testing.assert_close(found, naive(network, tokens, cache, 7), atol=1e-5, rtol=1e-6)
    assert not network.head._forward_pre_hooks


def test_lanes_have_caches_of_their_own():
    network, cache, tokens = NETWORKS["lstm"], NeuralCache(9, 0.3, 0.2), text(42)
    found = score(network, tokens, Stream(6, 2), method=cache)
    apart = [score(network, part, Stream(6), method=cache) for part in (tokens[:21], tokens[20:])]
    torch.testing.assert_close(found, torch.cat(apart), atol=1e-6, rtol=0)


def test_a_share_of_nothing_changes_nothing():
    network, tokens = NETWORKS["lstm"], text(40)
    found = score(network, tokens, Stream(7), method=NeuralCache(9, 1.0, 0.0))
    torch.testing.assert_close(found, score(network, tokens, Stream(7)), atol=1e-6, rtol=0)


def test_a_text_that_repeats_itself_is_predicted_better():
    network, tokens = NETWORKS["transformer"], text(20).repeat(10)  # whose states are all of one length
    cached = score(network, tokens, Stream(20), method=NeuralCache(50, 1.0, 0.3))
    assert cached.mean() < 0.8 * score(network, tokens, Stream(20)).mean()


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = make("lstm")
        self.head = nn.Identity()
        self.initial_state = self.network.initial_state

    def forward(self, tokens, state=None, targets=None):
        return self.network(tokens, state, targets)


def test_what_does_not_fit_is_refused():
    cache = NeuralCache(9, 1.0, 0.1)
    with pytest.raises(
        InputError, match=r'neural cache, .* goes along with a text, and "blocks of 4" does not'
    ):
        score(NETWORKS["lstm"], text(9), Blocks(4), method=cache)
    bare = Bigram()
    bare.initial_state = lambda batch_size, length=None: (torch.zeros(batch_size, 1),)
    with pytest.raises(InputError, match="Bigram has no module `head`"):
        score(bare, text(9), Stream(4), method=cache)
    with pytest.raises(InputError, match=r"TwoHeads does not call head\(hidden, targets\) once a call"):
        score(TwoHeads(), text(9), Stream(4), method=cache)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 1.0, 0.1), "window is 0"),
        ((1, -1.0, 0.1), "theta is -1"),
        ((1, math.inf, 0.1), "theta is inf"),
        ((1, 1.0, 1.0), "lambda is 1.0"),
        ((1, 1.0, -0.1), "lambda is -0.1"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        NeuralCache(*settings)
