"""Dynamic evaluation equals the rule written out, and leaves the network as it is."""

import copy

import pytest
import torch

from lightning_seq.errors import InputError
from lightning_seq.evaluation import (
    Blocks,
    DynamicEvaluation,
    MeanSquaredGradients,
    Stream,
    mean_squared_gradients,
    score,
)
from lightning_seq.networks import LSTM
from tests.evaluation.test_scoring import NETWORKS, STATEFUL, make, text
from tests.networks.families import VOCAB_SIZE


def chunk_loss(network, tokens, start, chunk, state):
    logits, state = network(tokens[None, start:-1][:, :chunk], state)
    targets = tokens[start + 1 :][:chunk]
    losses = torch.nn.functional.cross_entropy(logits[0], targets, reduction="none")
    return losses, torch.utils._pytree.tree_map(lambda x: x.detach(), state)


def naive(network, tokens, chunk, settings):
    learner = copy.deepcopy(network).eval()
    trained = [p.detach().clone() for p in learner.parameters()]
    roots = [s.sqrt() for s in settings.squares.of_parameters]
    mean = torch.cat([r.flatten() for r in roots]).mean()
    state, losses = learner.initial_state(1, chunk), []
    for start in range(0, len(tokens) - 1, chunk):
        learner.zero_grad()
        found, state = chunk_loss(learner, tokens, start, chunk, state)
        losses += found.tolist()
        found.mean().backward()
        for p, p0, root in zip(learner.parameters(), trained, roots, strict=True):
            pull = settings.decay * root / mean
            pull[pull > 1] = 1
            gradient = 0 if p.grad is None else p.grad  # a learnt initial state is used once
            p.data += pull * (p0 - p.data) - settings.learning_rate * gradient / (root + settings.epsilon)
    return torch.tensor(losses, dtype=torch.float64)


def squares_of(network, length=200, lanes=4, chunk=7):
    return mean_squared_gradients(network, text(length, seed=2), Stream(chunk, lanes))


@pytest.mark.parametrize("name", STATEFUL)
def test_equals_the_rule_written_out(name):
    network, tokens = make(name), text(40)
    settings = DynamicEvaluation(1e-3, 0.5, squares_of(network), epsilon=1e-4)
    found = score(network, tokens, Stream(7), method=settings)
    torch.testing.assert_close(found, naive(network, tokens, 7, settings), atol=1e-4, rtol=1e-4)
    assert (found[7:] - score(network, tokens, Stream(7))[7:]).abs().max() > 1e-3


def test_squares_are_means_over_chunks():
    network, tokens = make("lstm"), text(30)
    expected, chunks, state = [torch.zeros_like(p) for p in network.parameters()], 0, network.initial_state(1)
    for start in range(0, 29, 7):
        network.zero_grad()
        losses, state = chunk_loss(network, tokens, start, 7, state)
        losses.mean().backward()
        expected = [e + p.grad**2 for e, p in zip(expected, network.parameters(), strict=True)]
        chunks += 1
    seen = []
    found = mean_squared_gradients(network, tokens, Stream(7), seen.append)
    assert (found.tokens, found.lanes, sum(seen)) == (30, 1, 29)
    for square, total in zip(found.of_parameters, expected, strict=True):
        torch.testing.assert_close(square, total / chunks, atol=1e-7, rtol=1e-4)


def test_the_network_is_untouched_to_the_bit():
    network = LSTM(VOCAB_SIZE, 12, 16, dropout=0.5).train()
    network.embedding.weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    settings = DynamicEvaluation(1e-2, 0.1, squares_of(network))
    one, again = (score(network, text(40), Stream(7), method=settings) for _ in range(2))
    assert one.tolist() == again.tolist()  # it begins from the trained weights, and without dropout
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not network.embedding.weight.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_no_target_is_learnt_before_it_is_scored():
    network, tokens = make("lstm"), text(15)
    settings = DynamicEvaluation(1e-2, 0.0, squares_of(network))
    first = score(network, tokens, Stream(7), method=settings)[:7]
    torch.testing.assert_close(first, score(network, tokens, Stream(7))[:7], atol=1e-6, rtol=0)


def test_a_text_that_repeats_itself_is_learnt():
    network, tokens = make("lstm"), text(20).repeat(20)
    settings = DynamicEvaluation(1e-2, 0.001, squares_of(network))
    learnt = score(network, tokens, Stream(20), method=settings)
    assert learnt.mean() < 0.9 * score(network, tokens, Stream(20)).mean()


def test_what_does_not_fit_is_refused():
    settings = DynamicEvaluation(1e-3, 0.0, squares_of(NETWORKS["lstm"]))
    with pytest.raises(InputError, match='goes along with a text, and "blocks of 4" does not: take "stream"'):
        score(NETWORKS["lstm"], text(9), Blocks(4), method=settings)
    with pytest.raises(InputError, match="squares are another network's"):
        score(make("gru"), text(9), Stream(4), method=settings)
    nothing = MeanSquaredGradients([], 0, 0)
    for values, message in (
        ((0.0, 0.0, nothing), "learning_rate is 0.0"),
        ((1.0, 2.0, nothing), "decay is 2.0"),
        ((1.0, 0.0, nothing, 0.0), "epsilon is 0.0"),
    ):
        with pytest.raises(InputError, match=message):
            DynamicEvaluation(*values)
