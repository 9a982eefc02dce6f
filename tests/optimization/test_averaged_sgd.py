"""NT-ASGD against a loop written by hand, its trigger against the paper's algorithm, and its state."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.optimization import NTASGD

X, Y = torch.randn(2, 40, 8, 4, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))


def make(net, **options):
    weights, biases = (
        [p for p in net.parameters() if p.dim() > 1],
        [p for p in net.parameters() if p.dim() < 2],
    )
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "lr": 0.2}]
    return NTASGD(groups, **{"lr": 0.3, "non_monotone_interval": 1, **options})


def train(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X[step]), Y[step]).backward()
        optimizer.step()


def trigger(optimizer):
    for loss in (1.0, 1.0, 2.0):
        assert not optimizer.averaging
        optimizer.validated(loss)
    assert optimizer.averaging


def values(net):
    return [p.detach().clone() for p in net.parameters()]


def assert_same(ours, others):
    ours, others = list(ours), list(others)
    assert len(ours) == len(others) > 0
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_is_a_loop_written_by_hand():
    net, reference = network(), network()
    optimizer = make(net)
    history, means = [], None
    for step in range(30):
        if step == 10:
            trigger(optimizer)
            means, history = values(reference), [values(reference)]
        train(net, optimizer, [step])
        reference.zero_grad()
        nn.functional.mse_loss(reference(X[step]), Y[step]).backward()
        with torch.no_grad():
            for p in reference.parameters():
                matrix = p.dim() > 1
                gradient = p.grad.add(p, alpha=0.01) if matrix else p.grad
                p.add_(gradient, alpha=-0.3 if matrix else -0.2)
        if means is not None:
            history.append(values(reference))
            for mean, p in zip(means, reference.parameters(), strict=True):
                mean.lerp_(p.detach(), 1 / len(history))
    averages = optimizer.averages()
    assert_same(net.parameters(), reference.parameters())
    assert_same([averages[p] for p in net.parameters()], means)
    exact = [torch.stack(of_one).double().mean(0).float() for of_one in zip(*history, strict=True)]
    torch.testing.assert_close([averages[p] for p in net.parameters()], exact)


def test_the_mean_begins_with_the_weights_at_the_trigger():
    net = network()
    optimizer = make(net)
    train(net, optimizer, range(3))
    assert optimizer.averages() == {}
    trigger(optimizer)
    assert_same(optimizer.averages().values(), optimizer.averages().keys())


losses = st.lists(st.one_of(st.floats(0, 10), st.sampled_from([1.0, 2.0, 3.0])), max_size=15)


@settings(deadline=None, max_examples=200)
@given(losses, st.integers(1, 5))
def test_triggers_where_algorithm_1_does(losses, n):
    logs, triggered = [], None
    for t, v in enumerate(losses):
        if t > n and v > min(logs[: t - n]):
            triggered = t
            break
        logs.append(v)
    optimizer = NTASGD([nn.Parameter(torch.ones(1))], non_monotone_interval=n)
    found = None
    for t, loss in enumerate(losses):
        optimizer.validated(loss)
        if optimizer.averaging and found is None:
            found = t
    assert found == triggered


@settings(deadline=None, max_examples=100)
@given(losses, st.data())
def test_losses_that_are_no_numbers_change_nothing(losses, data):
    plain, disturbed = (NTASGD([nn.Parameter(torch.ones(1))], non_monotone_interval=2) for _ in range(2))
    for loss in losses:
        disturbed.validated(data.draw(st.sampled_from([math.nan, math.inf, -math.inf])))
        plain.validated(loss)
        disturbed.validated(loss)
        assert disturbed.averaging == plain.averaging


def test_swapping_shows_the_mean_and_undoes_itself_to_the_bit():
    net = network()
    optimizer = make(net)
    optimizer.swap()
    assert not optimizer.swapped
    trigger(optimizer)
    train(net, optimizer, range(7))
    weights, addresses = values(net), [p.data_ptr() for p in net.parameters()]
    means = [optimizer.averages()[p].clone() for p in net.parameters()]
    optimizer.swap()
    assert optimizer.swapped
    assert_same(net.parameters(), means)
    assert_same([optimizer.averages()[p] for p in net.parameters()], means)
    optimizer.swap()
    assert_same(net.parameters(), weights)
    assert_same([optimizer.averages()[p] for p in net.parameters()], means)
    assert [p.data_ptr() for p in net.parameters()] == addresses
    assert any(not torch.equal(a, b) for a, b in zip(weights, means, strict=True))


def test_does_not_train_on_the_mean():
    net = network()
    optimizer = make(net)
    trigger(optimizer)
    optimizer.swap()
    with pytest.raises(RuntimeError, match=r"swap\(\) back before training on"):
        train(net, optimizer, [0])


def resumed(net, optimizer):
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    new_net = network()
    new_optimizer = make(new_net)
    new_net.load_state_dict(weights)
    new_optimizer.load_state_dict(state)
    return new_net, new_optimizer


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("swapped", [False, True])
def test_goes_on_from_its_state_to_the_bit(stop, swapped):
    validations = [1.0, math.nan, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    def run(net, optimizer, steps):
        for step in steps:
            train(net, optimizer, [step])
            optimizer.validated(validations[step])

    whole = network()
    whole_optimizer = make(whole)
    run(whole, whole_optimizer, range(12))
    net = network()
    optimizer = make(net)
    run(net, optimizer, range(stop))
    if swapped:
        optimizer.swap()
    net, optimizer = resumed(net, optimizer)
    if swapped:
        assert optimizer.swapped == (stop >= 4)
        optimizer.swap()
    run(net, optimizer, range(stop, 12))
    assert_same(net.parameters(), whole.parameters())
    assert_same(optimizer.averages().values(), whole_optimizer.averages().values())


def test_its_interval_wins_over_the_states():
    old, new = (NTASGD([nn.Parameter(torch.ones(1))], non_monotone_interval=n) for n in (5, 1))
    for loss in (1.0, 1.0):
        old.validated(loss)
    new.load_state_dict(old.state_dict())
    new.validated(2.0)
    assert new.averaging


def test_a_copy_goes_on_by_itself():
    net = network()
    optimizer = make(net)
    trigger(optimizer)
    twin_net, twin = copy.deepcopy((net, optimizer))
    train(twin_net, twin, range(3))
    assert_same(optimizer.averages().values(), optimizer.averages().keys())
    train(net, optimizer, range(3))
    assert_same(twin.averages().values(), optimizer.averages().values())


def test_parameters_that_come_later_are_averaged_from_what_they_are():
    late = nn.Parameter(torch.ones(2))
    optimizer = make(network())
    trigger(optimizer)
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(2)
    optimizer.step()
    assert_same([late, optimizer.averages()[late]], [torch.tensor([0.7] * 2), torch.tensor([0.85] * 2)])


def test_its_closure_runs_once_with_gradients_and_its_loss_comes_back():
    net, calls = network(), []
    optimizer = make(net)

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = nn.functional.mse_loss(net(X[0]), Y[0])
        loss.backward()
        return loss

    before = values(net)
    assert optimizer.step(closure).item() > 0
    assert calls == [True]
    assert not torch.equal(before[0], net[0].weight)


@pytest.mark.parametrize("interval", [0, -3])
def test_refuses_an_interval_below_1(interval):
    with pytest.raises(InputError, match=f"non_monotone_interval is {interval}: give a whole number from 1"):
        make(network(), non_monotone_interval=interval)


def test_a_step_that_is_left_out_is_not_averaged():
    net = network()
    optimizer = make(net)
    trigger(optimizer)
    train(net, optimizer, range(3))
    before = [mean.clone() for mean in optimizer.averages().values()]
    optimizer.zero_grad()
    optimizer.step()
    assert_same(optimizer.averages().values(), before)
