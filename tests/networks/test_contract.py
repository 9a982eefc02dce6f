"""The four demands of sequence modelling, which every network must meet."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.networks.base import IGNORE_INDEX, detach, evaluating, gather_lanes, move, reset_lanes
from tests.networks.families import FAMILIES, VOCAB_SIZE

lengths = st.integers(1, 40)


@pytest.fixture(params=FAMILIES, scope="module")
def network(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


def tokens_of(seed, batch, time):
    return torch.randint(0, VOCAB_SIZE, (batch, time), generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), batch=st.integers(1, 4), time=lengths)
@settings(max_examples=15, deadline=None)
def test_any_length(network, seed, batch, time):
    logits, _ = network(tokens_of(seed, batch, time))
    assert logits.shape == (batch, time, VOCAB_SIZE)
    assert logits.isfinite().all()


@given(seed=st.integers(0, 10**6), time=st.integers(2, 40), data=st.data())
@settings(max_examples=15, deadline=None)
def test_causal(network, seed, time, data):
    changed = data.draw(st.integers(0, time - 1))
    tokens = tokens_of(seed, 2, time)
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % VOCAB_SIZE
    before, after = network(tokens)[0], network(other)[0]
    torch.testing.assert_close(before[:, :changed], after[:, :changed])
    assert not torch.allclose(before[:, changed], after[:, changed])


def test_sensitive_to_order(network):
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    assert not torch.allclose(network(one)[0][:, -1], network(other)[0][:, -1], atol=1e-6)


def test_same_parameters_at_every_step(network):
    """One step applied again and again, from the state it left, is the network."""
    tokens = tokens_of(0, 2, 12)
    state, steps = network.initial_state(2, 64), []
    for time in range(12):
        logits, state = network(tokens[:, time : time + 1], state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), network(tokens)[0], atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 10**6), time=st.integers(2, 40), data=st.data())
@settings(max_examples=15, deadline=None)
def test_two_chunks_equal_one(network, seed, time, data):
    cut = data.draw(st.integers(1, time - 1))
    tokens = tokens_of(seed, 3, time)
    first, state = network(tokens[:, :cut], network.initial_state(3, 64))
    second, _ = network(tokens[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), network(tokens)[0], atol=1e-5, rtol=1e-5)


def test_targets_give_the_negative_log_likelihood_of_the_logits(network):
    tokens, targets = tokens_of(0, 3, 9), tokens_of(1, 3, 9)
    targets[0, 4:] = IGNORE_INDEX
    nll, _ = network(tokens, None, targets)
    logits, _ = network(tokens)
    expected = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
    torch.testing.assert_close(nll, expected)
    assert (nll[0, 4:] == 0).all()


def test_one_lane_is_reset_and_the_others_go_on(network):
    tokens, more = tokens_of(0, 3, 8), tokens_of(1, 3, 8)
    _, state = network(tokens, network.initial_state(3, 64))
    keep = torch.tensor([True, False, True])
    logits, _ = network(more, reset_lanes(state, keep, network.initial_state(3, 64)))
    whole = network(torch.cat([tokens, more], 1))[0][:, 8:]
    torch.testing.assert_close(logits[keep], whole[keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[~keep], network(more)[0][~keep], atol=1e-5, rtol=1e-5)


def test_lanes_can_be_gathered_and_moved(network):
    tokens, more = tokens_of(0, 3, 8), tokens_of(1, 3, 1)
    _, state = network(tokens, network.initial_state(3, 64))
    order = torch.tensor([2, 0])
    logits, _ = network(more[order], move(gather_lanes(state, order), "cpu"))
    torch.testing.assert_close(logits, network(more, state)[0][order], atol=1e-5, rtol=1e-5)


def test_gradients_end_at_a_detached_state(network):
    tokens = tokens_of(0, 2, 6)
    _, state = network(tokens, network.initial_state(2, 64))
    nll, _ = network(tokens, detach(state), tokens)
    with_cut = torch.autograd.grad(nll.sum(), network.embedding.weight)[0]
    _, state = network(tokens, network.initial_state(2, 64))
    nll, _ = network(tokens, state, tokens)
    assert not torch.allclose(with_cut, torch.autograd.grad(nll.sum(), network.embedding.weight)[0])


def test_every_parameter_learns(network):
    tokens = tokens_of(0, 4, 12)
    network.zero_grad()
    network(tokens[:, :-1], None, tokens[:, 1:])[0].mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    network.zero_grad()


def test_evaluating_gives_every_module_its_own_mode_back(network):
    network.train()
    network.embedding.eval()
    modes = [m.training for m in network.modules()]
    with evaluating(network):
        assert not any(m.training for m in network.modules())
        assert torch.is_inference_mode_enabled()
    assert [m.training for m in network.modules()] == modes
    network.eval()
