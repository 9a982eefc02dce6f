"""What is special about the Transformer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from lightning_seq.errors import InputError
from lightning_seq.networks import Transformer
from lightning_seq.networks.positions import positions_in_documents, rotary_angles, sinusoids


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
        return v / (v.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * gain

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


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_blocks_of_attention_alone_are_the_usual_ones_with_silent_feedforward_layers(activation):
    alone, usual = (small(feedforward_dim=width, activation=activation) for width in (0, None))
    names = dict(alone.named_parameters())
    assert names.keys() == {name for name, _ in usual.named_parameters() if "feedforward" not in name}
    usual.load_state_dict(names, strict=False)
    with torch.no_grad():
        for block in usual.blocks:
            block.feedforward.down.weight.zero_()
    tokens = torch.randint(0, 17, (2, 9))
    assert torch.equal(alone(tokens)[0], usual(tokens)[0])


def test_blocks_of_attention_alone_start_larger_as_fewer_add_up():
    net = Transformer(17, 128, 8, 2, feedforward_dim=0)
    assert net.blocks[0].attention.out.weight.std().item() == pytest.approx(128**-0.5 / 8**0.5, rel=0.1)


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


def small(**arguments):
    torch.manual_seed(0)
    return Transformer(17, 16, 2, 4, context_length=16, **arguments).eval()


POSITIONS = ["rotary", "learned", "sinusoidal", "none"]


@pytest.mark.parametrize("positions", POSITIONS)
@given(seed=st.integers(0, 10**6), data=st.data(), window=st.sampled_from([None, 3]))
@settings(max_examples=10, deadline=None)
def test_packed_documents_read_as_if_each_stood_alone(positions, seed, data, window):
    """Changing document 1 leaves document 2's logits alone, and each has the logits that it has alone."""
    net = small(sliding_window=window, positions=positions)
    generator = torch.Generator().manual_seed(seed)
    first, second = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    tokens = torch.randint(0, 17, (2, first + second), generator=generator)
    ids = torch.tensor([0] * first + [1] * second).expand(2, -1)
    logits = net(tokens, document_ids=ids)[0]
    changed = tokens.clone()
    changed[:, :first] = (changed[:, :first] + 1) % 17
    assert torch.equal(net(changed, document_ids=ids)[0][:, first:], logits[:, first:])
    torch.testing.assert_close(logits[:, first:], net(tokens[:, first:])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[:, :first], net(tokens[:, :first])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("again", [False, True])
def test_packed_documents_train_as_if_each_stood_alone(positions, again):
    net = small(positions=positions, activation_checkpointing=again).train()
    tokens, ids = torch.randint(0, 17, (2, 16)), torch.tensor([[0] * 5 + [1] * 11, [0] * 15 + [1]])
    targets = torch.randint(0, 17, (2, 16))
    packed = net(tokens, None, targets, ids)[0]
    packed.backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    documents = [(0, 0, 5), (0, 5, 16), (1, 0, 15), (1, 15, 16)]
    alone = sum(net(tokens[[r], a:b], None, targets[[r], a:b])[0] for r, a, b in documents)
    alone.backward()
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)
    for gradient, parameter in zip(gradients, net.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_documents_that_are_not_kept_apart_do_leak(positions):
    net = small(positions=positions)
    tokens, ids = torch.randint(0, 17, (1, 12)), torch.tensor([[0] * 5 + [1] * 7])
    assert not torch.allclose(net(tokens)[0][:, 5:], net(tokens, document_ids=ids)[0][:, 5:])


def test_positions_are_counted_within_each_document():
    ids = torch.tensor([[0, 0, 0, 1, 1, 2], [4, 7, 7, 7, 4, -1]])
    assert positions_in_documents(ids).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 1, 0]]


def test_documents_and_a_state_exclude_one_another():
    net = small()
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(InputError, match="got document_ids together with a state"):
        net(tokens, net.initial_state(1), None, tokens)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_a_sliding_window_sees_as_many_tokens_as_it_says(window):
    net = small(sliding_window=window)
    tokens = torch.randint(0, 17, (1, 12))
    far = tokens.clone()
    far[:, 0] = (far[:, 0] + 1) % 17
    same = (net(far)[0] == net(tokens)[0]).all(-1)[0]
    reach = 2 * (window - 1)  # two layers, each looking window - 1 back
    assert not same[: reach + 1].any()
    assert same[reach + 1 :].all()


def test_grouped_queries_equal_full_heads_with_repeated_keys_and_values():
    grouped, full = small(num_key_value_heads=2, qk_norm=True), small(qk_norm=True)
    state = grouped.state_dict()
    for name, value in state.items():
        if name.endswith(("attention.key.weight", "attention.value.weight")):
            state[name] = value.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    tokens = torch.randint(0, 17, (2, 9))
    torch.testing.assert_close(grouped(tokens)[0], full(tokens)[0], atol=1e-5, rtol=1e-5)
    assert grouped.initial_state(3, 8)["keys"][0].shape == (3, 2, 8, 4)  # the cache is as small as the heads


def test_memory_reads_what_lies_before_the_segment_and_no_gradient_enters_it():
    net = small(memory_length=5)
    tokens = torch.randint(0, 17, (2, 12))
    _, memory = net(tokens[:, :8], net.initial_state(2))
    assert memory["keys"][0].size(2) == 5
    with_memory = net(tokens[:, 8:], memory)[0]
    assert not torch.allclose(with_memory, net(tokens[:, 8:])[0])
    one_layer = Transformer(17, 16, 1, 4, context_length=16, memory_length=5).eval()
    _, memory = one_layer(tokens[:, :8], one_layer.initial_state(2))
    expected = one_layer(tokens[:, 3:])[0][:, 5:]  # one layer sees five tokens of the past and no more
    seen = one_layer(tokens[:, 8:], memory)[0]
    torch.testing.assert_close(seen[:, :1], expected[:, :1], atol=1e-5, rtol=1e-5)


def test_no_memory_is_no_state():
    assert small(memory_length=0).initial_state(2) is None
    assert small(positions="learned").initial_state(2) is None
    assert small(positions="learned").initial_state(2, 16)["length"].tolist() == [0, 0]


def test_checkpointed_activations_give_the_same_gradients_and_dropout():
    grads = []
    for checkpointed in (False, True):
        net = small(activation_checkpointing=checkpointed, dropout=0.3).train()
        torch.manual_seed(1)
        net(torch.arange(14)[None], None, torch.arange(1, 15)[None])[0].backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_sinusoids_are_the_papers():
    encoding = sinusoids(torch.arange(9), 8)
    for position in (0, 3, 8):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert encoding[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert encoding[position, 4 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads is 3, which does not divide num_heads 4: give a div",
        ),
        (
            {"embedding_dim": 18},
            "embedding_dim 18 does not split into 4 heads of even width: take a multiple",
        ),
        (
            {"positions": "learned", "memory_length": 4},
            "memory_length is 4 and positions 'learned', which count",
        ),
        ({"positions": "sinusoidal", "memory_length": 4}, "memory_length is 4 and positions 'sinusoidal'"),
        ({"memory_length": -1}, "memory_length is -1: give 0 or more"),
        ({"sliding_window": 0}, "sliding_window is 0: give 1 or more"),
        ({"num_layers": 0}, "num_layers is 0: give 1 or more"),
        ({"feedforward_dim": -1}, "feedforward_dim is -1: give 0 or more"),
        ({"rope_base": 0.0}, "rope_base is 0.0: give a number above 0"),
        ({"rope_base": math.nan}, "rope_base is nan: give a number above 0"),
        ({"dropout": 1.0}, "dropout is 1.0, and a probability"),
        ({"norm": "batch"}, r"norm is 'batch'; it must be one of \['rms', 'layer'\]"),
        ({"positions": "rotery"}, r"positions is 'rotery' \(did you mean 'rotary'\?\); it must be one of"),
        ({"activation": "mish"}, "activation is 'mish'; it must be one of"),
        ({"initialization": "xavier"}, "initialization is 'xavier'; it must be one of"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Transformer(17, **{"embedding_dim": 16, "num_heads": 4, **arguments})


def test_more_tokens_than_learned_positions_are_refused():
    with pytest.raises(InputError, match="got 17 tokens, and context_length 16 positions were learned"):
        small(positions="learned")(torch.zeros(1, 17, dtype=torch.long))
    assert small(positions="sinusoidal")(torch.zeros(1, 17, dtype=torch.long))[0].size(1) == 17


@pytest.mark.parametrize(
    "arguments", [{}, {"num_key_value_heads": 2, "qk_norm": True}, {"sliding_window": 4}]
)
@pytest.mark.parametrize("half", [False, True])
def test_training_never_computes_the_attention_matrix_in_the_open(arguments, half):
    net = small(**arguments).train()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        net(torch.arange(14)[None], None, torch.arange(1, 15)[None])[0].backward()
    kernels = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels
    assert "aten::_scaled_dot_product_attention_math" not in kernels
