"""torch.compile by one argument: the same numbers, names and graphs that do not grow in number."""

import pytest
import torch
from torch import nn

from lightning_seq.data import TextDataModule
from lightning_seq.errors import InputError
from lightning_seq.models import (
    GRULanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from tests.models.training import Batches, build, lanes, ragged, trainer, weights


@pytest.fixture(autouse=True)
def graphs(monkeypatch, request):
    """How many graphs were compiled so far; without the last stage, C++ code, which takes half a minute."""
    if "slow" not in request.keywords:
        compile_module = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return torch._dynamo.utils.counters["stats"]


@pytest.mark.parametrize("cls", [RNNLanguageModel, GRULanguageModel, LSTMLanguageModel])
def test_recurrent_networks_refuse_it_and_say_why(cls):
    with pytest.raises(InputError, match=r"compile is True, and .* runs on fused recurrent kernels"):
        build(cls, compile=True)


@pytest.mark.parametrize(
    "cls",
    [
        TransformerLanguageModel,
        MinGRULanguageModel,
        pytest.param(TransformerLanguageModel, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_network_learns_the_same_and_keeps_its_names(cls, graphs):
    runs = []
    for compiled in (False, True):
        model = build(cls, compile=compiled)
        run = trainer(gradient_clip_val=0.5, val_check_interval=3)
        run.fit(model, lanes(), lanes(seed=1))
        runs.append((weights(model), run.callback_metrics["val_loss"], list(model.state_dict())))
        assert (graphs["unique_graphs"] > 0) == compiled
    torch.testing.assert_close(runs[0][0], runs[1][0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(runs[0][1], runs[1][1], atol=1e-4, rtol=1e-3)
    assert runs[0][2] == runs[1][2]
    assert not any("_orig_mod" in name for name in runs[1][2])


def test_generation_and_probes_run_eagerly_and_compile_nothing(graphs):
    model = build(TransformerLanguageModel, compile=True)
    trainer().fit(model, lanes(continues=False))
    before = graphs["unique_graphs"]
    for length in (3, 7, 12):
        model.generate("3 1 12", max_new_tokens=length, seed=0)
    assert graphs["unique_graphs"] == before


@pytest.mark.slow
def test_documents_of_many_lengths_are_padded_to_one(graphs, tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(300):
        (tmp_path / "text" / f"{i:03}.txt").write_text("abcdefghijklmnopqrstuvwx"[: 2 + 7 * i % 23])
    data = TextDataModule(
        path=str(tmp_path / "text"),
        batching="documents",
        batch_size=2,
        context_length=24,
        cache_dir=str(tmp_path),
    )
    torch.manual_seed(0)
    sizes = {"embedding_dim": 16, "num_layers": 1, "num_heads": 2, "context_length": 24}
    model = TransformerLanguageModel(data.vocab_size, **sizes, compile=True)
    eager = TransformerLanguageModel(data.vocab_size, **sizes)
    eager.load_state_dict(model.state_dict())
    widths = {b["inputs"].size(1) for b in _epoch(data)}
    assert len(widths) > 3
    run = trainer(max_steps=-1, max_epochs=2)
    run.fit(model, data)
    assert graphs["unique_graphs"] == 2  # training and evaluation
    trainer(max_steps=-1, max_epochs=2).fit(eager, data)
    torch.testing.assert_close(weights(model), weights(eager), atol=1e-4, rtol=1e-3)
    predicted = trainer().predict(model, data)
    for mine, theirs in zip(predicted, trainer().predict(eager, data), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3, equal_nan=True)


def _epoch(data):
    batches = data.batches("train", training=True)
    return [batches.epoch(0)(step) for step in range(len(batches))]


def test_a_token_budget_is_refused():
    class Data:
        tokens_per_batch, context_length = 512, 8

    model = build(TransformerLanguageModel, compile=True)
    with pytest.raises(InputError, match=r"compile is True and data\.tokens_per_batch 512"):
        model._compilation.begin(Data())


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_it_goes_with_half_precision_and_accumulation(settings):
    runs = []
    for compiled in (False, True):
        model = build(TransformerLanguageModel, compile=compiled, optimizer="sgd", learning_rate=0.5)
        batches = [ragged(4, seed=i) for i in range(6)]
        trainer(max_steps=3, gradient_clip_val=0.5, **settings).fit(model, Batches(batches))
        runs.append(weights(model))
    torch.testing.assert_close(*runs, atol=2e-2 if "precision" in settings else 1e-5, rtol=0)
