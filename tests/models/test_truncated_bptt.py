"""Truncated back-propagation through time in Lightning's automatic optimization."""

from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_seq.data import TextDataModule
from lightning_seq.evaluation import Stream, initial_state_loss, score
from lightning_seq.models import (
    GRULanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from tests.models.training import SMALL, VOCAB, Batches, build, lanes, trainer, weights
from tests.ranks import run_ranks

TEXT = "".join(chr(97 + i * i % 11 + i % 7) for i in range(1700))
ROWS, TIME, CLIP = 4, 16, 0.25


def fit(cls, path, cache, dropout=0.0):
    data = TextDataModule(
        path=str(path),
        tokenizer="character",
        batch_size=ROWS,
        context_length=TIME,
        reset_probability=0.0,
        cache_dir=str(cache),
    )
    torch.manual_seed(0)
    model = cls(data.vocab_size, embedding_dim=8, hidden_size=8, num_layers=2, dropout=dropout)
    run = trainer(max_steps=-1, max_epochs=1, gradient_clip_val=CLIP, limit_val_batches=0)
    run.fit(model, data)
    return model, data, run.global_step


def test_a_network_that_reads_a_text_once_learns_to_start_all_the_same(tmp_path):
    """The loss within the text stays as it is; that of tokens read from the initial state falls."""
    random = Random(0)
    words = ["".join(random.choices("abcdefghijklmnop", k=random.randint(3, 7))) for _ in range(40)]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(random.choices(words, k=40_000)))

    def losses(**options):
        data = TextDataModule(path, batch_size=8, context_length=32, cache_dir=str(tmp_path / "c"), **options)
        torch.manual_seed(0)
        model = LSTMLanguageModel(data.vocab_size, embedding_dim=16, hidden_size=64, learning_rate=1e-2)
        trainer(max_steps=400, limit_val_batches=0, gradient_clip_val=1.0).fit(model, data)
        text = torch.tensor(data.tokenizer.encode(path.read_text()[-6000:]).ids)
        within = score(model.network, text, Stream(64)).mean().item()
        return within, initial_state_loss(model.network, text)

    (within, start), (within_always_carried, start_always_carried) = losses(), losses(reset_probability=0.0)
    assert within == pytest.approx(within_always_carried, rel=0.015)
    assert start < 0.97 * start_always_carried


@pytest.mark.parametrize("cls", [RNNLanguageModel, GRULanguageModel, LSTMLanguageModel])
def test_an_epoch_over_a_text_equals_a_plain_loop_to_the_bit(cls, tmp_path):
    """Nothing of the package in the loop but the network's weights at the start and the text as ids."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    model, data, steps = fit(cls, path, tmp_path / "cache")

    torch.manual_seed(0)
    start = cls(data.vocab_size, embedding_dim=8, hidden_size=8, num_layers=2).network
    embedding, rnn, linear = start.embedding, start.layers[0], start.head.linear
    parameters = [*embedding.parameters(), *rnn.parameters(), *linear.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.95),
        fused=True,
    )
    ids = torch.as_tensor(data.tokenizer.encode(path.read_text()).ids)
    ids = ids[: data._store("train").counts.tokens]
    length = (len(ids) - 1) // ROWS // TIME * TIME
    offset = first_offset(data)
    inputs = torch.stack([ids[offset + i * length :][:length] for i in range(ROWS)])
    targets = torch.stack([ids[offset + i * length + 1 :][:length] for i in range(ROWS)])
    state = None
    for i in range(0, length, TIME):
        output, state = rnn(embedding(inputs[:, i : i + TIME]), state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = F.cross_entropy(linear(output).flatten(0, 1), targets[:, i : i + TIME].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], CLIP)
        optimizer.step()
    assert steps == length // TIME > 20
    for mine, theirs in zip(model.network.parameters(), start.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def first_offset(data):
    """Where the first lane of the first epoch begins: the data rotates the text from epoch to epoch."""
    loader = data.batches("train", training=True)
    return int(loader.plan.epoch(0)(0).starts[0])


def test_state_follows_the_batch_to_another_device_and_precision():
    """Lightning moves batches, not the states that a module keeps by itself."""
    model = build(LSTMLanguageModel)
    batch = lanes(steps=1).batches[0]
    model._carried.after("train", batch, model.network.initial_state(4))
    batch["continues"] = torch.ones(4, dtype=torch.bool)
    moved = {name: value.to("meta") for name, value in batch.items()}
    model.network.to("meta")
    state = model._carried.before("train", moved, model.network)
    assert {each.device.type for each in state} == {"meta"}


@pytest.mark.parametrize("cls", SMALL)
@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}])
def test_state_is_carried_under_half_precision_and_accumulation(cls, settings):
    """The state after the text is the network's own, run over the text in one go, with frozen weights."""
    model = build(cls, learning_rate=1e-12)
    data = lanes(steps=6)
    run = trainer(max_steps=-1, max_epochs=1, **settings)
    run.fit(model, data)
    text = torch.cat([b["inputs"] for b in data], 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="precision" in settings):
        expected = model.network(text, model.network.initial_state(4))[1]
    mine = torch.utils._pytree.tree_leaves(model._carried._states["train"])
    theirs = torch.utils._pytree.tree_leaves(expected)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(
            x.float(), y.float(), atol=0.03 if "precision" in settings else 1e-5, rtol=0
        )
        assert not x.requires_grad


def ranks_share(rank_rows, cls):
    """Trains this rank's rows of four lanes, two on each."""
    import os

    rank = int(os.environ["RANK"])
    model = build(cls, optimizer="sgd", learning_rate=0.5)
    mine = [{name: value[2 * rank : 2 * rank + 2] for name, value in b.items()} for b in lanes(steps=6)]
    run = trainer(devices=2, strategy="ddp", gradient_clip_val=CLIP)
    run.fit(model, Batches(mine[:rank_rows]))
    return weights(model), model._carried.for_checkpoint(model)


@pytest.mark.parametrize("cls", [LSTMLanguageModel, MinGRULanguageModel, TransformerLanguageModel])
def test_each_rank_carries_its_own_lanes(cls):
    whole = build(cls, optimizer="sgd", learning_rate=0.5)
    trainer(gradient_clip_val=CLIP).fit(whole, lanes(steps=6))
    (first, state), (second, same) = run_ranks(ranks_share, 6, cls)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, weights(whole), atol=1e-6, rtol=0)
    expected = whole._carried._states["train"]
    leaves = torch.utils._pytree.tree_leaves
    for x, y, z in zip(leaves(state), leaves(same), leaves(expected), strict=True):
        assert torch.equal(x, y)  # gathered: a checkpoint has the lanes of all ranks
        torch.testing.assert_close(x, z, atol=1e-5, rtol=1e-5)


def test_a_transformer_with_memory_reads_on_and_one_without_does_not():
    losses = {}
    for memory in (None, 0):
        model = build(TransformerLanguageModel, memory_length=memory)
        losses[memory] = trainer().validate(model, lanes(steps=4), verbose=False)[0]["val_loss"]
        text = torch.cat([b["inputs"] for b in lanes(steps=4)], 1)
        targets = torch.cat([b["targets"] for b in lanes(steps=4)], 1)
        chunks = (
            [(text, targets)] if memory is None else zip(text.split(8, 1), targets.split(8, 1), strict=True)
        )
        model.eval()
        nll = torch.cat([model.network(x, None, y)[0] for x, y in chunks], 1)
        assert losses[memory] == pytest.approx(nll.mean().item(), rel=1e-5)
    assert losses[None] != losses[0]


def test_learned_positions_train_on_lanes_without_a_past():
    model = build(TransformerLanguageModel, positions="learned")
    run = trainer()
    run.fit(model, lanes())
    assert run.global_step == 6
    assert model._carried._states["train"] is None
    assert model.hparams.vocab_size == VOCAB


def test_a_new_text_may_have_another_number_of_lanes():
    """Two loaders to evaluate, say: nothing is carried from one to the other."""
    model = build(LSTMLanguageModel)
    both = [lanes(steps=2, batch=4), lanes(steps=2, batch=2, seed=1)]
    first, second = trainer().predict(model, both)
    for predicted, data in ((first, both[0]), (second, both[1])):
        inputs, targets = (torch.cat([b[k] for b in data], 1) for k in ("inputs", "targets"))
        torch.testing.assert_close(torch.cat(predicted, 1), model.network.eval()(inputs, None, targets)[0])
