"""Output heads: logits and losses of one distribution, and arguments that contradict one another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks import LSTM, Transformer
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.heads import AdaptiveHead, LinearHead, build_head


def test_an_adaptive_head_is_a_distribution_whose_losses_agree_with_its_logits():
    torch.manual_seed(0)
    head = AdaptiveHead(32, 50, [10, 25])
    hidden, targets = torch.randn(3, 7, 32), torch.randint(0, 50, (3, 7))
    targets[0, 2:] = IGNORE_INDEX
    logits = head(hidden)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 7))
    expected = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(head.eval()(hidden, targets), expected)
    torch.testing.assert_close(head.train()(hidden, targets), expected.sum())


def test_an_adaptive_head_works_under_autocast_and_has_fewer_weights():
    torch.manual_seed(0)
    head = AdaptiveHead(64, 5000, [500, 2000])
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(torch.randn(2, 5, 64).bfloat16(), torch.randint(0, 5000, (2, 5)))
    assert loss.dtype == torch.float32
    loss.backward()
    assert sum(p.numel() for p in head.parameters()) < 0.4 * 64 * 5000


@pytest.mark.parametrize("cutoffs", [[], [0, 5], [5, 5], [9, 5], [5, 50]])
def test_cutoffs_that_cut_nothing_are_refused(cutoffs):
    with pytest.raises(
        InputError, match=r"adaptive_cutoffs are \[.*give ascending ids between 0 and vocab_size 50"
    ):
        AdaptiveHead(32, 50, cutoffs)


def test_clusters_without_any_width_are_refused():
    with pytest.raises(InputError, match="leaves the last cluster none of the hidden width 32: give fewer"):
        AdaptiveHead(32, 50, [5, 10, 20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0: give a share in \[0, 1\)"),
        ({"z_loss": -1e-4}, "z_loss is -0.0001: give a factor of 0 or more"),
        ({"z_loss": float("nan")}, "z_loss is nan: give a factor of 0 or more"),
        ({"adaptive_cutoffs": [4], "tie_weights": True}, "adaptive_cutoffs and tie_weights .* exclude"),
        (
            {"adaptive_cutoffs": [4], "label_smoothing": 0.1},
            "adaptive_cutoffs and label_smoothing .* exclude",
        ),
        ({"adaptive_cutoffs": [4], "z_loss": 1e-4}, "adaptive_cutoffs and z_loss .* exclude"),
    ],
)
@pytest.mark.parametrize("network", [LSTM, Transformer])
def test_contradictory_options_are_refused_by_every_family(network, arguments, message):
    with pytest.raises(InputError, match=message):
        network(11, **{"tie_weights": False, **arguments})


def test_label_smoothing_and_z_loss_are_for_training_alone():
    torch.manual_seed(0)
    head, hidden, targets = LinearHead(8, 11, label_smoothing=0.2, z_loss=0.1), torch.randn(2, 5, 8), None
    targets = torch.randint(0, 11, (2, 5))
    logits = head(hidden)
    pure = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(head.eval()(hidden, targets), pure)
    smoothed = F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum", label_smoothing=0.2)
    z = 0.1 * logits.logsumexp(-1).square().sum()
    torch.testing.assert_close(head.train()(hidden, targets), smoothed + z)


def test_a_tied_head_may_have_a_bias():
    embedding = nn.Embedding(11, 8)
    head = build_head(8, 11, embedding, bias=True)
    assert head.linear.weight is embedding.weight
    assert (head.linear.bias == 0).all()
    assert build_head(8, 11, embedding).linear.bias is None


def test_every_cluster_of_an_adaptive_head_gets_a_gradient_even_without_a_target():
    """DDP waits for the gradient of each parameter."""
    head = AdaptiveHead(32, 50, [10, 25])
    head(torch.randn(2, 3, 32), torch.zeros(2, 3, dtype=torch.long)).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_tied_weights_of_two_widths_are_refused():
    with pytest.raises(
        InputError, match="embedding_dim is 6 and the hidden width 8, and tied weights need one"
    ):
        LinearHead(8, 11, nn.Embedding(11, 6))
