"""Groups and schedules."""

import math

import pytest
import torch
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.optimization import adamw, learning_rate_factor, learning_rate_schedule, parameter_groups


def test_matrices_decay_and_gains_and_biases_do_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4))
    decayed, free = parameter_groups(module, 0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert len(free["params"]) == 2
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_tied_and_frozen_parameters_are_given_once_and_not_at_all():
    module = nn.ModuleList([nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(2, 2, bias=False)])
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    optimizer = adamw(module, 1e-3, 0.1, (0.9, 0.95), fused=False)
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [(5, 3)]


def test_cosine_rises_falls_and_stays_at_its_end():
    factors = [learning_rate_factor(step, "cosine", 10, 110, 0.1) for step in range(130)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factors[110:] == pytest.approx([0.1] * 20)


def test_linear_and_constant():
    assert learning_rate_factor(60, "linear", 10, 110, 0.0) == pytest.approx(0.5)
    assert learning_rate_factor(10**6, "constant", 10, -1, 0.0) == 1.0


def test_a_fall_without_an_end_is_refused():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    with pytest.raises(
        InputError, match=r"schedule 'cosine' falls until the last step, and trainer\.max_steps"
    ):
        learning_rate_schedule(optimizer, "cosine", 0, -1, 0.1)
