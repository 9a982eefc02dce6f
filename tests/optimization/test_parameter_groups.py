"""Which parameters decay."""

import pytest
from torch import nn

from lightning_seq.optimization import parameter_groups


def test_matrices_decay_and_gains_and_biases_do_not():
    module = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Conv1d(4, 2, 3, bias=False))
    decayed, free = parameter_groups(module, 0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 3), (2, 4, 3)]
    assert [p.shape for p in free["params"]] == [(4,), (4,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_tied_parameter_is_given_once_and_a_frozen_one_not_at_all():
    module = nn.ModuleList([nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(2, 2, bias=False)])
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    assert [p.shape for group in parameter_groups(module, 0.1) for p in group["params"]] == [(5, 3)]


@pytest.mark.parametrize(
    ("module", "decay"), [(nn.Linear(2, 2, bias=False), 0.1), (nn.RMSNorm(2), 0.0), (nn.Identity(), None)]
)
def test_no_group_is_empty(module, decay):
    groups = parameter_groups(module, 0.1)
    assert [group["weight_decay"] for group in groups] == ([] if decay is None else [decay])
