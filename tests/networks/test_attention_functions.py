"""Each kind of attention against a softmax by hand, or against the weights that it gives itself."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lightning_seq.networks.attention_capture import capture_attention


class Calls(nn.Module):
    """Attends with whatever it is given."""

    def forward(self, q, k, v, **options):
        return F.scaled_dot_product_attention(q, k, v, **options)


def seen(module, *args, sequences=99, **options):
    """The only call, and a check that what comes out is what always does."""
    with capture_attention(module, sequences) as captured:
        output = module(*args, **options)
    plain = module(*args, **options)
    for one, other in zip(
        output if isinstance(output, tuple) else [output],
        plain if isinstance(plain, tuple) else [plain],
        strict=True,
    ):
        assert one is other is None or torch.equal(one, other)
    (call,) = captured.calls
    return call


def by_hand(q, k, mask=None, scale=None):
    scores = q @ k.transpose(-2, -1) * (scale or 1 / math.sqrt(q.size(-1)))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return tuple(torch.randn(3, 4, 6, 8) for _ in range(3))


LOWER = torch.ones(6, 6, dtype=torch.bool).tril()
LANES = torch.tensor([1, 4, 6])[:, None, None, None] > torch.arange(6)  # (3, 1, 1, 6)
SLOPES = -torch.arange(6.0).expand(6, 6)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, None),
        ({"is_causal": True}, LOWER),
        ({"attn_mask": LOWER}, LOWER),
        ({"attn_mask": LOWER.expand(3, 1, 6, 6)}, LOWER),
        ({"attn_mask": LANES}, LANES),
        ({"attn_mask": LOWER[None] & LANES[0]}, LOWER & LANES[0]),
        ({"attn_mask": torch.zeros(6, 6).masked_fill(~LOWER, -math.inf)}, LOWER),
        ({"attn_mask": torch.zeros(6, 6).masked_fill(~LOWER, torch.finfo(torch.float32).min)}, LOWER),
        ({"attn_mask": SLOPES}, SLOPES),
        ({"attn_mask": causal_lower_right(6, 6)}, LOWER),
        ({"attn_mask": causal_upper_left(6, 6)}, LOWER),
        ({"scale": 0.7}, None),
    ],
)
@pytest.mark.parametrize("sequences", [2, 9])
def test_equals_a_softmax_by_hand(qkv, options, mask, sequences):
    call = seen(Calls(), *qkv, sequences=sequences, **options)
    expected = by_hand(*qkv[:2], mask, options.get("scale"))[:sequences]
    close(call.probabilities, expected)
    assert call.probabilities.shape == (call.sequences, call.heads, call.queries, call.keys)
    if mask is not SLOPES:
        allowed = torch.ones(6, dtype=torch.bool) if mask is None else mask
        assert torch.equal(call.visible, allowed.expand(3, 4, 6, 6)[:sequences].sum(-1))
    scores = call.rows().scores
    assert torch.equal(scores == -math.inf, call.probabilities == 0)
    close(scores.softmax(-1), expected)


@pytest.mark.parametrize("bias", [causal_lower_right, causal_upper_left])
def test_fewer_queries_than_keys(qkv, bias):
    q, k, v = qkv
    options = {"attn_mask": bias(2, 6)}
    call = seen(Calls(), q[:, :, :2], k, v, **options)
    shift = 4 if bias is causal_lower_right else 0
    close(call.probabilities, by_hand(q[:, :, :2], k, torch.ones(2, 6, dtype=torch.bool).tril(shift)))
    causal = seen(Calls(), q[:, :, :2], k, v, is_causal=True)
    close(causal.probabilities, by_hand(q[:, :, :2], k, torch.ones(2, 6, dtype=torch.bool).tril()))


def test_grouped_queries_and_keys_shared_by_all_sequences(qkv):
    q, k, v = qkv
    call = seen(Calls(), q, k[:, :2], v[:, :2], enable_gqa=True)
    close(call.probabilities, by_hand(q, k[:, :2].repeat_interleave(2, 1)))
    call = seen(Calls(), q, k[:1], v[:1])
    close(call.probabilities, by_hand(q, k[:1]))
    call = seen(Calls(), q[:1], k, v, sequences=2)
    close(call.probabilities, by_hand(q[:1], k)[:2])


def test_queries_that_see_nothing_have_zeros(qkv):
    mask = LOWER.clone()
    mask[2] = False
    for attn_mask in (mask, torch.zeros(6, 6).masked_fill(~mask, torch.finfo(torch.float32).min)):
        call = seen(Calls(), *qkv, attn_mask=attn_mask)
        assert not call.probabilities[:, :, 2].any()
        assert call.visible[0, 0].tolist() == [1, 2, 0, 4, 5, 6]


def test_what_is_not_a_number_stays_so(qkv):
    q, k, v = qkv
    q = q.index_fill(2, torch.tensor([3]), math.nan)
    with capture_attention(Calls()) as captured:
        Calls()(q, k, v, is_causal=True)
    broken = captured.calls[0].probabilities.isnan().any(-1)
    assert broken[0, 0].tolist() == [False] * 3 + [True] + [False] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_fp32_in_half_precision_and_under_autocast(qkv, dtype):
    half = [tensor.to(dtype) for tensor in qkv]
    for tensors in (half, qkv):
        with torch.autocast("cpu", torch.bfloat16):
            call = seen(Calls(), *tensors)
        assert call.probabilities.dtype == torch.float32
        close(call.probabilities, by_hand(tensors[0].float(), tensors[1].float()))


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 3, 4, 6, 8), (2, 1, 3, 2, 6, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_any_number_of_dimensions(shape, masked):
    q, k = torch.randn(2, *shape)
    mask = torch.rand(*[1] * (len(shape) - 3), *shape[-3:-2], 6, 6) > 0.3 if masked else LOWER
    mask = mask | torch.eye(6, dtype=torch.bool)
    call = seen(Calls(), q, k, k, attn_mask=mask)
    expected = by_hand(q, k, mask)
    lead = shape[:-2] or (1,)
    close(call.probabilities, expected.reshape(lead[0], -1, 6, 6))
    assert call.visible.shape == call.probabilities.shape[:-1]


# -- nn.MultiheadAttention ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            "batch": st.sampled_from([None, 1, 3]),
            "batch_first": st.booleans(),
            "widths": st.sampled_from([(16, 16), (10, 16), (10, 6)]),
            "bias": st.booleans(),
            "add_bias_kv": st.booleans(),
            "add_zero_attn": st.booleans(),
            "training": st.booleans(),
            "attn_mask": st.sampled_from([None, "bool", "float", "min", "per head"]),
            "padding": st.sampled_from([None, "bool", "float"]),
            "need_weights": st.booleans(),
        }
    )
)
def test_equals_the_weights_of_multihead_attention(case):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    kdim, vdim = case["widths"]
    module = nn.MultiheadAttention(
        16,
        4,
        dropout=0.5,
        bias=case["bias"],
        add_bias_kv=case["add_bias_kv"],
        add_zero_attn=case["add_zero_attn"],
        kdim=kdim,
        vdim=vdim,
        batch_first=case["batch_first"],
    ).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    batch = case["batch"]

    def inputs(time, width):
        x = torch.randn(batch or 1, time, width, generator=generator)
        return x[0] if batch is None else x if case["batch_first"] else x.transpose(0, 1)

    q, k, v = inputs(4, 16), inputs(5, kdim), inputs(5, vdim)
    hidden = torch.rand(4, 5, generator=generator) > 0.6
    hidden[:, 0] = False
    masks = {
        "bool": hidden,
        "float": torch.randn(4, 5, generator=generator),
        "min": torch.zeros(4, 5).masked_fill(hidden, torch.finfo(torch.float32).min),
        "per head": torch.zeros(4 * (batch or 1), 4, 5).index_fill(2, torch.tensor([1]), -math.inf),
    }
    padded = (torch.arange(5) > 2).expand(5) if batch is None else (torch.arange(5) > 2).expand(batch, 5)
    paddings = {"bool": padded, "float": torch.zeros(padded.shape).masked_fill(padded, -math.inf)}
    options = {"attn_mask": masks.get(case["attn_mask"]), "key_padding_mask": paddings.get(case["padding"])}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched")
        _, expected = module(q, k, v, average_attn_weights=False, **options)
        module.train(case["training"])
        with capture_attention(module, 2) as captured:
            module(q, k, v, need_weights=case["need_weights"], **options)
    (call,) = captured.calls
    expected = (expected[None] if batch is None else expected)[:2].detach()
    close(call.probabilities, expected)
    assert call.extra_keys == case["add_bias_kv"] + case["add_zero_attn"]
    if case["attn_mask"] != "float":
        assert torch.equal(call.visible, (expected > 0).sum(-1))


def test_static_keys_and_the_hint_of_causality():
    torch.manual_seed(0)
    x, static = torch.randn(6, 2, 16), torch.randn(2 * 4, 7, 4)
    weight, out = torch.randn(48, 16), torch.eye(16)

    class Module(nn.Module):
        def forward(self, **options):
            arguments = (x, x, x, 16, 4, weight, None, None, None, False, 0.0, out, None)
            return F.multi_head_attention_forward(*arguments, **options)

    options = {"static_k": static, "static_v": static}
    _, expected = Module()(average_attn_weights=False, **options)
    close(seen(Module(), **options).probabilities, expected)
    causal = ~LOWER
    _, expected = Module()(average_attn_weights=False, attn_mask=causal)
    close(seen(Module(), attn_mask=causal, is_causal=True, need_weights=False).probabilities, expected)


@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_with_its_fast_path_and_the_names_of_its_layers(training):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).train(training)
    padding = torch.arange(5).expand(3, 5) > 3
    x = torch.randn(3, 5, 16)
    with torch.no_grad(), capture_attention(encoder) as captured:
        output = encoder(x, src_key_padding_mask=padding)
    calls = captured.calls
    assert [call.module for call in calls] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert captured.unseen == []
    hidden = [x, encoder.layers[0](x, src_key_padding_mask=padding)]
    for i, call in enumerate(calls):
        inputs = (hidden[i],) * 3
        _, expected = encoder.layers[i].self_attn(
            *inputs, key_padding_mask=padding, average_attn_weights=False
        )
        torch.testing.assert_close(call.probabilities, expected[:1], rtol=0, atol=2e-6)
    plain = encoder(x, src_key_padding_mask=padding)
    torch.testing.assert_close(output[~padding], plain[~padding], rtol=0, atol=1e-5)


def test_a_decoder_attends_to_itself_and_to_what_was_encoded():
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad(), capture_attention(decoder) as captured:
        decoder(torch.randn(3, 5, 16), torch.randn(3, 7, 16), tgt_mask=mask, tgt_is_causal=True)
    shapes = [(call.module, call.queries, call.keys) for call in captured.calls]
    assert shapes == [
        (f"layers.{i}.{name}", 5, keys)
        for i in range(2)
        for name, keys in (("self_attn", 5), ("multihead_attn", 7))
    ]
    assert captured.calls[0].visible[0, 0].tolist() == [1, 2, 3, 4, 5]


# -- FlexAttention --------------------------------------------------------------------------------------

TABLE = torch.linspace(-1, 1, 4)


def causal(b, h, q, k):
    return q >= k


def windowed(b, h, q, k):
    return (q >= k) & (q - k < 3 + h)


def sloped(score, b, h, q, k):
    return score - TABLE[h] * (q - k)


def capped(score, b, h, q, k):
    return torch.where(k <= q, 2 * torch.tanh(score / 2), -math.inf)


class Flex(nn.Module):
    def __init__(self, function=flex_attention):
        super().__init__()
        self.function = function

    def forward(self, q, k, v, **options):
        return self.function(q, k, v, **options)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("score_mod", [None, sloped, capped])
@pytest.mark.parametrize("mask_mod", [None, causal, windowed])
@pytest.mark.parametrize("heads", [4, 2])
def test_flex_attention(score_mod, mask_mod, heads):
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 16, 8), torch.randn(2, heads, 16, 8)
    options = {"score_mod": score_mod, "enable_gqa": heads < 4, "scale": 0.3}
    if mask_mod is not None:
        options["block_mask"] = create_block_mask(mask_mod, None, 4, 16, 16, device="cpu")
    with torch.no_grad():
        call = seen(Flex(), q, k, k, **options)
    h, i, j = torch.arange(4)[:, None, None], torch.arange(16)[:, None], torch.arange(16)
    scores = q @ k.repeat_interleave(4 // heads, 1).transpose(-2, -1) * 0.3
    scores = scores if score_mod is None else score_mod(scores, 0, h, i, j)
    if mask_mod is not None:
        scores = scores.masked_fill(~mask_mod(0, h, i, j), -math.inf)
    close(call.probabilities, scores.softmax(-1))
    assert torch.equal(call.visible, (scores > -math.inf).sum(-1))
    for start in (0, 5, 12):
        close(call.rows(start, start + 4).probabilities, scores.softmax(-1)[:, :, start : start + 4])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_compiled_by_its_user_is_seen_and_not_compiled_again():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = torch._dynamo.utils.counters["stats"]
    q = torch.randn(2, 4, 16, 8)
    mask = create_block_mask(causal, None, None, 16, 16, device="cpu")
    module = Flex(torch.compile(flex_attention, backend="eager"))
    before = module(q, q, q, block_mask=mask)
    count = graphs["unique_graphs"]
    assert count > 0
    with torch.no_grad(), capture_attention(module) as captured:
        module(q, q, q, block_mask=mask)
    close(captured.calls[0].probabilities, by_hand(q, q, torch.ones(16, 16, dtype=torch.bool).tril())[:1])
    assert torch.equal(module(q, q, q, block_mask=mask), before)
    assert graphs["unique_graphs"] == count


# -- by hand --------------------------------------------------------------------------------------------


class HandAttention(nn.Module):
    """Takes the softmax of scores itself."""

    def __init__(self, softmax, heads=2):
        super().__init__()
        self.softmax, self.num_heads = softmax, heads

    def forward(self, scores):
        return self.softmax(scores)


WAYS = [
    lambda x: F.softmax(x, dim=-1),
    lambda x: F.softmax(x, -1, dtype=torch.float32),
    lambda x: nn.functional.softmax(input=x, dim=x.dim() - 1),
    lambda x: torch.softmax(x, -1),
    lambda x: torch.softmax(x, dim=-1, dtype=torch.float32),
    lambda x: x.softmax(-1),
    lambda x: x.softmax(dim=-1),
    nn.Softmax(dim=-1),
]


@pytest.mark.parametrize("softmax", WAYS)
@pytest.mark.parametrize("masked", [-math.inf, -1e4, torch.finfo(torch.float32).min])
def test_softmax_by_hand(softmax, masked):
    torch.manual_seed(0)
    allowed = LOWER.clone()
    allowed[3] = False
    query, key = torch.randn(2, 3, 2, 6, 4)
    mask = torch.zeros(6, 6).masked_fill(~allowed, masked)
    scores = query @ key.mT + mask
    module = HandAttention(softmax)
    with capture_attention(module, 2) as captured:
        module(query @ key.mT + mask)
    (call,) = captured.calls
    assert call.module == ""
    close(call.probabilities, scores.masked_fill(~allowed, -math.inf).softmax(-1)[:2].nan_to_num(0.0))
    assert call.visible[0, 0].tolist() == [1, 2, 3, 0, 5, 6]
    assert captured.unseen == []


def test_scores_of_sequences_and_heads_in_one_dimension():
    query, key = torch.randn(2, 6, 5, 4)
    scores = torch.bmm(query, key.mT)
    with capture_attention(module := HandAttention(WAYS[0]), 2) as captured:
        module(torch.bmm(query, key.mT))
    close(captured.calls[0].probabilities, scores.softmax(-1).view(3, 2, 5, 5)[:2])
    with capture_attention(module := HandAttention(WAYS[0], heads=4), 2) as captured:
        module(torch.bmm(query, key.mT))
    close(captured.calls[0].probabilities, scores.softmax(-1)[:2, None])


def test_other_softmaxes_are_no_attention():
    class Sampler(nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    class MixedAttention(nn.Module):
        def forward(self, x):
            return x.softmax(1), x[:, 0, 0].softmax(-1), x[:, 0, :, :3].softmax(-1), x.log_softmax(-1)

    for module in (Sampler(), MixedAttention()):
        with capture_attention(module) as captured:
            module(torch.randn(2, 4, 6, 6))
        assert captured.calls == []
