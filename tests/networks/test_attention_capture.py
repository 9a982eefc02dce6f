"""Any model is seen, and computes what it always does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.networks import Transformer
from lightning_seq.networks.attention_capture import AttentionCall, capture_attention


class Calls(nn.Module):
    """Attends with whatever it is given."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, q, k, v, **options):
        return F.scaled_dot_product_attention(self.inner(q), k, v, **options)


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return tuple(torch.randn(3, 4, 6, 8) for _ in range(3))


# -- what is kept ---------------------------------------------------------------------------------------


def test_rows_are_a_part_of_the_whole(qkv):
    with capture_attention(Calls(), 2) as captured:
        F.scaled_dot_product_attention(*qkv, is_causal=True)
    (call,) = captured.calls
    assert (call.sequences, call.heads, call.queries, call.keys) == (2, 4, 6, 6)
    for start, stop in ((0, None), (2, 4), (-2, None), (5, 99), (3, 3)):
        part = call.rows(start, stop)
        torch.testing.assert_close(part.probabilities, call.probabilities[:, :, start:stop])
        assert torch.equal(part.visible, call.visible[:, :, start:stop])
        torch.testing.assert_close(part.scores, call.rows().scores[:, :, start:stop])


def test_what_is_kept_does_not_change_with_the_tensors(qkv):
    with capture_attention(Calls()) as captured:
        F.scaled_dot_product_attention(*qkv)
        expected = captured.calls[0].probabilities
        qkv[0].zero_()
        qkv[1].zero_()
    assert torch.equal(captured.calls[0].probabilities, expected)


def test_reduce_replaces_the_maps_and_nothing_is_computed_that_it_does_not_ask_for(qkv):
    module = nn.Sequential(Calls())
    with capture_attention(module, reduce=lambda call: (call.module, call.rows(2, 5))) as captured:
        module[0](*qkv)
    ((name, rows),) = captured.calls
    assert name == "0"
    assert rows.probabilities.shape == (1, 4, 3, 6)
    long = torch.zeros(1, 1, 400_000, 1)  # scores would be 600 GB

    def reduce(call):
        return call.rows(0, 2).visible.shape, call.keys

    class Pretends(nn.Module):
        def forward(self, x):
            F.scaled_dot_product_attention(x[:, :, :1], x, x)
            return F.scaled_dot_product_attention(x[:, :, :3], x, x)

    with capture_attention(Pretends(), reduce=reduce) as captured:
        Pretends()(long)
    assert captured.calls == [((1, 1, 1), 400_000), ((1, 1, 2), 400_000)]


def test_maps_that_are_given():
    maps = torch.rand(1, 2, 3, 4, dtype=torch.float64)
    visible = torch.full((1, 2, 3), 4)
    call = AttentionCall.of_maps(maps, visible, "saliency")
    assert (call.module, call.sequences, call.heads, call.queries, call.keys) == ("saliency", 1, 2, 3, 4)
    assert torch.equal(call.probabilities, maps.float())
    assert torch.equal(call.rows(1, 2).visible, visible[:, :, 1:2])
    assert call.rows().scores is None


def test_leaves_nothing_behind_after_an_error(qkv):
    class Fails(nn.Module):
        def forward(self):
            raise ZeroDivisionError

    module = Fails()
    with pytest.raises(ZeroDivisionError), capture_attention(module):
        module()
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    with capture_attention(module) as captured:
        pass
    F.scaled_dot_product_attention(*qkv)
    assert captured.calls == []


def test_errors_are_those_of_the_function_itself():
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 7)
    with pytest.raises(RuntimeError) as without:
        F.scaled_dot_product_attention(q, k, k)
    with capture_attention(Calls()), pytest.raises(RuntimeError) as within:
        F.scaled_dot_product_attention(q, k, k)
    assert str(within.value) == str(without.value)


# -- what is not disturbed ------------------------------------------------------------------------------


def network(**options):
    torch.manual_seed(0)
    return Transformer(61, 32, 2, 4, 16, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_gradients_and_random_numbers_are_those_of_training(dtype):
    net = network(dropout=0.3)
    tokens = torch.randint(61, (3, 12))

    def step():
        torch.manual_seed(1)
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = net(tokens, targets=tokens)
        loss.backward()
        return loss, [p.grad for p in net.parameters()], torch.rand(3)

    plain = step()
    with capture_attention(net) as captured:
        watched = step()
    assert len(captured.calls) == 2
    assert torch.equal(plain[0], watched[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], watched[1], strict=True))
    assert torch.equal(plain[2], watched[2])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler asks for it
@pytest.mark.parametrize("how", ["in place", "wrapped", "submodules", "submodules in place", "function"])
def test_compiled_modules_are_seen_and_not_compiled_again(how):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net = network()
    tokens = torch.randint(61, (3, 12))
    module, call = net, net
    if how == "wrapped":
        module = call = torch.compile(net, backend="eager")
    elif how == "in place":
        net.compile(backend="eager")
    elif how == "function":
        call = torch.compile(lambda *args, **kwargs: net(*args, **kwargs), backend="eager")
    for i, block in enumerate(net.blocks):
        if how == "submodules":
            net.blocks[i] = torch.compile(block, backend="eager")
        elif how == "submodules in place":
            block.compile(backend="eager")
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def step():
        optimizer.zero_grad()
        call(tokens, targets=tokens)[0].backward()
        optimizer.step()

    graphs = torch._dynamo.utils.counters["stats"]
    step()
    with torch.no_grad():
        net.eval()
        before = call(tokens)[0]
        net.train()
    count = graphs["unique_graphs"]
    assert count > 0
    with torch.no_grad(), capture_attention(module) as captured:
        call(tokens)
    assert [each.module for each in captured.calls] == ["blocks.0.attention", "blocks.1.attention"]
    assert captured.unseen == []
    with torch.no_grad():
        net.eval()
        assert torch.equal(call(tokens)[0], before)
        net.train()
    step()
    assert graphs["unique_graphs"] == count


# -- what PyTorch cannot show ---------------------------------------------------------------------------


class HiddenAttention(nn.Module):
    """Attends by something that nobody sees."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.c_attn = nn.Linear(8, 8)
        self.attn_dropout = nn.Dropout(0.1)
        self.attention_norm = norm(8)

    def forward(self, x):
        return self.attn_dropout(self.attention_norm(self.c_attn(x)))


class SeenAttention(HiddenAttention):
    def forward(self, x):
        x = super().forward(x)
        return F.scaled_dot_product_attention(x, x, x)


class Layer(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attn = attention
        self.post_attention_layernorm = nn.Sequential(nn.LayerNorm(8))
        self.attn_proj = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x):
        return self.attn_proj(self.post_attention_layernorm(self.attn(x)))


@pytest.mark.parametrize(
    ("module", "unseen"),
    [
        (nn.Sequential(Layer(HiddenAttention()), Layer(SeenAttention())), ["0.attn"]),
        (nn.Sequential(Layer(nn.Sequential(nn.Linear(8, 8)))), ["0.attn"]),
        (nn.Sequential(Layer(nn.Linear(8, 8))), []),
        (
            nn.Sequential(nn.ModuleDict({"attn_layers": nn.Sequential(HiddenAttention())})["attn_layers"]),
            ["0.0"],
        ),
        (HiddenAttention(), ["HiddenAttention"]),
        (nn.LSTM(8, 8), []),
    ],
)
def test_unseen_are_the_innermost_that_should_have_attended(module, unseen):
    with capture_attention(module) as captured:
        for _ in range(2):
            module(torch.randn(2, 5, 8))
    assert captured.unseen == unseen


def test_a_container_named_so_shows_which_of_its_layers_were_not_seen():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_layers = nn.Sequential(Layer(SeenAttention()), Layer(HiddenAttention()))

        def forward(self, x):
            return self.attention_layers(x)

    with capture_attention(module := Encoder()) as captured:
        module(torch.randn(2, 5, 8))
    assert captured.unseen == ["attention_layers.1.attn"]
    assert [call.module for call in captured.calls] == ["attention_layers.0.attn"]


def test_a_part_with_children_of_a_layer_that_was_seen_is_not_reported():
    module = SeenAttention()
    module.c_attn = nn.Sequential(nn.Linear(8, 8))  # as LoRA wraps it
    with capture_attention(module) as captured:
        module(torch.randn(2, 5, 8))
    assert captured.unseen == []
    assert len(captured.calls) == 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_unseen():
    class NestedAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(8, 8)

        def forward(self, x):
            x = self.project(x).unflatten(-1, [2, 4]).transpose(1, 2)
            return F.scaled_dot_product_attention(x, x, x)

    x = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)
    module = nn.Sequential(NestedAttention())
    with torch.no_grad(), capture_attention(module) as captured:
        module(x)
    assert (captured.calls, captured.unseen) == ([], ["0"])


# -- whole models ---------------------------------------------------------------------------------------


def scores_by_hand(q, k, mask):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -math.inf)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": True},
        {"num_key_value_heads": 2},
        {"sliding_window": 3},
        {"positions": "learned", "bias": True},
        {"qk_norm": True, "num_key_value_heads": 1, "sliding_window": 4},
    ],
)
def test_our_transformer(options):
    net = network(**options).eval()
    tokens = torch.randint(61, (3, 12))
    with torch.no_grad(), capture_attention(net, 2) as captured:
        net(tokens)
    first, second = captured.calls
    place = torch.arange(12)
    away = place[:, None] - place
    window = options.get("sliding_window") or 12
    allowed = (away >= 0) & (away < window)
    for call in (first, second):
        assert call.probabilities.shape == (2, 4, 12, 12)
        assert torch.equal(call.probabilities > 0, allowed.expand(2, 4, 12, 12))
        torch.testing.assert_close(call.probabilities.sum(-1), torch.ones(2, 4, 12))
    # what attention gives out is its probabilities times the values
    attention = net.blocks[0].attention
    got = []
    hook = attention.out.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    x = net.blocks[0].attention_norm(net._embed(tokens, None))
    with torch.no_grad():
        net(tokens)
        values = attention._heads(attention.value(x)).repeat_interleave(4 // attention.num_key_value_heads, 1)
    hook.remove()
    expected = (first.probabilities @ values[:2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got[0][:2], expected, rtol=0, atol=1e-5)


def test_our_transformer_with_a_cache_and_with_documents():
    net = network().eval()
    tokens = torch.randint(61, (2, 12))
    with torch.no_grad(), capture_attention(net, 2) as whole:
        net(tokens)
    with torch.no_grad(), capture_attention(net, 2) as parts:
        _, state = net(tokens[:, :5], net.initial_state(2))
        net(tokens[:, 5:], state)
    call = parts.calls[2]
    assert (call.queries, call.keys) == (7, 16 + 7)
    expected = whole.calls[0].probabilities[:, :, 5:]
    torch.testing.assert_close(call.probabilities[..., -12:], expected, rtol=0, atol=1e-6)
    assert not call.probabilities[..., :-12].any()
    documents = torch.tensor([[0] * 5 + [1] * 7] * 2)
    with torch.no_grad(), capture_attention(net, 2) as packed:
        net(tokens, document_ids=documents)
    with torch.no_grad(), capture_attention(net, 2) as alone:
        net(tokens[:, 5:])
    torch.testing.assert_close(
        packed.calls[1].probabilities[:, :, 5:, 5:], alone.calls[1].probabilities, rtol=0, atol=1e-6
    )
    assert packed.calls[1].visible[0, 0].tolist() == [*range(1, 6), *range(1, 8)]


def hugging_face(kind, implementation):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 61, "attn_implementation": implementation}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, **sizes)
    else:
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **sizes,
        )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():  # so that attention is far from even
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_hugging_face_models_equal_the_attention_that_they_give_themselves(kind, padded, implementation):
    tokens = torch.randint(61, (3, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 10, dtype=torch.long)
    if padded:
        mask[1, :4] = 0
        mask[2, :7] = 0
    given = {"input_ids": tokens, "attention_mask": mask}
    if kind == "gpt2":
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = hugging_face(kind, "eager")(**given, output_attentions=True).attentions
    model = hugging_face(kind, implementation)
    with capture_attention(model, 3) as captured:
        logits = model(**given).logits
    assert torch.equal(logits, model(**given).logits)
    assert captured.unseen == []
    assert len(captured.calls) == 2
    real = mask.bool()[:, None, :, None]
    for call, maps in zip(captured.calls, expected, strict=True):
        assert call.module.endswith("attn")
        torch.testing.assert_close(call.probabilities * real, maps * real, rtol=0, atol=1e-6)
        seen = mask.bool()[:, None, None] & torch.ones(10, 10, dtype=torch.bool).tril()
        assert torch.equal((call.visible[..., None] * real)[..., 0], (seen & real).sum(-1).expand(3, 4, 10))


@torch.no_grad()
def test_hugging_face_bert_and_t5_name_no_container():
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
        )
    ).eval()
    t5 = transformers.T5Model(
        transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ).eval()
    tokens = torch.randint(61, (2, 7))
    for model, given, count in ((bert, {}, 2), (t5, {"decoder_input_ids": tokens[:, :5]}, 6)):
        with capture_attention(model) as captured:
            model(input_ids=tokens, **given)
        assert captured.unseen == []
        assert len(captured.calls) == count
        assert all(call.heads == 4 for call in captured.calls)
