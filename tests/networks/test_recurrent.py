"""What is special about the recurrent family."""

import pytest
import torch
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks import GRU, LSTM, ElmanRNN


@pytest.mark.parametrize(("network", "kind"), [(ElmanRNN, nn.RNN), (GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_equals_torchs_own_layer(network, kind):
    """Embedding, nn.RNN/GRU/LSTM with its own state layout, linear: written out once more."""
    net = network(11, 6, 8, 2)
    tokens = torch.randint(0, 11, (3, 7))
    assert type(net.layers[0]) is kind
    output, state = net.layers[0](net.embedding(tokens))
    logits, ours = net(tokens)
    torch.testing.assert_close(logits, net.head.linear(output))
    theirs = state if isinstance(state, tuple) else (state,)
    for mine, torchs in zip(ours, theirs, strict=True):
        assert mine.shape == (3, 2, 8)  # batch first, whatever torch does
        torch.testing.assert_close(mine, torchs.transpose(0, 1))


@pytest.mark.parametrize("bias", [0.0, 1.0, 3.0])
def test_forget_gates_start_at_the_given_bias(bias):
    net = LSTM(11, 6, 8, 2, forget_gate_bias=bias)
    for layer in range(2):
        both = getattr(net.layers[0], f"bias_ih_l{layer}") + getattr(net.layers[0], f"bias_hh_l{layer}")
        assert (both[8:16] == bias).all()
        assert not (both[:8] == bias).all()


def test_a_forget_gate_bias_keeps_the_gradient_through_time_alive():
    def gradient_after(steps, bias):
        torch.manual_seed(0)
        net = LSTM(11, 16, 32, forget_gate_bias=bias)
        x = torch.randn(1, steps, 16, requires_grad=True)
        output, _ = net.layers[0](x)
        return torch.autograd.grad(output[:, -1].sum(), x)[0][:, 0].norm()

    assert gradient_after(40, 3.0) > 1000 * gradient_after(40, 0.0)


def test_recurrent_matrices_start_as_told():
    for init in ("orthogonal", "identity"):
        rnn = ElmanRNN(11, 6, 8, 2, recurrent_init=init).layers[0]
        for matrix in (rnn.weight_hh_l0, rnn.weight_hh_l1):
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))
            assert torch.equal(matrix, torch.eye(8)) == (init == "identity")
        assert (rnn.bias_hh_l1 == 0).all()
    with pytest.raises(InputError, match=r"recurrent_init is 'eye'; it must be one of \['uniform', 'ortho"):
        ElmanRNN(11, 6, 8, recurrent_init="eye")


@pytest.mark.parametrize(
    ("init", "nonlinearity"), [("orthogonal", "tanh"), ("identity", "relu"), ("uniform", "tanh")]
)
def test_a_start_that_neither_shrinks_nor_stretches_keeps_the_gradient_through_time_alive(init, nonlinearity):
    torch.manual_seed(0)
    rnn = ElmanRNN(11, 16, 32, nonlinearity=nonlinearity, recurrent_init=init).layers[0]
    x = torch.randn(1, 60, 16).mul(0.01).requires_grad_()
    output, _ = rnn(x)
    gradient = torch.autograd.grad(output[:, -1].sum(), x)[0].norm(dim=2)[0]
    assert (gradient[0] > 0.05 * gradient[-1]) == (init != "uniform")


def test_tied_weights_share_one_matrix_through_a_projection():
    net = LSTM(11, 6, 8, tie_weights=True)
    assert net.head.linear.weight is net.embedding.weight
    assert isinstance(net.projection, nn.Linear)
    assert isinstance(LSTM(11, 8, 8, tie_weights=True).projection, nn.Identity)


def test_dropout_that_is_no_probability_is_refused():
    with pytest.raises(InputError, match=r"dropout is 1\.5, and a probability in \[0, 1\) is expected"):
        GRU(11, 6, 8, dropout=1.5)


@pytest.mark.parametrize("network", [ElmanRNN, GRU, LSTM])
def test_a_last_layer_without_width_is_refused(network):
    with pytest.raises(InputError, match="last_hidden_size is 0: give 1 or more"):
        network(11, 6, 8, last_hidden_size=0)
