"""What is special about the Transformer."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lightning_seq.errors import InputError
from lightning_seq.networks import Transformer
from lightning_seq.networks.attention import rotary_angles


def reference(net, tokens):
    """The same Transformer written out plainly: no fused kernel, no cache, head by head."""
    x = net.embedding.weight[tokens] * net.embedding.weight.size(1) ** 0.5
    time = tokens.size(1)
    d = net.head_dim
    frequency = net.rope_base ** (-2.0 * torch.arange(d // 2) / d)
    angle = torch.arange(time)[:, None] * frequency
    turn = torch.polar(torch.ones_like(angle), angle)

    def rotate(v):
        half = d // 2
        turned = torch.complex(v[..., :half], v[..., half:]) * turn
        return torch.cat([turned.real, turned.imag], -1)

    def norm(v, gain):
        return v / (v.pow(2).mean(-1, keepdim=True) + torch.finfo(v.dtype).eps).sqrt() * gain

    for block in net.blocks:
        h, a, heads = norm(x, block.attention_norm.weight), block.attention, []
        for i in range(a.num_heads):
            rows = slice(i * d, (i + 1) * d)
            q = rotate(h @ a.query.weight[rows].T)
            k = rotate(h @ a.key.weight[rows].T)
            scores = q @ k.transpose(1, 2) / d**0.5
            scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ (h @ a.value.weight[rows].T))
        x = x + torch.cat(heads, -1) @ a.out.weight.T
        h, f = norm(x, block.feedforward_norm.weight), block.feedforward
        gate = h @ f.gate.weight.T
        x = x + ((gate * gate.sigmoid()) * (h @ f.up.weight.T)) @ f.down.weight.T
    return norm(x, net.norm.weight) @ net.head.linear.weight.T


def test_equals_the_plain_formulas():
    torch.manual_seed(0)
    net = Transformer(17, 24, 2, 3).eval()
    tokens = torch.randint(0, 17, (2, 13))
    torch.testing.assert_close(net(tokens)[0], reference(net, tokens), atol=1e-5, rtol=1e-5)


def test_scores_depend_on_distance_alone():
    cos, sin = rotary_angles(50, 8, 10_000.0, torch.device("cpu"))
    turn = torch.complex(cos, sin)
    torch.testing.assert_close(turn[10] * turn[3].conj(), turn[40] * turn[33].conj())


def test_training_runs_the_fused_kernel_without_a_mask():
    class Calls(TorchFunctionMode):
        seen: list = []  # noqa: RUF012

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                self.seen.append(kwargs)
            return func(*args, **(kwargs or {}))

    with Calls() as calls:
        Transformer(17, 16, 3, 2)(torch.zeros(1, 5, dtype=torch.long))
    assert [(c["is_causal"], c["attn_mask"]) for c in calls.seen] == [(True, None)] * 3


def test_the_cache_never_grows_and_keeps_the_newest():
    torch.manual_seed(0)
    net = Transformer(17, 16, 1, 2).eval()
    tokens = torch.randint(0, 17, (2, 30))
    state = net.initial_state(2, length=8)
    for time in range(30):
        logits, state = net(tokens[:, time : time + 1], state)
        assert state["keys"][0].shape == (2, 2, 8, 8)
    assert state["length"].tolist() == [8, 8]
    # one layer sees exactly the last 8 tokens and itself
    torch.testing.assert_close(logits[:, -1], net(tokens[:, 21:])[0][:, -1], atol=1e-5, rtol=1e-5)


def test_without_a_state_it_carries_nothing():
    assert Transformer(17, 16, 1, 2)(torch.zeros(1, 5, dtype=torch.long))[1] is None


def test_residual_outputs_start_smaller_with_depth():
    net = Transformer(17, 128, 8, 2)
    assert net.blocks[0].attention.query.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert net.blocks[0].attention.out.weight.std().item() == pytest.approx(128**-0.5 / 4, rel=0.1)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_tokens_come_in_and_logits_go_out_of_unit_size(tie_weights):
    net = Transformer(300, 128, 8, 2, tie_weights=tie_weights)
    embedded = []
    net.blocks[0].register_forward_pre_hook(lambda module, args: embedded.append(args[0]))
    logits, _ = net(torch.arange(300)[None])
    assert embedded[0].std().item() == pytest.approx(1, rel=0.1)
    assert logits.std().item() == pytest.approx(1, rel=0.5)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="embedding_dim 30 does not split into 4 heads of even width"):
        Transformer(17, 30, 1, 4)
    with pytest.raises(InputError, match="context_length is 0"):
        Transformer(17, 32, 1, 4, context_length=0)


def test_angles_are_fp32_whatever_the_default_dtype():
    exact = rotary_angles(512, 16, 10_000.0, torch.device("cpu"))
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does for precision "bf16-true"
    try:
        angles = rotary_angles(512, 16, 10_000.0, torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(exact, angles, strict=True))
