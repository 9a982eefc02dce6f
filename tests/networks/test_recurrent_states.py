import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from lightning_seq.networks.parallel_recurrent import MinGRU, MinLSTM
from lightning_seq.networks.recurrent import GRU, LSTM, ElmanRNN
from lightning_seq.networks.recurrent_measures import LONGEST_HALF_LIFE, dead_units, half_lives, summarize
from lightning_seq.networks.recurrent_states import recurrent_states

CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN_TANH": nn.RNNCell, "RNN_RELU": nn.RNNCell}


def make_layer(kind, *sizes, **options):
    """A layer in fp64, so that nothing but the order of sums is left to differ."""
    if kind.startswith("RNN"):
        layer = nn.RNN(*sizes, nonlinearity=kind[4:].lower(), **options)
    else:
        layer = getattr(nn, kind)(*sizes, **options)
    return layer.double().requires_grad_(False)


def walk(layer, x, depth, way, first):
    """One direction of one of the stacked layers by torch's cell, step by step."""
    names = [n for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if layer.bias or "bias" not in n]
    kind = {"nonlinearity": layer.mode[4:].lower()} if layer.mode.startswith("RNN") else {}
    cell = CELLS[layer.mode](x.size(-1), layer.hidden_size, layer.bias, dtype=x.dtype, **kind)
    cell.load_state_dict({n: getattr(layer, f"{n}_l{depth}" + "_reverse" * way) for n in names})
    state = tuple(each[depth * (1 + layer.bidirectional) + way] for each in first)
    state = state if len(state) == 2 else state[0]
    seen = {}
    for x_t in (x.flip(1) if way else x).unbind(1):
        h = state[0] if isinstance(state, tuple) else state
        of_input, of_past = (
            F.linear(x_t, cell.weight_ih, cell.bias_ih),
            F.linear(h, cell.weight_hh, cell.bias_hh),
        )
        new = cell(x_t, state)
        if layer.mode == "LSTM":
            i, f, _, o = (of_input + of_past).sigmoid().chunk(4, 1)
            step = {"hidden": new[0], "cell": new[1], "forget": f, "input": i, "output": o}
        elif layer.mode == "GRU":
            (r, z, _), parts = (of_input + of_past).sigmoid().chunk(3, 1), (of_input, of_past)
            candidate = (parts[0].chunk(3, 1)[2] + r * parts[1].chunk(3, 1)[2]).tanh()
            torch.testing.assert_close(new, (1 - z) * candidate + z * h)  # z keeps
            step = {"hidden": new, "update": 1 - z, "reset": r}
        else:
            step = {"hidden": new}
        for name, value in step.items():
            seen.setdefault(name, []).append(value)
        state = new
    return {name: torch.stack(values, 1).detach() for name, values in seen.items()}


def walk_all(layer, x, first):
    found = []
    for depth in range(layer.num_layers):
        ways = [walk(layer, x, depth, way, first) for way in range(1 + layer.bidirectional)]
        found += ways
        x = torch.cat(
            [each["hidden"].flip(1) if way else each["hidden"] for way, each in enumerate(ways)], -1
        )
    return found


def as_dict(states):
    found = {"hidden": states.hidden, **states.gates}
    return found if states.cell is None else {**found, "cell": states.cell}


def assert_same(states, expected):
    assert len(states) == len(expected)
    for got, each in zip(states.values(), expected, strict=True):
        torch.testing.assert_close(as_dict(got), each, rtol=1e-10, atol=1e-12)
        if got.log_keep is not None:
            keep = each["forget"] if "forget" in each else 1 - each["update"]
            torch.testing.assert_close(got.log_keep, keep.log(), rtol=1e-9, atol=1e-12)


def zeros(layer, batch):
    count = layer.num_layers * (1 + layer.bidirectional)
    return (torch.zeros(count, batch, layer.hidden_size, dtype=torch.float64),) * (
        2 if layer.mode == "LSTM" else 1
    )


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(CELLS)),
    batch=st.integers(1, 3),
    time=st.integers(1, 6),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    past=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_a_loop_over_the_cell(
    kind, batch, time, sizes, layers, bidirectional, batch_first, bias, past, seed
):
    torch.manual_seed(seed)
    layer = make_layer(kind, *sizes, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias)
    x = torch.randn(batch, time, sizes[0], dtype=torch.float64)
    first = tuple(torch.randn_like(each) if past else each for each in zeros(layer, batch))
    given_state = ((first if len(first) == 2 else first[0]),) if past else ()
    states = recurrent_states(layer, x if batch_first else x.transpose(0, 1), *given_state)
    assert_same(states, walk_all(layer, x, first))
    names = [
        f"layer{i}{way}" for i in range(layers) for way in (("", "_reverse") if bidirectional else ("",))
    ]
    assert list(states) == names


@settings(max_examples=20, deadline=None)
@given(
    cls=st.sampled_from([MinGRU, MinLSTM]),
    time=st.integers(1, 9),
    hidden=st.integers(1, 5),
    layers=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_min_gru_and_min_lstm_equal_a_loop(cls, time, hidden, layers, seed):
    torch.manual_seed(seed)
    network = cls(7, 6, hidden, layers).double().requires_grad_(False)
    tokens = torch.randint(0, 7, (2, time))
    expected, x = [], network.embedding(tokens)
    for block in network.blocks:
        h, steps = torch.zeros(2, hidden, dtype=torch.float64), []
        for mapped in block.input(block.recurrence_norm(x)).unbind(1):
            if cls is MinGRU:
                keep, candidate = mapped.chunk(2, -1)
                keep = keep.sigmoid()
                enter = 1 - keep
            else:
                f, i, candidate = mapped.chunk(3, -1)
                f, i = f.sigmoid(), i.sigmoid()
                keep, enter = f / (f + i), i / (f + i)
            h = keep * h + enter * candidate
            steps.append((h, enter if cls is MinGRU else keep))
        states, gates = (torch.stack(each, 1) for each in zip(*steps, strict=True))
        expected.append({"hidden": states, "update" if cls is MinGRU else "forget": gates})
        x = block(x, torch.zeros(2, hidden, dtype=torch.float64))[0]
    assert_same(recurrent_states(network, tokens), expected)


def test_projected_states():
    layer = make_layer("LSTM", 3, 5, 2, proj_size=2, batch_first=True)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    for depth, states in enumerate(recurrent_states(layer, x).values()):
        projection = getattr(layer, f"weight_hr_l{depth}")
        assert states.cell.shape == (2, 6, 5)
        hidden = (states.gates["output"] * states.cell.tanh()) @ projection.T
        torch.testing.assert_close(states.hidden, hidden, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_as_if_each_were_alone(kind, bidirectional):
    layer = make_layer(kind, 3, 4, 2, bidirectional=bidirectional)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in (2, 5, 3)]
    together = recurrent_states(layer, pack_sequence(sequences, enforce_sorted=False))
    alone = [recurrent_states(layer, each) for each in sequences]  # and these are without a batch
    for name, states in together.items():
        expected = torch.cat([each[name].hidden for each in alone], 1)
        torch.testing.assert_close(states.hidden, expected)
        gates = {g: torch.cat([each[name].gates[g] for each in alone], 1) for g in states.gates}
        torch.testing.assert_close(states.gates, gates)


def test_unbatched_sequences():
    layer = make_layer("GRU", 3, 4)
    x = torch.randn(5, 3, dtype=torch.float64)
    assert_same(recurrent_states(layer, x), walk_all(layer, x[None], zeros(layer, 1)))


class TokenByToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = make_layer("LSTM", 3, 4, 2, batch_first=True)

    def forward(self, x):
        state, out = None, []
        for x_t in x.split(1, 1):
            h, state = self.layer(input=x_t, hx=state)
            out.append(h.clone())
            h.zero_()  # what the layer gave is the module's to change
        return torch.cat(out, 1)


def test_calls_of_one_layer_are_put_after_each_other():
    module = TokenByToken()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    assert_same(recurrent_states(module, x), walk_all(module.layer, x, zeros(module.layer, 2)))


def test_weights_that_somebody_else_drops_are_those_that_ran():
    layer = make_layer("GRU", 3, 4, batch_first=True)
    raw = layer.weight_hh_l0
    del layer._parameters["weight_hh_l0"]
    layer.register_forward_pre_hook(lambda module, args: setattr(module, "weight_hh_l0", raw * 0.5))
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    states = recurrent_states(layer, x)
    assert_same(states, walk_all(layer, x, zeros(layer, 2)))
    torch.testing.assert_close(layer.weight_hh_l0, raw * 0.5)


@pytest.mark.parametrize("cls", [ElmanRNN, GRU, LSTM])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.5, "weight_drop": 0.5},
        {"dropout": 0.5, "layer_norm": True, "weight_drop": 0.3},
        {"dropout": 0.5, "variational_dropout": True, "last_hidden_size": 3, "learn_initial_state": True},
    ],
    ids=str,
)
def test_our_networks_with_all_their_dropouts(cls, options):
    torch.manual_seed(0)
    network = cls(9, 6, 5, 2, **options).double().requires_grad_(False)
    for learnt in network.learnt_state:
        nn.init.normal_(learnt)
    tokens = torch.randint(0, 9, (2, 7))
    states = recurrent_states(network, tokens)
    assert network.training
    assert network.layers[0].training
    network.eval()
    x, first, expected = network.embedding(tokens), list(network.initial_state(2)), []
    for layer, norm in zip(network.layers, network.norms, strict=True):
        part = [first.pop(0).transpose(0, 1) for _ in zeros(layer, 2)]
        expected += walk_all(layer, x, part)
        x = norm(expected[-1]["hidden"])
    assert_same(states, expected)


def test_leaves_nothing_behind_and_needs_no_gradient():
    module = TokenByToken().train()
    module.layer.eval()
    recurrent_states(module, torch.randn(2, 5, 3, dtype=torch.float64))
    assert (module.training, module.layer.training) == (True, False)
    assert not module.layer._forward_hooks
    assert not module.layer._forward_hooks_with_kwargs
    assert recurrent_states(nn.Linear(3, 3), torch.zeros(2, 3)) == {}
    assert summarize({}) == {}


def test_half_precision_is_computed_in_full():
    torch.manual_seed(0)
    network = LSTM(9, 16, 16, 2)
    tokens = torch.randint(0, 9, (2, 12))
    exact = recurrent_states(network, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = recurrent_states(network, tokens)
    for name in exact:
        assert mixed[name].gates["forget"].dtype == torch.float32
        torch.testing.assert_close(as_dict(mixed[name]), as_dict(exact[name]), rtol=0.05, atol=0.02)


# -- numbers ------------------------------------------------------------------------------------------


def constant_gates(cls, forget):
    """A network whose gates see nothing but their bias."""
    network = cls(9, 6, 8, 1).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "weight_ih" in name or "weight_hh" in name or name.endswith("input.weight"):
            parameter[: 16 if cls in (LSTM, GRU) else 8] = 0.0
        if "bias" in name:
            parameter.zero_()
        if "bias_ih" in name:
            parameter[8:16] = forget  # LSTM: input, forget; GRU: reset, update
        if name.endswith("input.bias"):
            parameter[:8] = forget
    if cls is MinLSTM:
        network.blocks[0].input.weight.zero_()
        network.blocks[0].input.bias[8:16] = -forget  # f / (f + i) is the sigmoid of forget
    return network


@pytest.mark.parametrize(
    ("cls", "keeps", "replaces"),
    [
        (LSTM, "forget_open", "forget_closed"),
        (GRU, "update_closed", "update_open"),
        (MinGRU, "update_closed", "update_open"),
        (MinLSTM, "forget_open", "forget_closed"),
    ],
)
def test_a_gate_that_keeps_and_one_that_does_not(cls, keeps, replaces):
    tokens = torch.randint(0, 9, (2, 40))

    def measure(forget):
        return summarize(recurrent_states(constant_gates(cls, forget), tokens))

    for forget in (-1.0, 0.0, 2.0, 9.0):
        numbers = measure(forget)
        half_life = math.log(2) / math.log1p(math.exp(-forget))  # of f = sigmoid(forget), to the last digit
        assert numbers["layer0/half_life"] == pytest.approx(half_life, rel=1e-4)
        assert numbers["layer0/half_life_p90"] == pytest.approx(half_life, rel=1e-4)
    long, short = measure(300.0), measure(-300.0)
    assert (long[f"layer0/{keeps}"], long[f"layer0/{replaces}"]) == (1, 0)
    assert (short[f"layer0/{keeps}"], short[f"layer0/{replaces}"]) == (0, 1)
    assert long["layer0/half_life"] == LONGEST_HALF_LIFE
    assert short["layer0/half_life"] == pytest.approx(math.log(2) / 300, rel=1e-3)
    neither = measure(0.0)
    assert neither[f"layer0/{keeps}"] == neither[f"layer0/{replaces}"] == 0


def test_half_lives_take_the_geometric_mean_of_each_unit():
    keep = torch.tensor([[[0.5, 1.0], [0.125, 1.0]]])  # (1, 2 tokens, 2 units)
    assert half_lives(keep.log()).tolist() == [pytest.approx(0.5), LONGEST_HALF_LIFE]  # 0.5^2 is 0.25


def test_median_and_longest_tenth_are_over_units():
    lives = torch.arange(1.0, 12.0)  # of units, in tokens
    log_keep = (-math.log(2) / lives).expand(3, 7, 11)
    states = recurrent_states(nn.GRU(2, 11, batch_first=True), torch.zeros(3, 7, 2))["layer0"]
    numbers = summarize({"layer0": type(states)(False, None, {}, states.hidden, None, log_keep)})
    assert numbers["layer0/half_life"] == pytest.approx(6, rel=1e-5)
    assert numbers["layer0/half_life_p90"] == pytest.approx(10, rel=1e-5)


def test_numbers_are_those_of_the_values():
    torch.manual_seed(0)
    network = LSTM(9, 6, 8, 2).requires_grad_(False)
    for parameter in network.layers.parameters():
        parameter.mul_(6)  # so that some gates are open and some are closed
    tokens = torch.randint(0, 9, (3, 20))
    layers = recurrent_states(network, tokens)
    numbers = summarize(layers)
    assert set(numbers) == {
        f"layer{i}/{key}"
        for i in range(2)
        for key in [
            *(f"{gate}_{end}" for gate in ("forget", "input", "output") for end in ("open", "closed")),
            *("half_life", "half_life_p90", "hidden_norm", "cell_norm", "dead_units"),
        ]
    }
    for name, layer in layers.items():
        for gate, values in layer.gates.items():
            values = values.flatten().tolist()
            opened, closed = sum(v > 0.95 for v in values), sum(v < 0.05 for v in values)
            assert opened + closed > 0
            assert numbers[f"{name}/{gate}_open"] == pytest.approx(opened / len(values))
            assert numbers[f"{name}/{gate}_closed"] == pytest.approx(closed / len(values))
        norms = [math.hypot(*h) for h in layer.hidden.flatten(0, 1).tolist()]
        assert numbers[f"{name}/hidden_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)
        norms = [math.hypot(*c) for c in layer.cell.flatten(0, 1).tolist()]
        assert numbers[f"{name}/cell_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)


@pytest.mark.parametrize("cls", [LSTM, GRU])
def test_units_without_weights_are_dead(cls):
    torch.manual_seed(0)
    network = cls(9, 6, 8, 1).requires_grad_(False)
    layer = network.layers[0]
    for rows in (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0):
        rows.view(-1, 8, *rows.shape[1:])[:, [2, 5]] = 0.0
    numbers = summarize(recurrent_states(network, torch.randint(0, 9, (3, 60))))
    assert numbers["layer0/dead_units"] == pytest.approx(2 / 8)


def test_units_that_settle_are_dead_though_they_moved_at_first():
    settling = 1 - 0.5 ** torch.arange(64.0)
    lively = torch.randn(64)
    assert dead_units(torch.stack([settling, lively], -1)[None]).tolist() == [True, False]
    assert dead_units(torch.full((2, 64, 3), 0.3)).tolist() == [True] * 3
    assert dead_units(torch.zeros(2, 64, 3)).tolist() == [True] * 3
    nearly = 0.3 + 1e-5 * torch.randn(2, 64, 3)  # as a layer whose input is dead
    assert dead_units(nearly).tolist() == [True] * 3
    assert dead_units(0.3 * torch.randn(2, 64, 3)).tolist() == [False] * 3


def test_relu_units_that_never_fire_are_dead_and_zero():
    torch.manual_seed(0)
    network = ElmanRNN(9, 6, 8, 1, nonlinearity="relu").requires_grad_(False)
    layer = network.layers[0]
    layer.bias_ih_l0[:2] = -100.0
    layer.bias_ih_l0[2:] = 100.0
    layer.weight_hh_l0.zero_()
    numbers = summarize(recurrent_states(network, torch.randint(0, 9, (3, 60))))
    assert numbers["layer0/dead_units"] == numbers["layer0/zeros"] == pytest.approx(2 / 8)
    assert set(numbers) == {"layer0/dead_units", "layer0/zeros", "layer0/hidden_norm"}


def test_saturated_tanh():
    torch.manual_seed(0)
    network = ElmanRNN(9, 6, 8, 1).requires_grad_(False)
    layer = network.layers[0]
    layer.weight_ih_l0.zero_()
    layer.weight_hh_l0.zero_()
    layer.bias_hh_l0.zero_()
    layer.bias_ih_l0.copy_(torch.tensor([9.0, -9.0, 3.0, 0.0, 0.1, -0.1, 0.5, 1.0]))
    numbers = summarize(recurrent_states(network, torch.randint(0, 9, (3, 20))))
    assert numbers["layer0/saturated"] == pytest.approx(3 / 8)
    assert numbers["layer0/dead_units"] == 1
