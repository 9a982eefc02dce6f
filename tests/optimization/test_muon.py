"""Muon and AdamW as one against torch's two, and which parameters go to which."""

import copy
import gc
import io

import pytest
import torch
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks import MinGRU, MinLSTM
from lightning_seq.optimization import MuonAdamW, build_optimizer, hidden_matrices, muon_groups

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
pytestmark = needs_muon

TOKENS = torch.randint(0, 11, (30, 4, 7), generator=torch.Generator().manual_seed(0))


class Feedforward(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        self.head = nn.Sequential(nn.Linear(8, 11))

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.down(self.up(self.norm(x)).tanh()))


class Recurrent(nn.Module):
    def __init__(self, layer=nn.LSTM, tie_weights=False):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.rnn = layer(6, 5, num_layers=2, batch_first=True)
        self.first = nn.ParameterList([torch.zeros(2, 5)])
        self.projection, self.head = nn.Linear(5, 6), nn.Linear(6, 11)
        if tie_weights:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(self.projection(self.rnn(x)[0] + self.first[0][-1]))


def feedforward():
    torch.manual_seed(1)
    return Feedforward()


def lstm():
    torch.manual_seed(1)
    return Recurrent()


def backward(net, step, scale=1.0):
    net.zero_grad()
    loss = nn.functional.cross_entropy(net(TOKENS[step, :, :-1]).transpose(1, 2), TOKENS[step, :, 1:])
    (loss * scale).backward()
    return loss


def train(net, optimizers, steps):
    for step in steps:
        backward(net, step)
        for optimizer in optimizers:
            optimizer.step()


def names_of(net, parameters):
    names = {p: name for name, p in net.named_parameters()}
    return {names[p] for p in parameters}


def assert_same(net, other):
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def assert_differ(net, other):
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        assert not torch.equal(a, b), name


# -- the same as torch's ----------------------------------------------------------------------------------


@pytest.fixture
def with_bfloat16(monkeypatch):
    """As on a CPU that has instructions for it: there torch's own Muon is called."""
    monkeypatch.setattr("lightning_seq.optimization.muon.lacks_bfloat16", lambda device: False)


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_bfloat16_the_move_is_torchs_but_for_rounding(monkeypatch, shape, momentum):
    monkeypatch.setattr("lightning_seq.optimization.muon.lacks_bfloat16", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(shape, generator=generator) for _ in range(4))
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.1, "weight_decay": 0.1, "momentum": momentum}
    ours = MuonAdamW([{"params": [mine], "algorithm": "muon"}], **options)
    muon = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    for gradient in gradients:
        before = theirs.detach().clone()
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        muon.step()
        move = (theirs.detach() - before).norm()
        assert (mine.detach() - theirs.detach()).norm() < 0.06 * move  # bfloat16 rounds: 3 % of a move
        theirs.data.copy_(mine.detach())  # each step for itself
    buffers = [each.state[p]["momentum_buffer"] for each, p in ((ours, mine), (muon, theirs))]
    torch.testing.assert_close(*buffers, rtol=0, atol=0)


@pytest.mark.usefixtures("with_bfloat16")
def test_is_torchs_muon_and_torchs_adamw():
    net, reference, start = feedforward(), feedforward(), feedforward()
    options = {"lr": 0.01, "weight_decay": 0.1}
    ours = MuonAdamW(muon_groups(net, 0.1), betas=(0.8, 0.9), momentum=0.9, **options)
    hidden = list(hidden_matrices(reference))
    rest = [p for p in reference.parameters() if not any(p is matrix for matrix in hidden)]
    muon = torch.optim.Muon(hidden, momentum=0.9, adjust_lr_fn="match_rms_adamw", **options)
    matrices, vectors = [p for p in rest if p.dim() > 1], [p for p in rest if p.dim() < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.9), **options)
    train(net, [ours], range(10))
    train(reference, [muon, adamw], range(10))
    assert_same(net, reference)
    assert_differ(net, start)


@pytest.mark.usefixtures("with_bfloat16")
def test_gates_are_made_orthogonal_as_if_they_were_matrices_of_their_own():
    net, reference = lstm(), lstm()
    ours = MuonAdamW(muon_groups(net, 0.1), lr=0.01)
    stacked = [reference.rnn.weight_ih_l0, reference.rnn.weight_hh_l1]
    gates = [[nn.Parameter(gate.clone()) for gate in matrix.detach().chunk(4)] for matrix in stacked]
    options = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    muon = torch.optim.Muon([gate for group in gates for gate in group], **options)
    for step in range(5):
        backward(net, step)
        for matrix, group in zip((net.rnn.weight_ih_l0, net.rnn.weight_hh_l1), gates, strict=True):
            for gate, gradient in zip(group, matrix.grad.chunk(4), strict=True):
                gate.grad = gradient.clone()
        ours.step()
        muon.step()
    for matrix, group in zip((net.rnn.weight_ih_l0, net.rnn.weight_hh_l1), gates, strict=True):
        torch.testing.assert_close(matrix.detach(), torch.cat(group).detach(), rtol=0, atol=0)


# -- what goes where --------------------------------------------------------------------------------------


def test_embedding_head_and_vectors_are_not_hidden():
    net = feedforward()
    hidden = names_of(net, hidden_matrices(net))
    assert hidden == {"up.weight", "down.weight"}


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_matrices_are_hidden_and_counted_in_gates(layer, gates, tie_weights):
    net = Recurrent(layer, tie_weights)
    names = {p: name for name, p in net.named_parameters()}
    recurrent = {f"rnn.weight_{kind}_l{number}": gates for kind in ("ih", "hh") for number in range(2)}
    hidden = {names[p]: blocks for p, blocks in hidden_matrices(net).items()}
    assert hidden == {**recurrent, "projection.weight": 1}


def test_a_cell_and_a_parametrized_layer_are_counted_in_gates_too():
    layer = nn.utils.parametrizations.spectral_norm(nn.LSTM(3, 5), "weight_hh_l0")
    net = nn.ModuleList([nn.GRUCell(3, 5), layer])
    assert sorted(hidden_matrices(net).values()) == [3, 3, 4, 4]


@pytest.mark.parametrize(("network", "maps"), [(MinGRU, 2), (MinLSTM, 3)])
def test_the_stacked_maps_of_a_parallel_recurrence_are_gates_too(network, maps):
    net = network(11, 8, 6, 1)
    names = {p: name for name, p in net.named_parameters()}
    hidden = {names[p]: blocks for p, blocks in hidden_matrices(net).items()}
    assert {name for name, blocks in hidden.items() if blocks > 1} == {"blocks.0.input.weight"}
    assert hidden["blocks.0.input.weight"] == maps
    net(TOKENS[0])[0].square().sum().backward()
    before = net.blocks[0].input.weight.detach().clone()
    build_optimizer(net, "muon", 0.1, 0.0).step()
    for move in (net.blocks[0].input.weight.detach() - before).chunk(maps):
        sizes = torch.linalg.svdvals(move) / (0.1 * 0.2 * 8**0.5)
        assert ((sizes > 0.6) & (sizes < 1.3)).all()


def test_a_frozen_matrix_and_a_kernel_of_a_convolution_are_not_hidden():
    net = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 3, 2), nn.Linear(3, 2)).requires_grad_(True)
    net[2].requires_grad_(False)
    assert names_of(net, hidden_matrices(net)) == {"0.weight"}
    groups = muon_groups(net, 0.1)
    assert [[p.dim() for p in group["params"]] for group in groups] == [[2], [3], [1, 1]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]


@pytest.mark.parametrize("tie_weights", [False, True])
def test_every_parameter_is_in_one_group(tie_weights):
    net = Recurrent(tie_weights=tie_weights)
    given = [p for group in muon_groups(net, 0.1) for p in group["params"]]
    assert len(given) == len({id(p) for p in given}) == len(list(net.parameters()))


# -- an optimizer like others -----------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 5])
@pytest.mark.parametrize("make", [feedforward, lstm])
def test_goes_on_from_its_state_to_the_bit(make, stop):
    whole, net = make(), make()
    train(whole, [build_optimizer(whole, "muon", 0.01, 0.1)], range(8))
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    train(net, [optimizer], range(stop))
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    net = make()
    net.load_state_dict(weights)
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    train(make(), [optimizer], [])
    optimizer.load_state_dict(state)
    train(net, [optimizer], range(stop, 8))
    assert_same(net, whole)


def test_loading_does_not_take_hold_of_what_was_loaded():
    net = lstm()
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    train(net, [optimizer], range(3))
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    twin_net = copy.deepcopy(net)
    twin = build_optimizer(twin_net, "muon", 0.01, 0.1)
    twin.load_state_dict(copy.deepcopy(state))
    train(twin_net, [twin], range(3, 6))
    for index, entry in kept["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(state["state"][index][key], value, rtol=0, atol=0)


def test_learning_rates_of_all_groups_are_heeded():
    net, start = feedforward(), feedforward()
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(net, [optimizer], range(2))
    assert_same(net, start)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    train(net, [optimizer], range(2))
    assert_differ(net, start)


def test_a_copy_goes_on_by_itself():
    net = lstm()
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    train(net, [optimizer], range(2))
    twin_net, twin = copy.deepcopy((net, optimizer))
    train(twin_net, [twin], range(2, 4))
    assert_differ(net, twin_net)
    train(net, [optimizer], range(2, 4))
    assert_same(net, twin_net)


def test_groups_can_be_added_to_both():
    torch.manual_seed(0)
    first, hidden, bias = (nn.Parameter(torch.randn(size)) for size in ((3, 3), (4, 4), (4,)))
    optimizer = MuonAdamW([{"params": [first], "algorithm": "muon"}], lr=0.1)
    optimizer.add_param_group({"params": [hidden], "algorithm": "muon"})
    optimizer.add_param_group({"params": [bias], "lr": 0.01, "weight_decay": 0.0})
    before = bias.detach().clone()
    for p in (first, hidden, bias):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [set(optimizer.state[p]) for p in (first, hidden)] == [{"momentum_buffer"}] * 2
    torch.testing.assert_close(bias.detach(), before - 0.01)  # AdamW's first step is the learning rate


def test_parameters_without_a_gradient_stay_and_gradients_do_not_outlive_zero_grad():
    net, start = feedforward(), feedforward()
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    backward(net, 0)
    net.up.weight.grad = None
    optimizer.step()
    addresses = {p.grad.data_ptr() for p in net.parameters() if p.grad is not None}
    optimizer.zero_grad()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and x.is_leaf]
    assert not [x for x in tensors if x.grad is not None and x.grad.data_ptr() in addresses]
    torch.testing.assert_close(net.up.weight, start.up.weight, rtol=0, atol=0)
    after = copy.deepcopy(net)
    optimizer.step()
    assert_same(net, after)


def test_its_closure_runs_once_with_gradients_and_its_hooks_too():
    net, start, seen = feedforward(), feedforward(), []
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        seen.append(torch.is_grad_enabled())
        return backward(net, 0)

    assert optimizer.step(closure).item() > 0
    assert seen == ["before", True, "after"]
    assert_differ(net, start)


def test_a_gradient_scaler_unscales_and_skips():
    net, reference = feedforward(), feedforward()
    optimizer = build_optimizer(net, "muon", 0.01, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        backward(net, step, scale=float(scaler.get_scale()))
        scaler.scale(torch.ones(()))  # the scaler wants to have scaled something
        scaler.step(optimizer)
        scaler.update()
    train(reference, [build_optimizer(reference, "muon", 0.01, 0.1)], range(3))
    assert_same(net, reference)
    backward(net, 3, scale=float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert_same(net, reference)
    assert scaler.get_scale() == 512.0


def test_an_older_torch_is_refused(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"needs torch 2\.9 or later, and this is .*: update torch, or take"):
        build_optimizer(feedforward(), "muon", 0.01)


def test_a_network_without_hidden_matrices_is_refused():
    net = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3)})
    with pytest.raises(InputError, match="for hidden matrices, and ModuleDict has none to train: take"):
        build_optimizer(net, "muon", 0.01)
