import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_seq.callbacks.gradients.groups import check_group_by, group_names, layer_of, sums_by_group
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("network.blocks.3.attention.qkv.weight", "network.blocks.3"),
        ("network.blocks.13.norm.bias", "network.blocks.13"),
        ("lstm.weight_hh_l1", "lstm.l1"),
        ("lstm.bias_ih_l0_reverse", "lstm.l0"),
        ("lstm.weight_hr_l2", "lstm.l2"),
        ("encoder.layers.2.rnn.weight_ih_l0", "encoder.layers.2.rnn.l0"),
        ("head.weight", "head"),
        ("encoder.layers.0.self_attn.in_proj_weight", "encoder.layers.0"),
        ("towers.0.blocks.1.weight", "towers.0"),
        ("body.0.weight", "body.0"),
        ("position", "position"),
        ("embedding.weight_l", "embedding"),
    ],
)
def test_layers_are_named_by_their_parameters(name, layer):
    assert layer_of(name) == layer


def groups(module, group_by="layer"):
    return list(dict.fromkeys(group_names(module, group_by).values()))


def test_layers_of_torchs_modules():
    assert groups(nn.ModuleDict({"rnn": nn.LSTM(2, 2, 2, bidirectional=True, proj_size=1)})) == [
        "rnn.l0",
        "rnn.l1",
    ]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 2, enable_nested_tensor=False)
    assert groups(nn.ModuleDict({"encoder": encoder})) == ["encoder.layers.0", "encoder.layers.1"]


def test_layers_of_our_models_are_few_and_tell_what_they_are():
    lstm = groups(LSTMLanguageModel(7, embedding_dim=4, hidden_size=4, num_layers=3))
    transformer = groups(
        TransformerLanguageModel(7, embedding_dim=4, num_layers=3, num_heads=2, context_length=4)
    )
    for found in (lstm, transformer):
        assert 4 <= len(found) <= 7
        assert len([name for name in found if name[-1] in "012"]) == 3


def test_names_are_those_without_wrappers():
    def wrapped(wrap):
        return nn.ModuleDict(
            {"net": nn.Sequential(nn.Embedding(3, 2), wrap(nn.Linear(2, 2))), "module": nn.Linear(2, 1)}
        )

    plain = list(group_names(wrapped(lambda part: part), "parameter").values())
    assert plain[1:3] == ["net.1.weight", "net.1.bias"]
    assert plain[3] == "module.weight"  # a name of the user's own
    for wrap in (
        torch.compile,
        checkpoint_wrapper,
        nn.DataParallel,
        lambda x: torch.compile(checkpoint_wrapper(x)),
    ):
        assert list(group_names(wrapped(wrap), "parameter").values()) == plain
    assert groups(nn.ModuleDict({"net": torch.compile(nn.Sequential(nn.Linear(2, 2)))})) == ["net.0"]


def test_every_parameter_is_in_one_group():
    shared = nn.Linear(2, 2)
    module = nn.ModuleDict({"a": shared, "b": nn.Linear(2, 2), "c": shared})
    names = group_names(module, "parameter")
    assert names == {id(p): n for n, p in module.named_parameters()}
    assert sorted(names.values()) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert groups(module, lambda name: name[-4:]) == ["ight", "bias"]
    assert group_names(module, None) == {}


def test_sums():
    assert sums_by_group(["a", "b", "a"], [1.0, 2.0, 4.0]) == {"a": 5.0, "b": 2.0}
    with pytest.raises(ValueError, match="shorter"):
        sums_by_group(["a", "b"], [1.0])


def test_unknown_groupings_are_refused():
    for known in ("layer", "parameter", None, str):
        check_group_by(known)
    with pytest.raises(InputError, match=r"got group_by='layers'.*'layer'.*expected 'layer', 'parameter'"):
        check_group_by("layers")
