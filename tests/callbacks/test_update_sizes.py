import math

import pytest
import torch
from torch import nn

from lightning_seq.callbacks.gradients.update_sizes import SAMPLED, UpdateSizes


def ratios(parameters, move):
    sizes = UpdateSizes(parameters)
    before = [p.detach().double().clone() for p in parameters]
    with torch.no_grad():
        move()
    found = [math.sqrt(change / size) if size else None for change, size in sizes.squares().tolist()]
    expected = [
        float((p.detach().double() - b).norm() / b.norm()) if float(b.norm()) else None
        for p, b in zip(parameters, before, strict=True)
    ]
    return found, expected


def parameter(*shape, dtype=torch.float32, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (SAMPLED,), (32, 32), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_small_parameters_are_measured_exactly(shape, dtype):
    each = parameter(*shape, dtype=dtype)
    found, expected = ratios([each], lambda: each.mul_(1.0625))
    assert found == pytest.approx(expected, rel=1e-5 if dtype is not torch.bfloat16 else 1e-3)
    assert found[0] == pytest.approx(0.0625, rel=0.1)


@pytest.mark.parametrize("shape", [(300, 301), (1024, 64), (512, 512), (2048, 48), (100_003,), (33, 7, 500)])
def test_large_parameters_are_sampled_within_a_few_per_cent(shape):
    each = parameter(*shape)
    torch.manual_seed(1)
    move = 0.01 * torch.randn(shape)
    found, expected = ratios([each], lambda: each.add_(move))
    assert found == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("shape", [(512, 512), (1024, 768), (1000, 1000)])
def test_columns_that_move_differently_are_all_in_the_sample(shape):
    each = parameter(*shape)
    move = 0.1 * torch.randn(shape) * torch.linspace(0, 2, shape[1]) ** 2
    found, expected = ratios([each], lambda: each.add_(move))
    assert found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("rows", [50, 500])
def test_rows_that_alone_move_are_in_the_sample(rows):
    """An embedding's: those of the words that a batch holds."""
    each = parameter(10_000, 64)
    which = torch.randperm(10_000, generator=torch.Generator().manual_seed(2))[:rows]
    found, expected = ratios([each], lambda: each[which].add_(0))
    assert found == [0.0]
    move = torch.zeros(10_000, 64)
    move[which] = torch.randn(rows, 64)
    found, expected = ratios([each], lambda: each.add_(move))
    assert found == pytest.approx(expected, rel=0.25)  # the fewer move, the rougher


def test_weights_that_are_zero_and_parameters_without_elements_do_no_harm():
    zeros, none = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(0, 3))
    sizes = UpdateSizes([zeros, none])
    with torch.no_grad():
        zeros.add_(1)
    assert sizes.squares().tolist() == [[4.0, 0.0], [0.0, 0.0]]


def test_a_transposed_weight_is_measured():
    each = nn.Parameter(parameter(200, 300).detach().t())
    found, expected = ratios([each], lambda: each.mul_(0.9))
    assert found == pytest.approx(expected, rel=1e-4)


def test_plain_parameters_are_the_same_on_every_rank():
    sizes = UpdateSizes([parameter(3), parameter(4, 5)])
    assert not sizes.sharded
    assert sizes.weights(4) == [0.25, 0.25]
