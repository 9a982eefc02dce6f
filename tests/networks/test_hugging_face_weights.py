"""Weights under the names of transformers: there and back, and what has no name there."""

import pytest
import torch

from lightning_seq.errors import InputError
from lightning_seq.networks import Transformer
from lightning_seq.networks.hugging_face_weights import (
    arguments_of,
    from_hugging_face,
    shape_of,
    to_hugging_face,
)

GPT2 = {"norm": "layer", "activation": "gelu_tanh", "positions": "learned", "bias": True}
SIZES = {"vocab_size": 23, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "context_length": 12}


def network(**arguments):
    torch.manual_seed(0)
    net = Transformer(**(SIZES | arguments)).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # gains and biases that would show if they were lost
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if net.head.linear.bias is not None:
            net.head.linear.bias.zero_()
    return net


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (GPT2 | {"initialization": "gpt2"}, "gpt2"),
        (GPT2 | {"tie_weights": False, "activation": "gelu"}, "gpt2"),
        ({"initialization": "gpt2", "num_key_value_heads": 2}, "llama"),
        ({"tie_weights": False, "feedforward_dim": 20, "bias": True}, "llama"),
        ({"tie_weights": False, "norm_epsilon": 0.1}, "llama"),
    ],
)
def test_weights_return_to_the_bit(arguments, shape):
    net = network(**arguments)
    assert shape_of(net) == shape
    again = Transformer(**arguments_of(net), initialization="gpt2").eval()
    again.load_state_dict(from_hugging_face(to_hugging_face(net), shape, again))
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("arguments", [GPT2, {}])
def test_the_scale_of_a_tied_embedding_goes_into_a_matrix_of_its_own(arguments):
    net = network(**arguments)
    assert net.embedding_scale == 4.0
    again = Transformer(**(arguments_of(net) | {"tie_weights": False})).eval()
    again.load_state_dict(from_hugging_face(to_hugging_face(net), shape_of(net), again))
    tokens = torch.randint(23, (2, 12))
    torch.testing.assert_close(again(tokens)[0], net(tokens)[0], atol=1e-6, rtol=1e-6)


def test_biases_that_the_network_has_not_are_zeros_in_gpt2s_shape():
    net = network(**(GPT2 | {"bias": False, "initialization": "gpt2"}))
    again = Transformer(**(arguments_of(net) | {"bias": True})).eval()
    again.embedding_scale = 1.0
    again.load_state_dict(from_hugging_face(to_hugging_face(net), "gpt2", again))
    tokens = torch.randint(23, (2, 12))
    torch.testing.assert_close(again(tokens)[0], net(tokens)[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"qk_norm": True}, "qk_norm is True, and LlamaForCausalLM"),
        ({"sliding_window": 4}, "sliding_window is 4"),
        ({"positions": "none"}, "positions is 'none'"),
        ({"positions": "learned"}, "positions is 'learned'"),
        ({"activation": "relu_squared"}, "activation is 'relu_squared'"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"feedforward_dim": 0}, "feedforward_dim is 0"),
        ({"adaptive_cutoffs": [5, 10], "tie_weights": False}, r"adaptive_cutoffs is \[5, 10\]"),
        (GPT2 | {"positions": "sinusoidal"}, "positions is 'sinusoidal', and GPT2LMHeadModel"),
        (GPT2 | {"positions": "rotary"}, "positions is 'rotary'"),
        (GPT2 | {"activation": "swiglu"}, "activation is 'swiglu'"),
        (GPT2 | {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ({"tie_weights": False, "bias": True}, "the output layer has a bias"),
    ],
)
def test_what_neither_shape_expresses_is_refused_by_name(arguments, said):
    with pytest.raises(InputError, match=said):
        shape_of(Transformer(**(SIZES | arguments)))


def test_weights_without_a_place_are_refused():
    net = network()
    net.extra = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"weights 'extra\.weight', which LlamaForCausalLM has no place for"):
        to_hugging_face(net)
    plain = network()
    weights = to_hugging_face(plain)
    with pytest.raises(InputError, match=r"weights 'model\.other'"):
        from_hugging_face({**weights, "model.other": torch.zeros(1)}, "llama", plain)
    weights.pop("model.norm.weight")
    with pytest.raises(InputError, match=r"no weights for 'norm\.weight'"):
        from_hugging_face(weights, "llama", plain)
