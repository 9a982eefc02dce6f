"""What is special about minGRU and minLSTM."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.errors import InputError
from lightning_seq.networks import MinGRU, MinLSTM

BOTH = pytest.mark.parametrize("kind", [MinGRU, MinLSTM])


def gru_step(block, x, h):
    z, candidate = block.input(x).chunk(2, -1)
    z = torch.sigmoid(-z)  # the first map is the gate that keeps
    return (1 - z) * h + z * candidate


def lstm_step(block, x, h):
    f, i, candidate = block.input(x).chunk(3, -1)
    f, i = torch.sigmoid(f), torch.sigmoid(i)
    return f / (f + i) * h + i / (f + i) * candidate


def reference(net, tokens):
    """The same network, token by token, as the paper writes its formulas (section 3 of arXiv:2410.01201)."""
    step = gru_step if isinstance(net, MinGRU) else lstm_step
    states, logits = list(net.initial_state(len(tokens)).unbind(1)), []
    for token in tokens.unbind(1):
        x = net.embedding.weight[token] * net.embedding_scale
        for layer, block in enumerate(net.blocks):
            states[layer] = step(block, block.recurrence_norm(x), states[layer])
            x = x + states[layer] @ block.output.weight.T
            x = x + block.feedforward(block.feedforward_norm(x))
        logits.append(net.head.linear(net.norm(x)))
    return torch.stack(logits, 1), torch.stack(states, 1)


def tokens_of(seed, batch, time):
    return torch.randint(0, 17, (batch, time), generator=torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("tie_weights", [True, False])
def test_equals_the_papers_formulas(kind, tie_weights):
    torch.manual_seed(0)
    net = kind(17, 12, 20, 3, tie_weights=tie_weights).eval()
    tokens = tokens_of(0, 3, 25)
    for mine, papers in zip(net(tokens), reference(net, tokens), strict=True):
        torch.testing.assert_close(mine, papers, atol=1e-5, rtol=1e-5)


@BOTH
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 3)),
    batch=st.integers(1, 3),
    time=st.integers(1, 80),
    bias=st.sampled_from([-20.0, 0.0, 2.0, 8.0, 100.0]),
)
@settings(max_examples=10, deadline=None)
def test_parallel_equals_sequential(kind, seed, sizes, batch, time, bias):
    torch.manual_seed(seed)
    net = kind(17, *sizes, forget_gate_bias=bias).eval().double()  # a norm of one channel magnifies rounding
    tokens = tokens_of(seed, batch, time)
    with torch.no_grad():
        logits, last = net(tokens)
        state, steps = net.initial_state(batch), []
        for token in tokens.split(1, 1):
            one, state = net(token, state)
            steps.append(one)
    torch.testing.assert_close(torch.cat(steps, 1), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


@BOTH
def test_the_state_has_the_batch_first(kind):
    net = kind(17, 8, 12, 3)
    assert net.initial_state(5).shape == net(tokens_of(0, 5, 4))[1].shape == (5, 3, 12)


@BOTH
@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_the_share_kept_starts_as_the_bias_says(kind, bias):
    torch.manual_seed(0)
    block = kind(17, 32, 64, 1, forget_gate_bias=bias).blocks[0]
    keep, _ = block.gates(block.input(torch.zeros(1, 1, 32)).chunk(block.maps, -1))
    torch.testing.assert_close(keep, torch.tensor(bias).sigmoid().expand_as(keep))


@BOTH
def test_gates_of_large_inputs_stay_finite(kind):
    torch.manual_seed(0)
    net = kind(17, 8, 12, 1)
    torch.nn.init.normal_(net.blocks[0].input.weight, std=1e4)  # f and i both 0: 0/0 as the paper writes it
    logits, _ = net(tokens_of(0, 2, 50))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@BOTH
def test_bf16_autocast_keeps_the_state_in_fp32(kind):
    torch.manual_seed(0)
    net, tokens = kind(17, 16, 24, 2), tokens_of(0, 2, 200)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = net(tokens)
    exact, exact_state = net(tokens)
    assert state.dtype == torch.float32
    torch.testing.assert_close(logits.float(), exact, atol=0.1, rtol=0.1)
    torch.testing.assert_close(state, exact_state, atol=0.1, rtol=0.1)


@BOTH
def test_bf16_weights_keep_their_dtype(kind):
    net = kind(17, 16, 24, 2).bfloat16()
    logits, state = net(tokens_of(0, 2, 20))
    assert logits.dtype == state.dtype == torch.bfloat16


@pytest.mark.slow
@BOTH
def test_compiled_in_place_equals_eager(kind):
    torch.manual_seed(0)
    torch.compiler.reset()
    net, tokens = kind(17, 8, 12, 1), tokens_of(0, 2, 20)
    eager = net(tokens)[0]
    expected = torch.autograd.grad(eager.sum(), net.embedding.weight)[0]
    net.compile(fullgraph=True, backend="aot_eager")
    compiled = net(tokens)[0]
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), net.embedding.weight)[0], expected)


@pytest.mark.slow
@BOTH
def test_inductor_equals_eager(kind):
    torch.manual_seed(0)
    torch.compiler.reset()
    net, tokens = kind(17, 16, 24, 2), tokens_of(0, 2, 100)
    eager = net(tokens)[0]
    net.compile(fullgraph=True)
    torch.testing.assert_close(net(tokens)[0], eager, atol=1e-5, rtol=1e-5)


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="hidden_size is 0: give 1 or more"):
        MinGRU(17, 8, 0)
    with pytest.raises(InputError, match="vocab_size is 0: give 1 or more"):
        MinGRU(0)
    with pytest.raises(InputError, match="vocab_size is -1: give 1 or more"):
        MinLSTM(-1)
    with pytest.raises(InputError, match="feedforward_dim is -3"):
        MinLSTM(17, 8, 8, feedforward_dim=-3)
    with pytest.raises(InputError, match="dropout is 1"):
        MinGRU(17, dropout=1.0)
