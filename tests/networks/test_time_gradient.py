import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks.embedded_inputs import find_embedding
from lightning_seq.networks.gradient_decay import describe_decay
from lightning_seq.networks.parallel_recurrent import MinGRU
from lightning_seq.networks.recurrent import GRU, LSTM, ElmanRNN
from lightning_seq.networks.time_gradient import log_spaced, time_gradient
from lightning_seq.networks.transformer import Transformer

VOCAB, TIME = 11, 24


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB, (3, TIME))


@pytest.fixture
def targets():
    return torch.randint(0, VOCAB, (3,))


class Recurrent(nn.Module):
    """Somebody's model around a fused layer, by default batch first."""

    def __init__(self, layer=nn.LSTM, width=8, **options):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, width)
        self.body = layer(width, width, **{"batch_first": True, **options})
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens))[0])


class Linear(nn.Module):
    """h_t = a * h_{t-1} + x_t: the gradient at lag k is a^k times that at lag 0."""

    def __init__(self, a, embed=None):
        super().__init__()
        self.a = a
        self.embedding, self.head = nn.Embedding(VOCAB, 4), nn.Linear(4, VOCAB)
        self.embed = embed or (lambda embedding, tokens: embedding(tokens))

    def forward(self, tokens):
        h, states = 0, []
        for x in self.embed(self.embedding, tokens).unbind(1):
            h = self.a * h + x
            states.append(h)
        return self.head(torch.stack(states, 1))


def relative(norms):
    """The geometric mean over sequences, relative to lag 1, of norms (lags, sequences)."""
    logs = torch.stack(norms).double().log().mean(1)
    return (logs - logs[1]).exp()


# -- against what is computed step by step ------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_gradient_at_every_input_is_that_of_a_loop_over_time(layer, options, tokens, targets):
    model = Recurrent(layer, **options).double()
    steps = [model.embedding(each[:, None]).detach().requires_grad_() for each in tokens.unbind(1)]
    state = None
    for x in steps:
        output, state = model.body(x, state)
    loss = F.cross_entropy(model.head(output[:, -1]), targets, reduction="sum")
    gradients = torch.autograd.grad(loss, steps)
    expected = relative([g[:, 0].norm(dim=-1) for g in reversed(gradients)])
    found = time_gradient(model, tokens, targets)
    assert found.lags == list(range(TIME))
    assert found.curve == pytest.approx(expected.tolist(), rel=1e-9)


NETWORKS = {
    "rnn": lambda: ElmanRNN(VOCAB, 8, 8),
    "gru": lambda: GRU(VOCAB, 8, 8, num_layers=2),
    "lstm": lambda: LSTM(VOCAB, 8, 8, num_layers=2, layer_norm=True),
    "lstm that learns its first state": lambda: LSTM(VOCAB, 8, 8, learn_initial_state=True),
    "dropped weights": lambda: LSTM(VOCAB, 8, 8, weight_drop=0.5, variational_dropout=True, dropout=0.5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_gradient_is_that_at_the_states_of_a_loop_over_time(name, tokens, targets):
    network = NETWORKS[name]().double().eval()
    state, states = network.initial_state(len(tokens)), []
    for each in tokens.unbind(1):
        states.append(state)
        logits, state = network(each[:, None], state)
    loss = F.cross_entropy(logits[:, -1], targets, reduction="sum")
    parts = [torch.autograd.grad(loss, s, retain_graph=True) for s in reversed(states[1:])]
    norms = [torch.cat([g.flatten(1) for g in part], 1).norm(dim=1) for part in parts]  # lags 1, 2, ...
    expected = relative([norms[0], *norms])
    network.train()
    found = time_gradient(network, tokens, targets, exact=True)
    assert found.lags == log_spaced(TIME - 1)
    assert found.curve == pytest.approx(expected[found.lags].tolist(), rel=1e-9)


def test_the_exact_gradient_of_somebody_elses_module_whatever_comes_first(tokens, targets):
    class TimeFirst(Recurrent):
        def forward(self, tokens):
            return super().forward(tokens.T)

    model, other = Recurrent(nn.GRU), TimeFirst(nn.GRU, batch_first=False)
    other.load_state_dict(model.state_dict())
    for exact in (False, True):
        expected = time_gradient(model, tokens, targets, exact=exact).curve
        assert time_gradient(other, tokens, targets, exact=exact).curve == pytest.approx(expected, rel=1e-5)


def test_lags_are_few_and_reach_from_one_to_the_end():
    lags = log_spaced(1000)
    assert (lags[:5], lags[-1]) == ([1, 2, 3, 4, 5], 1000)
    assert len(lags) < 32
    assert lags == sorted(set(lags))
    assert log_spaced(3) == [1, 2, 3]


# -- what is known ------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.3, 0.9, 0.99])
def test_a_linear_recurrence_vanishes_by_its_factor(a, tokens, targets):
    found = time_gradient(Linear(a), tokens, targets)
    assert found.curve[1:] == pytest.approx([a**k for k in range(TIME - 1)], rel=1e-4)
    assert found.decay_per_step == pytest.approx(a, rel=1e-5)
    half_life, horizon = math.log(0.5, a), 1 + math.log(0.01, a)
    assert found.half_life == (pytest.approx(half_life, rel=1e-3) if half_life < TIME - 2 else math.inf)
    assert found.horizon == (pytest.approx(horizon, rel=1e-3) if horizon < TIME - 1 else math.inf)
    assert not found.explodes


@pytest.mark.parametrize(("a", "explodes"), [(1.0, False), (1.01, False), (1.1, True), (3.0, True)])
def test_it_explodes_where_it_more_than_doubles(a, explodes, tokens, targets):
    for rows in (1, 3):
        found = time_gradient(Linear(a), tokens[:rows], targets[:rows])
        assert found.decay_per_step == pytest.approx(a, rel=1e-5)
        assert found.explodes == explodes
        assert found.half_life == found.horizon == math.inf


def test_growth_by_chance_is_no_explosion():
    noise = torch.randn(8, 100, generator=torch.Generator().manual_seed(1)).double()
    lags = torch.arange(100)
    steep = describe_decay(lags.tolist(), (noise + 0.02 * lags).exp(), 0.0)
    chance = describe_decay(lags.tolist(), (3 * noise[:, :1] * lags * 0.02 + 0.01 * lags).exp(), 0.0)
    assert steep.explodes
    assert chance.decay_per_step > 1
    assert not chance.explodes


def test_what_is_below_the_smallest_number_does_not_bend_the_line(targets):
    tokens = torch.randint(0, VOCAB, (3, 200))
    found = time_gradient(Linear(0.5), tokens, targets)
    assert found.curve[-1] == 0.0  # 2 to the power of -198
    assert found.decay_per_step == pytest.approx(0.5, rel=1e-4)


def test_what_is_above_the_largest_number_is_left_out():
    lags = list(range(200))
    norms = torch.tensor([[4.0**k if k < 60 else math.inf for k in lags]]).double().expand(3, -1)
    found = describe_decay(lags, norms, 0.0)
    assert len(found.lags) == len(found.curve) == 60
    assert found.decay_per_step == pytest.approx(4.0)
    assert found.explodes
    with pytest.raises(InputError, match="too large for a number: it explodes"):
        describe_decay(lags, norms.roll(-58, 1), 0.0)


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda: Recurrent(nn.RNN, 64), 0.4, 0.6),
        (lambda: Recurrent(nn.LSTM, 64), 0.5, 0.7),
        (lambda: LSTM(VOCAB, 64, 64, forget_gate_bias=3.0), 0.97, 1.0),
        (lambda: Transformer(VOCAB, 64, 2, 4), 0.99, 1.02),
    ],
    ids=["rnn", "lstm as torch starts it", "lstm with open forget gates", "transformer"],
)
def test_how_the_families_start(make, low, high):
    tokens = torch.randint(0, VOCAB, (8, 65))
    found = time_gradient(make(), tokens[:, :-1], tokens[:, -1])
    assert low < found.decay_per_step < high
    assert not found.explodes


def test_beyond_the_sliding_windows_of_all_layers_is_nothing(tokens, targets):
    found = time_gradient(Transformer(VOCAB, 16, 2, 2, sliding_window=4), tokens, targets)
    assert all(found.curve[:7])
    assert not any(found.curve[7:])
    assert found.horizon == pytest.approx(6, abs=0.05)


# -- whose model it is --------------------------------------------------------------------------------


def stepwise(embedding, tokens):
    return torch.stack([embedding(each) for each in tokens.unbind(1)], 1)


def time_first(embedding, tokens):
    return embedding(tokens.T).transpose(0, 1)


def in_pieces(embedding, tokens):
    return torch.cat([embedding(tokens[:, :5]), embedding(tokens[:, 5:])], 1)


def in_place(embedding, tokens):
    return embedding(tokens).mul_(3.0)


def twice(embedding, tokens):
    return embedding(tokens) + 2 * embedding(tokens)


@pytest.mark.parametrize("embed", [stepwise, time_first, in_pieces, in_place, twice])
def test_however_the_embedding_is_called(embed, tokens, targets):
    model = Linear(0.8, embed)
    assert time_gradient(model, tokens, targets).curve == pytest.approx(
        [0.8 ** (k - 1) for k in range(TIME)], rel=1e-4
    )


def test_one_matrix_for_embedding_and_head(tokens, targets):
    network = Transformer(VOCAB, 16, 1, 2, tie_weights=True)
    apart = copy.deepcopy(network)
    apart.head.linear.weight = nn.Parameter(apart.embedding.weight.detach().clone())
    expected = time_gradient(apart, tokens, targets).curve
    assert time_gradient(network, tokens, targets).curve == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (logits, "state"),
        lambda logits: [logits],
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: logits.flatten(0, 1),
        lambda logits: logits.transpose(0, 1),
    ],
)
def test_whatever_a_model_wraps_its_logits_in(wrap, tokens, targets):
    class Wrapped(Linear):
        def forward(self, tokens):
            return wrap(super().forward(tokens))

    assert time_gradient(Wrapped(0.7), tokens, targets).decay_per_step == pytest.approx(0.7, rel=1e-5)


def test_gpt2_of_hugging_face(tokens, targets):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCAB, n_positions=TIME, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config)
    found = time_gradient(model, tokens, targets)
    assert len(found.curve) == TIME
    assert time_gradient(model, tokens, targets, at="transformer.wte").curve == found.curve


def test_at_names_what_embeds_the_inputs(tokens, targets):
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Embedding(TIME, 4)
            self.inputs = nn.Sequential(nn.Linear(3, 4))
            self.rest = Linear(0.6, lambda _, x: x)

        def forward(self, x):
            positions = self.positions(torch.arange(x.size(1)))
            return self.rest(self.inputs(x) + 0.0 * positions)

    model, x = Features(), torch.randn(3, TIME, 3)
    assert time_gradient(model, x, targets, at="inputs").decay_per_step == pytest.approx(0.6, rel=1e-5)
    assert find_embedding(model) is model.positions
    with pytest.raises(InputError, match=r"has no submodule 'input' \(did you mean 'inputs'\?\)"):
        time_gradient(model, x, targets, at="input")
    with pytest.raises(InputError, match=r"shape \(24, 4\) for 3 sequences .*: name as `at`"):
        time_gradient(model, x, targets)


# -- no trace -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_of_the_module_changes(exact, tokens, targets):
    model = LSTM(VOCAB, 8, 8, num_layers=2, dropout=0.5, weight_drop=0.3)
    model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    model(tokens, None, tokens)[0].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    with torch.inference_mode():  # as Lightning validates
        first = time_gradient(model, tokens.clone(), targets.clone(), exact=exact)
        assert not torch.is_grad_enabled()
    with torch.autocast("cpu", torch.bfloat16):
        assert time_gradient(model, tokens, targets, exact=exact) == first
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.cudnn.enabled
    assert not model.embedding._forward_hooks


def test_frozen_weights_have_gradients_through_time_all_the_same(tokens, targets):
    for exact in (False, True):
        model = Recurrent(nn.LSTM)
        expected = time_gradient(model, tokens, targets, exact=exact)
        assert time_gradient(model.requires_grad_(False), tokens, targets, exact=exact) == expected


# -- what does not fit --------------------------------------------------------------------------------


class Packed(Recurrent):
    def forward(self, tokens):
        x = nn.utils.rnn.pack_padded_sequence(self.embedding(tokens), [TIME] * 3, batch_first=True)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.body(x)[0], batch_first=True)[0])


class Loop(Recurrent):
    def forward(self, tokens):
        outputs, state = [], None
        for x in self.embedding(tokens).split(1, 1):
            output, state = self.body(x, state)
            outputs.append(output)
        return self.head(torch.cat(outputs, 1))


class Both(Recurrent):
    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens))[0][..., :8])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: MinGRU(VOCAB, 8, 8), "MinGRU runs none of them"),
        (lambda: Transformer(VOCAB, 8, 1, 1), "Transformer runs none of them"),
        (lambda: Both(bidirectional=True), "a layer is bidirectional"),
        (Packed, "no packed sequences"),
        (Loop, "run over all 24 tokens, and one runs over 1"),
    ],
)
def test_exact_refuses_what_it_cannot_cut(model, message, tokens, targets):
    with pytest.raises(InputError, match=f"{message}.*leave exact out"):
        time_gradient(model(), tokens, targets, exact=True)
    assert time_gradient(model(), tokens, targets).decay_per_step > 0  # at the inputs it can


class Unused(Linear):
    def forward(self, tokens):
        return self.head(F.embedding(tokens, self.embedding.weight))


class OneLogit(Linear):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class Memoryless(Linear):
    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Twice(Linear):
    def forward(self, tokens):
        return super().forward(tokens) + self.head(self.embedding(tokens[:, :5])).mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(3, 3), "Linear has no nn.Embedding: name as `at`"),
        (lambda: Unused(0.5), "does not call its first nn.Embedding"),
        (lambda: OneLogit(0.5), r"returned shape \(3, 11\) for 3 sequences of 24 tokens; logits \(batch"),
        (lambda: Memoryless(0.5), "no finite gradient reaches the token before"),
        (lambda: Twice(0.5), "called for 29 tokens in sequences of 24"),
        (lambda: Linear(math.nan), "the weights have diverged"),
    ],
)
def test_errors_say_what_to_do(model, message, tokens, targets):
    with pytest.raises(InputError, match=message):
        time_gradient(model(), tokens, targets)


def test_too_few_tokens_are_refused(tokens, targets):
    with pytest.raises(InputError, match="got sequences of 3 tokens: give 4 or more"):
        time_gradient(Linear(0.5), tokens[:, :3], targets)
    assert time_gradient(Linear(0.5), tokens[:, :4], targets).decay_per_step == pytest.approx(0.5)
