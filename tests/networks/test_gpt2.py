"""GPT-2's exact architecture, reached by arguments: the logits of transformers' own model."""

import pytest
import torch

from lightning_seq.networks import Transformer

transformers = pytest.importorskip("transformers")


def theirs(**sizes):
    config = transformers.GPT2Config(
        vocab_size=61, n_positions=32, n_embd=48, n_layer=3, n_head=4, attn_pdrop=0.0, **sizes
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains that would show if they were lost
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ours_from(model):
    """Copies GPT-2's weights: its Conv1D is a linear layer with the matrix transposed."""
    config = model.config
    net = Transformer(
        config.vocab_size,
        config.n_embd,
        config.n_layer,
        config.n_head,
        config.n_positions,
        norm="layer",
        activation="gelu_tanh",
        positions="learned",
        bias=True,
        initialization="gpt2",
    )
    weights = model.transformer.state_dict()
    state = {
        "embedding.weight": weights["wte.weight"],
        "head.linear.weight": weights["wte.weight"],
        "position_embedding.weight": weights["wpe.weight"],
        "norm.weight": weights["ln_f.weight"],
        "norm.bias": weights["ln_f.bias"],
    }
    for i in range(config.n_layer):
        of, to = f"h.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            state[f"{to}attention_norm.{kind}"] = weights[f"{of}ln_1.{kind}"]
            state[f"{to}feedforward_norm.{kind}"] = weights[f"{of}ln_2.{kind}"]
            for name, piece in zip(
                ("query", "key", "value"), weights[f"{of}attn.c_attn.{kind}"].chunk(3, -1), strict=True
            ):
                state[f"{to}attention.{name}.{kind}"] = piece.T
            state[f"{to}attention.out.{kind}"] = weights[f"{of}attn.c_proj.{kind}"].T
            state[f"{to}feedforward.up.{kind}"] = weights[f"{of}mlp.c_fc.{kind}"].T
            state[f"{to}feedforward.down.{kind}"] = weights[f"{of}mlp.c_proj.{kind}"].T
    net.load_state_dict(state)  # strict: every parameter of theirs, and none of ours left over
    return net.eval()


@pytest.mark.filterwarnings("ignore:.*x.T.*on tensors of dimension other than 2:UserWarning")
def test_the_logits_are_those_of_transformers_gpt2():
    model = theirs()
    net = ours_from(model)
    tokens = torch.randint(0, 61, (3, 32))
    torch.testing.assert_close(net(tokens)[0], model(tokens).logits, atol=1e-4, rtol=1e-4)


def test_the_published_number_of_parameters():
    with torch.device("meta"):
        net = Transformer(
            50_257, 768, 12, 12, 1024, norm="layer", activation="gelu_tanh", positions="learned", bias=True
        )
    assert sum(p.numel() for p in net.parameters()) == 124_439_808
