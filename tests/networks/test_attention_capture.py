import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.bias import causal_lower_right

from lightning_seq.networks.attention_capture import capture_attention, head_entropy


class Calls(nn.Module):
    """Attends with whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, q, k, v, **options):
        return F.scaled_dot_product_attention(self.inner(q), k, v, **options)


def by_hand(q, k, mask=None, scale=None):
    scores = q @ k.transpose(-2, -1) * (scale or 1 / math.sqrt(q.size(-1)))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return tuple(torch.randn(3, 4, 6, 8) for _ in range(3))


LOWER = torch.ones(6, 6, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, None),
        ({"is_causal": True}, LOWER),
        ({"attn_mask": LOWER}, LOWER),
        ({"attn_mask": LOWER.expand(3, 1, 6, 6)}, LOWER),
        ({"attn_mask": torch.zeros(6, 6).masked_fill(~LOWER, -math.inf)}, LOWER),
        ({"attn_mask": torch.zeros(6, 6).masked_fill(~LOWER, torch.finfo(torch.float32).min)}, LOWER),
        ({"attn_mask": -torch.arange(6.0).expand(6, 6)}, -torch.arange(6.0).expand(6, 6)),
        ({"attn_mask": causal_lower_right(6, 6)}, LOWER),
        ({"scale": 0.7}, None),
    ],
)
def test_equals_a_softmax_by_hand(qkv, options, mask):
    module = Calls()
    with capture_attention(module, max_sequences=2) as calls:
        output = module(*qkv, **options)
    expected = by_hand(*qkv[:2], mask, options.get("scale"))
    (call,) = calls
    torch.testing.assert_close(call.probabilities, expected[:2], rtol=0, atol=1e-6)
    assert torch.equal(output, module(*qkv, **options))
    visible = LOWER.sum(-1) if mask is LOWER else torch.full((6,), 6)
    assert torch.equal(call.visible, visible.expand(2, 4, 6))


def test_grouped_queries(qkv):
    q, k, v = qkv
    with capture_attention(Calls(), max_sequences=3) as calls:
        F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
    expected = by_hand(q, k[:, :2].repeat_interleave(2, 1))
    torch.testing.assert_close(calls[0].probabilities, expected, rtol=0, atol=1e-6)


def test_queries_that_see_nothing_have_zeros(qkv):
    mask = LOWER.clone()
    mask[2] = False
    for attn_mask in (mask, torch.zeros(6, 6).masked_fill(~mask, torch.finfo(torch.float32).min)):
        with capture_attention(Calls()) as calls:
            F.scaled_dot_product_attention(*qkv, attn_mask=attn_mask)
        assert not calls[0].probabilities[:, :, 2].any()
        assert calls[0].visible[0, 0].tolist() == [1, 2, 0, 4, 5, 6]


def test_stays_fp32_under_autocast(qkv):
    half = [tensor.bfloat16() for tensor in qkv]
    with capture_attention(Calls()) as calls, torch.autocast("cpu", torch.bfloat16):
        F.scaled_dot_product_attention(*half)
    torch.testing.assert_close(calls[0].probabilities, by_hand(half[0].float(), half[1].float())[:1])


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 3, 4, 6, 8)])
def test_any_number_of_dimensions(shape):
    x = torch.randn(shape)
    with capture_attention(Calls()) as calls:
        F.scaled_dot_product_attention(x, x, x, is_causal=True)
    assert calls[0].probabilities.dim() == 4
    assert calls[0].probabilities.shape[-2:] == (6, 6)
    assert calls[0].visible.shape == calls[0].probabilities.shape[:-1]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", ["none", "causal", "padding", "per head"])
def test_equals_the_weights_of_multihead_attention(batch_first, masks):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 16)
    options = {
        "none": {},
        "causal": {"attn_mask": ~torch.ones(5, 5, dtype=torch.bool).tril()},
        "padding": {"key_padding_mask": torch.arange(5).expand(3, 5) > 3},
        "per head": {"attn_mask": torch.zeros(12, 5, 5).index_fill(2, torch.tensor([1]), -math.inf)},
    }[masks]
    inputs = x if batch_first else x.transpose(0, 1)
    _, expected = module(inputs, inputs, inputs, average_attn_weights=False, **options)
    with capture_attention(module, max_sequences=2) as calls:
        module(inputs, inputs, inputs, need_weights=False, **options)
    (call,) = calls
    torch.testing.assert_close(call.probabilities, expected[:2], rtol=0, atol=1e-6)
    seen = {"none": [5] * 5, "causal": [1, 2, 3, 4, 5], "padding": [4] * 5, "per head": [4] * 5}[masks]
    assert torch.equal(call.visible, torch.tensor(seen).expand(2, 4, 5))


@pytest.mark.parametrize("training", [True, False])
def test_sees_an_encoder_with_its_fast_path_and_names_its_layers(training):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).train(training)
    padding = torch.arange(5).expand(3, 5) > 3
    with torch.no_grad(), capture_attention(encoder) as calls:
        encoder(torch.randn(3, 5, 16), src_key_padding_mask=padding)
    assert [call.module for call in calls] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert all(call.probabilities.shape == (1, 4, 5, 5) for call in calls)


def test_reduce_replaces_the_maps(qkv):
    module = nn.Sequential(Calls())
    with capture_attention(
        module, reduce=lambda call: (call.module, call.probabilities.sum().item())
    ) as calls:
        module[0](*qkv)
    assert calls == [("0", pytest.approx(24, abs=1e-4))]


def test_leaves_nothing_behind_after_an_error(qkv):
    class Fails(nn.Module):
        def forward(self):
            raise ZeroDivisionError

    module = Fails()
    with pytest.raises(ZeroDivisionError), capture_attention(module):
        module()
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    with capture_attention(module) as calls:
        pass
    F.scaled_dot_product_attention(*qkv)
    assert calls == []


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_compiled_modules_are_seen_and_not_compiled_again(qkv, how):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = Calls()
    compiled = torch.compile(module, backend="eager")
    if how == "in place":
        module.compile(backend="eager")
        compiled = module
    graphs = torch._dynamo.utils.counters["stats"]
    before = compiled(*qkv, is_causal=True)
    count = graphs["unique_graphs"]
    assert count > 0
    with capture_attention(compiled) as calls:
        compiled(*qkv, is_causal=True)
    assert len(calls) == 1
    assert calls[0].module == ""
    assert torch.equal(compiled(*qkv, is_causal=True), before)
    assert graphs["unique_graphs"] == count


def test_entropy_of_the_extremes():
    uniform = torch.tril(torch.ones(6, 6)) / torch.arange(1, 7)[:, None]
    one_hot = torch.eye(6)
    visible = torch.arange(1, 7).expand(1, 2, 6)
    maps = torch.stack([uniform, one_hot])[None]
    torch.testing.assert_close(head_entropy(maps, visible), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(head_entropy(maps), torch.tensor([1.0, 0.0]))


def test_entropy_leaves_out_queries_with_no_choice():
    half = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]])[None, None]
    visible = torch.tensor([1, 2, 0, 4]).expand(1, 1, 4)
    torch.testing.assert_close(head_entropy(half, visible), torch.tensor([(1 + 0.5) / 2]))
    assert head_entropy(half[:, :, :1], visible[:, :, :1]).tolist() == [0.0]
