import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_seq.errors import InputError
from lightning_seq.networks import GRU, LSTM, Transformer
from lightning_seq.networks.saliency import saliency
from tests.networks.families import FAMILIES, VOCAB_SIZE

TIME = 9


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB_SIZE, (2, TIME))


class Recurrent(nn.Module):
    """Somebody's model around a fused layer."""

    def __init__(self, layer=nn.LSTM, **options):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 8)
        self.body = layer(8, 8, **{"batch_first": True, **options})
        self.head = nn.LazyLinear(VOCAB_SIZE)
        self(torch.zeros(1, 1, dtype=torch.int64))  # which makes the head

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens))[0])


class TimeFirst(Recurrent):
    def __init__(self):
        super().__init__(batch_first=False)

    def forward(self, tokens):
        return super().forward(tokens.T)


class Encoder(nn.Module):
    """PyTorch's own Transformer, which has a fast path at evaluation."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 8)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, VOCAB_SIZE)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.size(1), dtype=self.head.weight.dtype)
        return self.head(self.body(self.embedding(tokens), mask, is_causal=True))


class Shifted(nn.Module):
    """Predicts from the token some places back alone."""

    def __init__(self, shift, scale=1.0):
        super().__init__()
        self.shift, self.scale = shift, scale
        self.embedding, self.head = nn.Embedding(VOCAB_SIZE, 4), nn.Linear(4, VOCAB_SIZE)

    def forward(self, tokens):
        x = F.pad(self.embedding(tokens), (0, 0, self.shift, 0))[:, : tokens.size(1)]
        return self.scale * self.head(x)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=VOCAB_SIZE, n_positions=16))


def by_hand(module, tokens):
    """A backward for each prediction of each sequence, all in fp64."""
    module.eval()
    embedding = next(m for m in module.modules() if isinstance(m, nn.Embedding))
    maps = torch.zeros(*tokens.shape, tokens.size(1), dtype=torch.float64)
    for s, row in enumerate(tokens):
        leaf = embedding(row[None]).detach().requires_grad_()
        # of the shape that the module wants: some have the time first
        handle = embedding.register_forward_hook(lambda _m, _a, out, leaf=leaf: leaf.reshape(out.shape))
        output = module(row[None])
        handle.remove()
        logits = output.logits if hasattr(output, "logits") else output
        logits = logits[0] if isinstance(logits, tuple) else logits
        scores = logits.reshape(len(row), -1).log_softmax(-1).amax(-1)
        for t, score in enumerate(scores):
            norms = torch.autograd.grad(score, leaf, retain_graph=True)[0][0].norm(dim=-1)
            maps[s, t] = norms / norms.sum()
    return maps.float()


# -- against a loop -----------------------------------------------------------------------------------

MODULES = FAMILIES | {
    "nn.LSTM": Recurrent,
    "nn.LSTM, time first": TimeFirst,
    "nn.GRU": lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.5),
    "nn.TransformerEncoder": Encoder,
    "gpt2": gpt2,
}


@pytest.mark.parametrize("name", MODULES)
def test_equals_a_backward_for_each_prediction(name, tokens):
    module = MODULES[name]().double()
    expected = by_hand(module, tokens)
    module.train()
    found = saliency(module, tokens, rows=5)
    torch.testing.assert_close(found.maps, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(2, TIME))
    assert not found.maps.triu(1).any()


@given(
    sequences=st.integers(1, 3),
    time=st.integers(1, 12),
    rows=st.integers(1, 14),
    kind=st.sampled_from([Recurrent, TimeFirst]),
)
@settings(deadline=None, max_examples=40)
def test_any_number_of_rows_at_once_gives_the_same(sequences, time, rows, kind):
    torch.manual_seed(time)
    module, tokens = kind(), torch.randint(0, VOCAB_SIZE, (sequences, time))
    found = saliency(module, tokens, rows=rows)
    torch.testing.assert_close(found.maps, by_hand(module, tokens), rtol=1e-3, atol=1e-5)
    assert torch.equal(found.predicted, saliency(module, tokens, rows=99, causal=False).predicted)


def test_no_more_rows_run_at_once_than_allowed(tokens):
    module, seen = Recurrent(), []
    module.body.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[:2]))
    saliency(module, tokens.repeat(3, 4), rows=13)
    assert max(batch for batch, _ in seen) == 13
    assert sum(batch for batch, _ in seen) == 6 * 36
    assert sum(batch * time for batch, time in seen) < 0.62 * 6 * 36 * 36  # about half of the square


# -- what is known ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_finds_the_one_token_that_counts(shift, tokens):
    module = Shifted(shift)
    found = saliency(module, tokens)
    expected = torch.zeros(TIME, TIME)
    expected[range(shift, TIME), range(TIME - shift)] = 1  # the first predictions have nothing to see
    torch.testing.assert_close(found.maps, expected.expand(2, -1, -1))
    likeliest = module(tokens).softmax(-1).max(-1)
    assert torch.equal(found.predicted, likeliest.indices)
    torch.testing.assert_close(found.probability, likeliest.values.detach())


def test_predictions_that_are_certain_depend_on_something_too(tokens):
    module = Recurrent()
    with torch.no_grad():
        module.head.weight.mul_(150), module.head.bias.mul_(150)
    found = saliency(module, tokens)
    certain = found.probability == 1
    assert certain.sum() > 1
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(2, TIME))
    expected = by_hand(module.double(), tokens)
    doubt = 1 - module(tokens).softmax(-1).amax(-1)
    told = doubt > 1e-11  # the loop's log-probability is 0 to the last digit where there is less
    assert (told & certain).any()
    torch.testing.assert_close(found.maps[told], expected[told], rtol=1e-3, atol=1e-4)


def test_gradients_whose_squares_vanish_have_shares_too(tokens):
    found = saliency(Shifted(2, scale=1e-30), tokens)
    torch.testing.assert_close(found.maps[:, 2:].sum(-1), torch.ones(2, TIME - 2))


def test_where_one_token_is_all_there_is_it_gets_all():
    found = saliency(Recurrent(), torch.tensor([[3], [4]]))
    assert found.maps.tolist() == [[[1.0]], [[1.0]]]


def test_logits_that_are_ruled_out_do_no_harm(tokens):
    class Masked(Recurrent):
        def forward(self, tokens):
            logits = super().forward(tokens)
            return logits.masked_fill(torch.arange(VOCAB_SIZE) > 5, -torch.inf)

    module = Masked()
    torch.testing.assert_close(saliency(module, tokens).maps, by_hand(module, tokens), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [Recurrent, FAMILIES["min_gru"], FAMILIES["transformer"]])
def test_bf16_weights(make, tokens):
    module = make().bfloat16()
    found = saliency(module, tokens)
    assert found.maps.dtype == found.probability.dtype == torch.float32
    torch.testing.assert_close(found.maps.sum(-1), torch.ones(2, TIME))
    torch.testing.assert_close(found.maps, saliency(module.float(), tokens).maps, rtol=0.2, atol=0.05)


# -- models that look ahead ---------------------------------------------------------------------------


def test_both_directions_where_they_are_asked_for(tokens):
    module = Recurrent(bidirectional=True)
    found = saliency(module, tokens, rows=4, causal=False)
    assert found.maps.triu(1).any()
    torch.testing.assert_close(found.maps, by_hand(module, tokens), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_look_ahead_is_noticed(rows, tokens):
    with pytest.raises(InputError, match=r"depend on later tokens: say causal=False"):
        saliency(Recurrent(bidirectional=True), tokens, rows=rows)


def test_later_tokens_change_nothing_of_what_came_before(tokens):
    module = FAMILIES["transformer"]()
    whole, part = saliency(module, tokens), saliency(module, tokens[:, :4])
    torch.testing.assert_close(whole.maps[:, :4, :4], part.maps)
    assert torch.equal(whole.predicted[:, :4], part.predicted)


# -- no trace -----------------------------------------------------------------------------------------


def test_nothing_of_the_module_changes(tokens):
    module = LSTM(VOCAB_SIZE, 8, 8, num_layers=2, dropout=0.5, weight_drop=0.3)
    module.layers[0].eval()
    modes = [m.training for m in module.modules()]
    module(tokens, None, tokens)[0].backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    random = torch.get_rng_state()
    with torch.inference_mode():  # as Lightning validates
        first = saliency(module, tokens.clone())
        assert not torch.is_grad_enabled()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(saliency(module, tokens).maps, first.maps)
    with pytest.raises(InputError):
        saliency(module, tokens, at="layers")  # which fails only after the forward
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.cudnn.enabled
    assert not any(m._forward_hooks for m in module.modules())
    assert not any(each.requires_grad for each in vars(first).values())


def test_tables_that_a_validation_made_do_no_harm(tokens):
    module = Transformer(VOCAB_SIZE, 16, 1, 2).eval()
    with torch.inference_mode():
        module(tokens, module.initial_state(2, TIME))
        found = saliency(module, tokens)
    torch.testing.assert_close(found.maps, by_hand(module, tokens), rtol=1e-3, atol=1e-5)


def test_compiled_modules_run_eagerly(tokens):
    module = Transformer(VOCAB_SIZE, 16, 1, 2)
    expected = saliency(module, tokens)
    module.compile(backend="eager")
    module(tokens)
    torch.testing.assert_close(saliency(module, tokens).maps, expected.maps)
    wrapped = torch.compile(module, backend="eager")
    torch.testing.assert_close(saliency(wrapped, tokens, at="embedding").maps, expected.maps)


def test_frozen_weights(tokens):
    module = Recurrent()
    expected = saliency(module, tokens).maps
    torch.testing.assert_close(saliency(module.requires_grad_(False), tokens).maps, expected)


# -- what does not fit --------------------------------------------------------------------------------


class Unused(Recurrent):
    def forward(self, tokens):
        return self.head(F.embedding(tokens, self.embedding.weight))


class OneLogit(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class NoGradient(Recurrent):
    @torch.no_grad()
    def forward(self, tokens):
        return super().forward(tokens)


def diverged():
    module = GRU(VOCAB_SIZE, 8, 8)
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 3), "Linear has no nn.Embedding: name as `at`"),
        (lambda: Unused(nn.Identity), "does not call its first nn.Embedding"),
        (OneLogit, r"returned shape \(8, 23\) for 8 sequences of 9 tokens; logits \(batch"),
        (NoGradient, "no gradient comes through"),
        (diverged, "the logits are not finite: the weights have diverged"),
    ],
)
def test_errors_say_what_to_do(make, message, tokens):
    with pytest.raises(InputError, match=message) as error:
        saliency(make(), tokens)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(5,), (2, 0), (0, 5), (2, 3, 4)])
def test_only_sequences_of_ids_are_taken(shape):
    with pytest.raises(InputError, match=r"got tokens of shape .*: give ids \(sequences, time\)"):
        saliency(Recurrent(), torch.zeros(shape, dtype=torch.int64))


def test_rows_are_at_least_one(tokens):
    with pytest.raises(InputError, match="rows is 0: give 1 or more"):
        saliency(Recurrent(), tokens, rows=0)
