"""Attention sinks are no tokens, and a softmax over features is no attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM

from lightning_seq.networks.attention_capture import capture_attention
from lightning_seq.networks.attention_measures import attention_maps, measure_heads

T, HEADS, WIDTH = 6, 2, 4
LOWER = torch.ones(T, T).tril().bool()


class Attention(nn.Module):
    """Attention by hand; a subclass says of what the softmax is taken."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.sink = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.null = nn.Parameter(torch.randn(2, HEADS, 1, WIDTH))

    def parts(self, x):
        return self.project(x).unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4)

    def scores(self, q, k):
        return (q @ k.mT).masked_fill(~LOWER, -math.inf)

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.attend(q, k, v).transpose(1, 2).flatten(2)

    def expected(self, x):
        """The attention among tokens, and the share of the sink."""
        q, k, _ = self.parts(x)
        scores, sink = self.scores(q, k), self.sink_scores(q)
        whole = torch.cat([scores, sink], -1).softmax(-1)
        return scores.softmax(-1), whole[..., T:].sum(-1)

    def sink_scores(self, q):
        return self.sink.reshape(1, -1, 1, 1).expand(len(q), -1, T, -1)


class AfterTheOthersAttention(Attention):
    def attend(self, q, k, v):
        both = torch.cat([self.scores(q, k), self.sink_scores(q).to(q)], dim=-1)
        both = both - both.max(-1, keepdim=True).values
        return F.softmax(both, dim=-1)[..., :-1] @ v


class BeforeTheOthersAttention(Attention):
    def attend(self, q, k, v):
        both = torch.concat((self.sink_scores(q), self.scores(q, k)), -1)
        return F.dropout(both.softmax(-1)[..., 1:], 0.0) @ v


class OneMoreInTheSumAttention(Attention):
    """The softmax whose denominator has 1 more, by a score of 0."""

    def attend(self, q, k, v):
        return F.pad(self.scores(q, k), (0, 1)).softmax(-1)[..., :-1] @ v

    def sink_scores(self, q):
        return q.new_zeros(len(q), HEADS, T, 1)


class LearntKeyAttention(Attention):
    def attend(self, q, k, v):
        null_k, null_v = (each.expand(len(q), -1, -1, -1) for each in self.null)
        mask = F.pad(LOWER, (1, 0), value=True)
        return F.scaled_dot_product_attention(
            q, torch.cat([null_k, k], 2), torch.cat([null_v, v], 2), mask, scale=1.0
        )

    def sink_scores(self, q):
        return q @ self.null[0].mT


class LearntKeyByHandAttention(LearntKeyAttention):
    def attend(self, q, k, v):
        k, v = (
            torch.cat([n.expand(len(q), -1, -1, -1), x], -2) for n, x in zip(self.null, (k, v), strict=True)
        )
        return (torch.einsum("bhqd,bhkd->bhqk", q, k) + F.pad(~LOWER * -1e9, (1, 0))).softmax(-1) @ v


SINKS = [
    AfterTheOthersAttention,
    BeforeTheOthersAttention,
    OneMoreInTheSumAttention,
    LearntKeyAttention,
    LearntKeyByHandAttention,
]


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("kind", SINKS)
def test_sinks_are_kept_apart(kind, sequences):
    module = kind()
    x = torch.randn(sequences, T, HEADS * WIDTH)
    with torch.no_grad(), capture_attention(module, sequences) as captured:
        module(x)
        maps, sink = module.expected(x)
    (call,) = captured.calls
    assert (call.keys, call.extra_keys) == (T + 1, 1)
    torch.testing.assert_close(call.probabilities[..., T], sink)
    torch.testing.assert_close(attention_maps(call, 99), maps[0])
    measures = measure_heads(call)
    counted, place = maps[:, :, 1:], torch.arange(T)
    away = (place[:, None] - place).abs()
    expected = {
        "previous_token": maps.diagonal(-1, -2, -1).mean((0, 2)),
        "distance": (counted * away[1:]).sum(-1).mean((0, 2)),
        "max_probability": counted.amax(-1).mean((0, 2)),
        "first_token": counted[..., 0].mean((0, 2)),
        "entropy": (torch.special.entr(counted).sum(-1) / torch.arange(2, T + 1).log()).mean((0, 2)),
        "sink": sink[:, :, 1:].mean((0, 2)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(measures[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_gpt_oss():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "head_dim": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(vocab_size=11, attn_implementation="eager", **sizes, **heads, **experts)
    model = GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.self_attn.sinks.data.uniform_(-1, 3)
    tokens = torch.randint(0, 11, (2, 12))
    with torch.no_grad(), capture_attention(model, 2) as captured:
        own = model(tokens, output_attentions=True).attentions  # without the column of the sink
    assert [call.extra_keys for call in captured.calls] == [1, 1]
    for call, shares in zip(captured.calls, own, strict=True):
        torch.testing.assert_close(call.probabilities[..., :12], shares)
        among = shares / shares.sum(-1, keepdim=True)
        torch.testing.assert_close(attention_maps(call, 99), among[0])
        previous = among.diagonal(-1, -2, -1).mean((0, 2))
        torch.testing.assert_close(measure_heads(call)["previous_token"], previous)


class NoSinkAttention(Attention):
    """Keys and scores that are joined, and all are of tokens or positions."""

    def attend(self, q, k, v):
        near, far = (q @ k[:, :, part].mT for part in (slice(3), slice(3, None)))
        return torch.cat([near, far], -1).masked_fill(~LOWER, -math.inf).softmax(-1) @ v


class PaddedMaskAttention(Attention):
    def attend(self, q, k, v):  # a cache's way: the first keys are of the past, and no mask
        past = x = q.detach() * 2
        mask = F.pad(torch.zeros(1, 1, T, T).masked_fill(~LOWER, -math.inf), (T, 0))
        return ((q @ torch.cat([past, k], 2).mT) + mask).softmax(-1) @ torch.cat([x, v], 2)


@pytest.mark.parametrize(("kind", "keys"), [(NoSinkAttention, T), (PaddedMaskAttention, 2 * T)])
def test_other_keys_that_are_joined_are_tokens(kind, keys):
    with torch.no_grad(), capture_attention(module := kind()) as captured:
        module(torch.randn(1, T, HEADS * WIDTH))
    (call,) = captured.calls
    assert (call.keys, call.extra_keys) == (keys, 0)


class LinearAttention(Attention):
    """Softmaxes over the features of queries, and over the time of keys."""

    def attend(self, q, k, v):
        return q.softmax(-1) @ (k.softmax(-2).mT @ v)


class CausalLinearAttention(Attention):
    def attend(self, q, k, v):
        q, k = F.softmax(q * WIDTH**-0.5, -1), F.softmax(k, -1)
        states = torch.einsum("bhtd,bhte->bhtde", k, v).cumsum(2)
        return torch.einsum("bhtd,bhtde->bhte", q, states)


class GatedAttention(Attention):
    def attend(self, q, k, v):
        gates = self.project(self.project(v.transpose(1, 2).flatten(2))[..., : HEADS * WIDTH]).chunk(3, -1)[0]
        return gates.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2).softmax(-1) * v


@pytest.mark.parametrize("time", [T, WIDTH])  # as many tokens as features do not make a map of them
@pytest.mark.parametrize("kind", [LinearAttention, CausalLinearAttention, GatedAttention])
def test_a_softmax_over_features_is_not_seen_and_said_to_be(kind, time):
    model = nn.Sequential(kind(), nn.Identity(), kind())
    with torch.no_grad(), capture_attention(model) as captured:
        model(torch.randn(2, time, HEADS * WIDTH))
    assert captured.calls == []
    assert captured.unseen == ["0", "2"]


class AdditiveAttention(Attention):
    """Scores of sums of queries and keys, by Bahdanau et al. 2014 (https://arxiv.org/abs/1409.0473)."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def scores(self, q, k):
        return self.score(torch.tanh(q[..., :, None, :] + k[..., None, :, :]))[..., 0]

    def attend(self, q, k, v):
        return self.scores(q, k).softmax(-1) @ v


class TalkingHeadsAttention(Attention):
    def scores(self, q, k):
        return torch.einsum("bhqk,hg->bgqk", q @ k.mT, self.null.flatten()[:4].view(2, 2))

    def attend(self, q, k, v):
        return self.scores(q, k).softmax(-1) @ v


class Scorer(nn.Module):
    def forward(self, q, k):
        return torch.baddbmm(torch.empty(0).new_zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT)


class InPartsAttention(Attention):
    """Scores come from one child, and go to another."""

    def __init__(self):
        super().__init__()
        self.scorer, self.normalize = Scorer(), nn.Softmax(-1)

    def scores(self, q, k):
        return self.scorer(q, k).view(*q.shape[:2], T, T)

    def attend(self, q, k, v):
        return self.normalize(self.scores(q, k)) @ v


@pytest.mark.parametrize("kind", [AdditiveAttention, TalkingHeadsAttention, InPartsAttention])
def test_scores_of_other_kinds_are_seen(kind):
    model = nn.Sequential(kind(), kind())
    x = torch.randn(2, T, HEADS * WIDTH)
    with torch.no_grad(), capture_attention(model, 2) as captured:
        model(x)
    assert [call.module for call in captured.calls] == ["0", "1"]
    assert captured.unseen == []
    q, k, _ = model[0].parts(x)
    torch.testing.assert_close(captured.calls[0].probabilities, model[0].scores(q, k).softmax(-1))
