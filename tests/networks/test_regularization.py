"""The dropouts and penalties of AWD-LSTM, on torch's fused kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks import GRU, LSTM, ElmanRNN
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.recurrent_layers import run_layer, states_of
from lightning_seq.networks.regularization import VariationalDropout, activation_penalty, embed


def test_variational_dropout_has_one_mask_for_all_steps():
    torch.manual_seed(0)
    x = VariationalDropout(0.5)(torch.ones(4, 9, 50))
    assert (x == x[:, :1]).all()
    assert not (x[0] == x[1]).all()
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert (VariationalDropout(0.5).eval()(torch.ones(2, 3, 5)) == 1).all()


def test_embedding_dropout_drops_a_word_wherever_it_occurs():
    torch.manual_seed(0)
    embedding = nn.Embedding(30, 6)
    tokens = torch.arange(30).repeat(2, 2)  # each word four times
    x = embed(embedding, tokens, 0.5)
    dropped = (x == 0).all(-1)
    assert (dropped[:, :30] == dropped[:, 30:]).all()
    assert (dropped[0] == dropped[1]).all()
    assert 5 < dropped[0, :30].sum() < 25
    torch.testing.assert_close(x[~dropped], 2 * embedding(tokens)[~dropped])
    assert torch.equal(embed(embedding.eval(), tokens, 0.5), embedding(tokens))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_weight_drop_drops_recurrent_connections_and_nothing_else(kind):
    torch.manual_seed(0)
    layer = kind(5, 6, 2, batch_first=True)
    x = torch.randn(3, 7, 5)
    state = [torch.randn(3, 2, 6) for _ in range(states_of(layer))]
    torch.manual_seed(1)
    output, new = run_layer(layer, x, state, weight_drop=0.5)
    torch.manual_seed(1)
    same = kind(5, 6, 2, batch_first=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for name in same._flat_weights_names:
            weight = getattr(layer, name)
            getattr(same, name).copy_(F.dropout(weight, 0.5) if name.startswith("weight_hh") else weight)
    expected, last = run_layer(same, x, state)
    torch.testing.assert_close(output, expected)
    for mine, theirs in zip(new, last, strict=True):
        torch.testing.assert_close(mine, theirs)
    output.sum().backward()  # what was dropped gets no gradient, what was kept gets one, doubled
    dropped = same.weight_hh_l0 == 0
    assert (layer.weight_hh_l0.grad[dropped] == 0).all()
    assert (layer.weight_hh_l0.grad[~dropped] != 0).any()
    assert layer.weight_ih_l0.grad.abs().sum() > 0


def test_weight_drop_is_off_in_evaluation_and_leaves_names_and_weights_alone():
    torch.manual_seed(0)
    net, plain = LSTM(11, 6, 8, 2, weight_drop=0.5), LSTM(11, 6, 8, 2)
    assert net.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(net.state_dict())
    tokens = torch.randint(0, 11, (2, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert not torch.allclose(net(tokens)[0], plain(tokens)[0])
    assert torch.equal(net.eval()(tokens)[0], plain.eval()(tokens)[0])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_weight_drop_keeps_the_fused_kernel():
    net = LSTM(11, 6, 8, 2, weight_drop=0.5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        net(torch.zeros(2, 5, dtype=torch.long))[0].sum().backward()
    kernels = {event.key for event in profile.key_averages()}
    assert {"aten::lstm", "aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"} <= kernels


def test_penalties_are_those_of_the_paper_times_the_tokens():
    torch.manual_seed(0)
    output, dropped = torch.randn(3, 7, 5), torch.randn(3, 7, 5)
    targets = torch.zeros(3, 7, dtype=torch.long)
    ar, tar = dropped.pow(2).mean(), (output[:, 1:] - output[:, :-1]).pow(2).mean()
    expected = 2.0 * ar * 21 + 1.0 * tar * 18
    torch.testing.assert_close(activation_penalty(output, dropped, targets, 2.0, 1.0), expected)
    ragged = targets.clone()
    ragged[2] = IGNORE_INDEX  # padding is not punished: two batches add up to one
    parts = [
        activation_penalty(output[i], dropped[i], targets[i], 2.0, 1.0) for i in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(activation_penalty(output, dropped, ragged, 2.0, 1.0), sum(parts))


@pytest.mark.parametrize("network", [ElmanRNN, GRU, LSTM])
def test_penalties_are_in_the_training_loss_alone(network):
    torch.manual_seed(0)
    net = network(11, 6, 8, 2, activation_penalty=2.0, temporal_activation_penalty=1.0)
    tokens, targets = torch.randint(0, 11, (2, 5)), torch.randint(0, 11, (2, 5))
    hidden = {}
    net.head.register_forward_pre_hook(lambda _, args: hidden.update(x=args[0]))
    loss, nll = net(tokens, None, targets)[0], net.eval()(tokens, None, targets)[0]
    expected = activation_penalty(hidden["x"], hidden["x"], targets, 2.0, 1.0)
    torch.testing.assert_close(loss - nll.sum(), expected)


def test_layers_of_their_own_equal_one_fused_layer():
    """Layer norm and variational dropout split the stack: the layers are wired as torch wires them."""
    torch.manual_seed(0)
    fused, split = LSTM(11, 6, 8, 3), LSTM(11, 6, 8, 3, variational_dropout=True, hidden_dropout=0.5).eval()
    assert (len(fused.layers), len(split.layers)) == (1, 3)
    renamed = {}
    for name, value in fused.state_dict().items():
        if name.startswith("layers.0."):
            layer = name.rpartition("_l")[2]
            name = f"layers.{layer}.{name.removeprefix('layers.0.').rpartition('_l')[0]}_l0"
        renamed[name] = value
    split.load_state_dict(renamed)
    tokens = torch.randint(0, 11, (2, 5))
    logits, state = fused(tokens)
    mine, states = split(tokens)
    torch.testing.assert_close(mine, logits)
    torch.testing.assert_close(torch.cat(states[::2], 1), state[0])
    torch.testing.assert_close(torch.cat(states[1::2], 1), state[1])


def test_a_learnt_initial_state_learns_and_starts_lanes_anew():
    torch.manual_seed(0)
    net = GRU(11, 6, 8, 2, learn_initial_state=True)
    with torch.no_grad():
        net.learnt_state[0].normal_()
    assert net.learnt_state[0].dim() == 1  # no matrix, which would decay
    tokens = torch.randint(0, 11, (3, 5))
    assert torch.equal(net(tokens)[0], net(tokens, net.initial_state(3))[0])
    assert not torch.allclose(net(tokens)[0], net(tokens, (torch.zeros(3, 2, 8),))[0])
    net(tokens, None, tokens)[0].backward()
    assert net.learnt_state[0].grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name",
    ["dropout", "input_dropout", "hidden_dropout", "output_dropout", "embedding_dropout", "weight_drop"],
)
def test_what_is_no_probability_is_refused_by_name(name):
    with pytest.raises(InputError, match=rf"^{name} is 1\.0, and a probability in \[0, 1\) is expected"):
        LSTM(11, 6, 8, 2, **{name: 1.0})


@pytest.mark.parametrize(
    "name", ["activation_penalty", "temporal_activation_penalty", "hidden_size", "num_layers"]
)
def test_sizes_and_factors_below_nothing_are_refused_by_name(name):
    with pytest.raises(InputError, match=rf"^{name} is -1: give [01] or more"):
        LSTM(11, 6, **{name: -1})


def test_weights_start_within_a_range_and_norms_as_norms_do():
    net = LSTM(11, 6, 8, 2, init_range=0.05, forget_gate_bias=0.0, layer_norm=True, tie_weights=True)
    for part in (net.embedding, net.layers, net.projection, net.head):
        assert all(p.abs().max() <= 0.05 for p in part.parameters())
    assert net.layers[0].weight_hh_l0.abs().max() > 0.04
    assert all((norm.weight == 1).all() for norm in net.norms)
    with pytest.raises(InputError, match="init_range is -1: give 0 or more"):
        LSTM(11, init_range=-1)
