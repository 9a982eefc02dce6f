"""Each measure on patterns of known values, and without whole maps."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.callbacks.heads.view import MEASURES
from lightning_seq.errors import InputError
from lightning_seq.networks.attention_capture import AttentionCall, capture_attention
from lightning_seq.networks.attention_measures import (
    attention_maps,
    induction_score,
    measure_heads,
    repeated_tokens,
)

T = 6
LOWER = torch.ones(T, T, dtype=torch.bool).tril()
CAUSAL = torch.arange(1, T + 1)


def maps_of(*heads, visible=CAUSAL):
    maps = torch.stack([head.float() for head in heads])[None]
    return AttentionCall.of_maps(maps, visible.expand(1, len(heads), maps.size(2)))


def attention_of(scores, mask=None):
    """The call of attention with these scores, (sequences, heads, queries, keys)."""
    keys = torch.eye(scores.size(-1)).expand(*scores.shape[:2], -1, -1)
    with capture_attention(nn.Identity(), 99) as captured:
        F.scaled_dot_product_attention(scores, keys, keys, attn_mask=mask, scale=1.0)
    return captured.calls[0]


def test_names_are_those_that_are_shown():
    measures = measure_heads(attention_of(torch.randn(1, 2, T, T), LOWER))
    assert {*measures, "induction", "sink"} == set(MEASURES)
    assert all(value.shape == (2,) and value.dtype == torch.float32 for value in measures.values())
    assert set(measure_heads(maps_of(torch.eye(T)))) == set(measures) - {"max_logit"}


UNIFORM = LOWER / CAUSAL[:, None]
DIAGONAL = torch.eye(T)
PREVIOUS = torch.zeros(T, T).index_put(
    (torch.arange(T), torch.arange(-1, T - 1).clamp(min=0)), torch.tensor(1.0)
)
SINK = torch.zeros(T, T).index_fill(1, torch.tensor(0), 1.0)


@pytest.mark.parametrize("scored", [False, True])
def test_patterns(scored):
    heads = (UNIFORM, DIAGONAL, PREVIOUS, SINK)
    scores = torch.stack(heads)[None].log().clamp(min=-99)
    call = attention_of(scores, LOWER) if scored else maps_of(*heads)
    measures = measure_heads(call)
    lengths = torch.arange(2.0, T + 1)  # the first query has no choice
    expected = {
        "entropy": [1, 0, 0, 0],
        "max_probability": [(1 / lengths).mean(), 1, 1, 1],
        "previous_token": [(1 / lengths).mean(), 0, 1, 1 / 5],
        "first_token": [(1 / lengths).mean(), 0, 1 / 5, 1],
        "distance": [((lengths - 1) / 2).mean(), 0, 1, (lengths - 1).mean()],
    }
    for name, values in expected.items():
        torch.testing.assert_close(measures[name], torch.tensor([float(v) for v in values]), msg=name)


def test_the_largest_logit_is_of_what_is_seen():
    scores = torch.zeros(1, 2, T, T)
    scores[0, :, 2, 5] = 90.0  # masked
    scores[0, 1, 4, 3] = 7.0
    scores[0, 0] -= 3
    for mask in (LOWER, torch.zeros(T, T).masked_fill(~LOWER, torch.finfo(torch.float32).min)):
        assert measure_heads(attention_of(scores, mask))["max_logit"].tolist() == [-3.0, 7.0]
    padding = torch.arange(T)[None] < 4
    assert measure_heads(attention_of(scores, LOWER), padding)["max_logit"].tolist() == [-3.0, 0.0]


def test_queries_are_the_last_tokens_where_there_are_fewer_of_them_than_keys():
    whole = attention_of(torch.randn(2, 3, T, T), LOWER)
    scores = whole.rows().scores
    part = measure_heads(attention_of(scores[:, :, 2:].clamp(min=-99), LOWER[2:]))
    valid = (torch.arange(T) >= 2).expand(2, T)
    assert_equal(part, measure_heads(whole, valid), but="first_token")
    torch.testing.assert_close(part["first_token"], whole.probabilities[:, :, 2:, 0].mean((0, 2)))


def test_keys_that_are_no_tokens_are_neither_previous_nor_far():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 4, add_bias_kv=True, add_zero_attn=True, batch_first=True)
    x = torch.randn(2, T, 16)
    with capture_attention(module, 2) as captured:
        module(x, x, x, attn_mask=~LOWER)
    (call,) = captured.calls
    whole = call.probabilities.detach()
    among = whole[..., :T] / whole[..., :T].sum(-1, keepdim=True)
    measures = measure_heads(call)
    torch.testing.assert_close(attention_maps(call, 99), among[0])
    maps = among[:, :, 1:]  # the first query sees a single token
    torch.testing.assert_close(measures["previous_token"], among.diagonal(-1, -2, -1).mean((0, 2)))
    place = torch.arange(T)
    away = (place[1:, None] - place).abs()
    torch.testing.assert_close(measures["distance"], (maps * away).sum(-1).mean((0, 2)))
    torch.testing.assert_close(measures["first_token"], maps[..., 0].mean((0, 2)))
    torch.testing.assert_close(measures["sink"], whole[:, :, 1:, T:].sum(-1).mean((0, 2)))


def test_left_padding():
    torch.manual_seed(0)
    scores, padded = torch.randn(2, 3, T, T), 2
    valid = torch.tensor([[True] * T, [False] * padded + [True] * (T - padded)])
    mask = (LOWER & valid[:, None]).unsqueeze(1)
    mask_that_pads_see_all = mask | ~valid[:, None, :, None]  # as Hugging Face makes it
    alone = [
        measure_heads(attention_of(scores[:1], LOWER)),
        measure_heads(attention_of(scores[1:, :, padded:, padded:], LOWER[padded:, padded:])),
    ]
    counts = (T - 1, T - padded - 1)
    for each in (mask, mask_that_pads_see_all):
        both = measure_heads(attention_of(scores, each), valid)
        for name in set(both) - {"max_logit"}:
            expected = sum(count * one[name] for count, one in zip(counts, alone, strict=True)) / sum(counts)
            torch.testing.assert_close(both[name], expected, msg=name)
        expected = torch.maximum(alone[0]["max_logit"], alone[1]["max_logit"])
        torch.testing.assert_close(both["max_logit"], expected)
    # without being told, the mask says which token is the first
    torch.testing.assert_close(
        measure_heads(attention_of(scores, mask))["first_token"],
        measure_heads(attention_of(scores, mask), valid)["first_token"],
    )


def test_padding_that_is_not_a_number_does_not_count():
    scores = torch.randn(1, 2, T, T)
    broken = scores.clone()
    broken[:, :, :2] = math.nan
    valid = torch.arange(T)[None] >= 2
    assert_equal(
        measure_heads(attention_of(broken, LOWER), valid), measure_heads(attention_of(scores, LOWER), valid)
    )
    assert measure_heads(attention_of(broken, LOWER))["entropy"].isnan().all()


def test_queries_that_see_nothing_or_one_key_do_not_count():
    half = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    visible = torch.tensor([1, 2, 0, 4])
    measures = measure_heads(maps_of(half, visible=visible))
    assert measures["entropy"].item() == pytest.approx((1 + 0.5) / 2)
    assert measures["max_probability"].item() == 0.5
    assert measures["previous_token"].item() == 0.25
    nothing = measure_heads(attention_of(torch.randn(1, 1, 3, 3), torch.zeros(3, 3, dtype=torch.bool)))
    assert all(value.isnan().all() for value in nothing.values())
    one = measure_heads(attention_of(torch.ones(1, 1, 3, 3), torch.eye(3, dtype=torch.bool)))
    assert one["entropy"].isnan().all()
    assert one["max_logit"].item() == 1.0


def test_entropy_is_exact_where_logits_are_large():
    torch.manual_seed(0)
    scores = torch.randn(1, 4, 40, 40) * 3 + torch.tensor([0.0, 1e3, -1e3, 50.0])[:, None, None]
    scores[:, 3] *= 20
    call = attention_of(scores, torch.ones(40, 40, dtype=torch.bool).tril())
    maps = call.rows().scores.double().softmax(-1)
    lengths = torch.arange(2.0, 41).log()
    expected = (torch.special.entr(maps).sum(-1)[:, :, 1:] / lengths).mean((0, 2)).float()
    torch.testing.assert_close(measure_heads(call)["entropy"], expected, rtol=0, atol=1e-5)


@settings(max_examples=60)
@given(
    block=st.integers(1, 40),
    queries=st.integers(1, 30),
    more=st.integers(0, 5),
    sequences=st.integers(1, 3),
    seed=st.integers(0, 9),
    scored=st.booleans(),
    told=st.booleans(),
)
def test_blocks_of_any_size_give_the_same(block, queries, more, sequences, seed, scored, told):
    generator = torch.Generator().manual_seed(seed)
    keys = queries + more
    scores = torch.randn(sequences, 2, queries, keys, generator=generator) * 3
    mask = torch.rand(sequences, 1, queries, keys, generator=generator) > 0.4
    valid = torch.rand(sequences, queries, generator=generator) > 0.3 if told else None
    call = attention_of(scores, mask)
    if not scored:
        call = AttentionCall.of_maps(call.probabilities, call.visible)
    assert_equal(measure_heads(call, valid, block), measure_heads(call, valid, queries))


def assert_equal(got, expected, but=None):
    assert got.keys() == expected.keys()
    for name in got.keys() - {but}:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


def test_what_does_not_fit_is_told():
    call = maps_of(torch.eye(T))
    with pytest.raises(InputError, match=r"\(2, 6\).*\(1, 6\)"):
        measure_heads(call, torch.ones(2, T, dtype=torch.bool))
    with pytest.raises(InputError, match="block"):
        measure_heads(call, block=0)
    with pytest.raises(InputError, match=r"6 queries.*period 4"):
        induction_score(call, 4)
    with pytest.raises(InputError, match="period"):
        repeated_tokens(5, 0)


# -- induction ------------------------------------------------------------------------------------------


def test_induction_heads():
    period = T // 2
    induction = torch.zeros(T, T)
    for t in range(T):
        induction[t, max(t - period + 1, 0)] = 1.0
    previous_copy = torch.zeros(T, T)
    for t in range(T):
        previous_copy[t, max(t - period, 0)] = 1.0
    scores = induction_score(maps_of(induction, previous_copy, UNIFORM), period)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, (1 / 4 + 1 / 5 + 1 / 6) / 3]))
    # behind keys of a past that is empty
    shifted = AttentionCall.of_maps(F.pad(induction, (4, 0))[None, None], CAUSAL.expand(1, 1, T))
    assert induction_score(shifted, period).tolist() == [1.0]


def test_induction_over_many_blocks_and_sequences():
    period = 200
    maps = torch.rand(2, 3, 2 * period, 2 * period)
    call = AttentionCall.of_maps(maps, torch.full((2, 3, 2 * period), 2 * period))
    expected = torch.stack([maps[:, :, t, t - period + 1] for t in range(period, 2 * period)]).mean((0, 1))
    torch.testing.assert_close(induction_score(call, period), expected)


def test_repeated_tokens():
    state = torch.random.get_rng_state()
    tokens = repeated_tokens(20, 16, sequences=3, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert tokens.shape == (3, 32)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens[:, :16], tokens[:, 16:])
    assert all(len(set(row.tolist())) == 16 for row in tokens)
    assert torch.equal(tokens, repeated_tokens(20, 16, sequences=3, seed=1))
    assert not torch.equal(tokens, repeated_tokens(20, 16, sequences=3, seed=2))
    few = repeated_tokens(3, 16)
    assert set(few.flatten().tolist()) == {0, 1, 2}


# -- maps -----------------------------------------------------------------------------------------------


def test_maps_are_cut_and_of_the_first_sequence():
    call = attention_of(torch.randn(2, 3, T, T), LOWER)
    torch.testing.assert_close(attention_maps(call, 4), call.probabilities[0, :, :4, :4])
    assert attention_maps(call, 99).shape == (3, T, T)
    wide = attention_of(torch.randn(1, 2, 2, T))
    torch.testing.assert_close(attention_maps(wide, 4), wide.probabilities[0, :, :, :4])


MEASURE_LARGE = """
import resource, sys, time
import torch
from lightning_seq.networks import Transformer
from lightning_seq.networks.attention_capture import capture_attention
from lightning_seq.networks.attention_measures import attention_maps, measure_heads

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
net = Transformer(101, 768, 12, 12, 2048).eval()
tokens = torch.randint(101, (1, 2048))
with torch.no_grad():
    net(tokens)
    start = time.perf_counter()
    net(tokens)
    plain, before = time.perf_counter() - start, peak()
    start = time.perf_counter()
    with capture_attention(net, 1, lambda call: (measure_heads(call), attention_maps(call, 64))) as captured:
        net(tokens)
    print(len(captured.calls), peak() - before, before, plain, time.perf_counter() - start)
"""


@pytest.mark.slow
def test_a_large_model_takes_little_memory():
    result = subprocess.run([sys.executable, "-c", MEASURE_LARGE], capture_output=True, text=True, check=True)
    calls, extra, *_ = map(float, result.stdout.split())
    assert calls == 12
    assert extra < 200  # MiB; the maps are 2.3 GiB
