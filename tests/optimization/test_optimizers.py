"""Optimizers by name: what they are, refuse, and keep at a resume."""

import math

import pytest
import torch
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.optimization import (
    NTASGD,
    LearningRateSchedule,
    MuonAdamW,
    build_optimizer,
    set_hyperparameters,
)

NAMES = [
    "adamw",
    "sgd",
    "nt_asgd",
    pytest.param(
        "muon", marks=pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
    ),
]
X, Y = torch.randn(2, 20, 8, 4, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))


def train(net, optimizer, steps, schedule=None):
    for step in steps:
        optimizer.zero_grad()
        device = net[0].weight.device
        nn.functional.mse_loss(net(X[step].to(device)), Y[step].to(device)).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def assert_same(net, other):
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        (
            "adamw",
            {"betas": (0.8, 0.9)},
            lambda groups, **_: torch.optim.AdamW(groups, betas=(0.8, 0.9), **_),
        ),
        ("sgd", {}, torch.optim.SGD),
        ("sgd", {"momentum": 0.7}, lambda groups, **_: torch.optim.SGD(groups, momentum=0.7, **_)),
    ],
)
def test_adamw_and_sgd_are_torchs(name, options, plain, fused):
    net, reference = network(), network()
    optimizer = build_optimizer(net, name, 0.05, 0.1, fused=fused, **options)
    weights, biases = reference[0::2], [reference[0].bias, reference[2].bias]
    groups = [{"params": [x.weight for x in weights], "weight_decay": 0.1}]
    groups.append({"params": biases, "weight_decay": 0.0})
    train(net, optimizer, range(10))
    train(reference, plain(groups, lr=0.05, fused=fused), range(10))
    assert_same(net, reference)
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == fused


@pytest.mark.parametrize("name", ["nt_asgd", NAMES[-1]])
def test_those_without_a_fused_form_are_unscaled_by_others(name):
    optimizer = build_optimizer(network(), name, 0.1, fused=True)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


def test_nt_asgd_and_muon_get_their_options():
    averaged = build_optimizer(network(), "nt_asgd", 30.0, 0.1, non_monotone_interval=1)
    assert isinstance(averaged, NTASGD)
    for loss in (1.0, 1.0, 2.0):
        averaged.validated(loss)
    assert averaged.averaging
    assert [(group["lr"], group["weight_decay"]) for group in averaged.param_groups] == [
        (30.0, 0.1),
        (30.0, 0.0),
    ]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
@pytest.mark.parametrize(("given", "momentum"), [(None, 0.95), (0.5, 0.5), (0.0, 0.0)])
def test_muon_gets_its_momentum(given, momentum):
    optimizer = build_optimizer(network(), "muon", 0.1, 0.2, (0.7, 0.8), given)
    assert isinstance(optimizer, MuonAdamW)
    hidden, vectors = optimizer.param_groups
    assert (hidden["algorithm"], hidden["momentum"], hidden["weight_decay"]) == ("muon", momentum, 0.2)
    assert (vectors["algorithm"], vectors["betas"], vectors["weight_decay"]) == ("adamw", (0.7, 0.8), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_tied_and_frozen_parameters_are_given_once_and_not_at_all(name):
    module = nn.ModuleDict(
        {"embedding": nn.Embedding(5, 3), "hidden": nn.Linear(3, 3), "out": nn.Linear(3, 5)}
    )
    module["out"].weight = module["embedding"].weight
    module["hidden"].bias.requires_grad_(False)
    optimizer = build_optimizer(module, name, 1e-3)
    shapes = sorted(p.shape for group in optimizer.param_groups for p in group["params"])
    assert shapes == [(3, 3), (5,), (5, 3)]


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "adamv"},
            r"optimizer is 'adamv' \(did you mean 'adamw'\?\); it must be one of \['adamw', 'sgd",
        ),
        *[({"learning_rate": value}, f"learning_rate is {value}: give") for value in (0.0, -1.0, math.nan)],
        *[({"weight_decay": value}, f"weight_decay is {value}: give") for value in (-0.1, math.nan)],
        ({"betas": (0.9, 1.0)}, r"betas are \(0\.9, 1\.0\): give two numbers in"),
        *[({"name": "sgd", "momentum": value}, f"momentum is {value}: give a") for value in (-0.1, 1.0)],
        *[
            (
                {"name": name, "momentum": 0.0},
                f"momentum is 0.0, and optimizer '{name}' does not use it: leave it",
            )
            for name in ("adamw", "nt_asgd")
        ],
        *[
            (
                {"name": name, "non_monotone_interval": 5},
                f"non_monotone_interval is 5, and optimizer '{name}' does not use it: .* optimizer: nt_asgd$",
            )
            for name in ("adamw", "sgd", "muon")
        ],
        ({"name": "nt_asgd", "non_monotone_interval": 0}, "non_monotone_interval is 0: give a whole number"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(InputError, match=message) as refusal:
        build_optimizer(network(), **{"name": "adamw", "learning_rate": 0.1, **options})
    assert "\n" not in str(refusal.value)


def test_a_network_without_parameters_to_train_is_refused():
    with pytest.raises(InputError, match="Sequential has no parameter to train: unfreeze one"):
        build_optimizer(network().requires_grad_(False), "sgd", 0.1)


@pytest.mark.parametrize("saved", NAMES)
@pytest.mark.parametrize("wanted", NAMES)
def test_the_state_of_another_optimizer_is_refused(saved, wanted):
    state = build_optimizer(network(), saved, 0.1).state_dict()
    optimizer = build_optimizer(network(), wanted, 0.1)
    if saved == wanted:
        optimizer.load_state_dict(state)
    else:
        message = f"was trained with optimizer '{saved}', and this is '{wanted}': take optimizer: {saved}, or"
        with pytest.raises(InputError, match=message):
            optimizer.load_state_dict(state)


def test_a_state_that_does_not_name_its_optimizer_is_adamws():
    state = torch.optim.AdamW([{"params": [p]} for p in network().parameters()]).state_dict()
    with pytest.raises(InputError, match="was trained with optimizer 'adamw', and this is 'sgd'"):
        build_optimizer(network(), "sgd", 0.1).load_state_dict(state)


# -- resume -----------------------------------------------------------------------------------------------


def resumed(name, saved_options, options, learning_rate=0.02, device="cpu"):
    """Returns a network and optimizer that go on, with ``options``, from 5 steps with others."""
    net = network().to(device)
    old = build_optimizer(net, name, 0.5, **saved_options)
    old_schedule = LearningRateSchedule(old, "linear", 2, 20)
    train(net, old, range(5), old_schedule)
    optimizer = build_optimizer(net, name, learning_rate, **options)
    schedule = LearningRateSchedule(optimizer, "linear", 2, 20)
    optimizer.load_state_dict(old.state_dict())
    schedule.load_state_dict(old_schedule.state_dict())
    given = {"weight_decay": 0.0, "betas": (0.9, 0.95), **options}
    given = {key: given.get(key) for key in ("weight_decay", "betas", "momentum")}
    set_hyperparameters(optimizer, schedule, learning_rate, **given)
    return net, optimizer, schedule


@pytest.mark.parametrize("name", NAMES)
def test_values_given_now_win_over_a_checkpoints(name):
    momentum = {"momentum": 0.3} if name in ("sgd", "muon") else {}
    options = {"weight_decay": 0.2, "betas": (0.5, 0.6), **momentum}
    _, optimizer, schedule = resumed(name, {"weight_decay": 0.7}, options)
    new = build_optimizer(network(), name, 0.02, **options)
    fresh = LearningRateSchedule(new, "linear", 2, 20)
    for _ in range(5):
        new.step()
        fresh.step()
    for group, expected in zip(optimizer.param_groups, new.param_groups, strict=True):
        drop = ("params", "validation_losses")
        assert {k: v for k, v in group.items() if k not in drop} == {
            k: v for k, v in expected.items() if k not in drop
        }
    assert schedule.get_last_lr() == fresh.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["sgd", NAMES[-1]])
def test_momentum_not_given_is_the_default_and_not_a_checkpoints(name):
    _, optimizer, _ = resumed(name, {"momentum": 0.7}, {})
    assert optimizer.param_groups[0]["momentum"] == (0.0 if name == "sgd" else 0.95)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_fused_may_change_at_a_resume(name, before, device):
    net, optimizer, _ = resumed(name, {"fused": before}, {"fused": not before}, device=device)
    assert [group["fused"] for group in optimizer.param_groups] == [not before] * 2
    same_net, same, _ = resumed(name, {"fused": before}, {"fused": before}, device=device)
    train(net, optimizer, range(5, 10))
    train(same_net, same, range(5, 10))
    for a, b in zip(net.parameters(), same_net.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_learning_rate_may_be_set_that_the_optimizer_was_not_built_with():
    optimizer = build_optimizer(network(), "sgd", 0.5)
    schedule = LearningRateSchedule(optimizer, "linear", max_steps=10, final_learning_rate_share=0.0)
    train(network(), optimizer, range(5), schedule)
    set_hyperparameters(optimizer, schedule, 8.0, 0.0, (0.9, 0.95))
    assert [group["lr"] for group in optimizer.param_groups] == [4.0, 4.0]
