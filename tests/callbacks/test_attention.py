import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import AttentionLogger
from lightning_seq.errors import InputError


class Modes(Callback):
    """Checks, after every validation, that each submodule is in the mode it was in before."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert [m.training for m in pl_module.modules()] == [
            m is not pl_module.frozen for m in pl_module.modules()
        ]


@pytest.mark.parametrize("kind", ["attention", "lstm"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_weights_are_bit_identical(train, tiny, kind, precision):
    _, without = train(lambda: tiny(kind), precision=precision)
    _, with_it = train(lambda: tiny(kind), AttentionLogger(), Modes(), precision=precision)
    assert torch.equal(without, with_it)


def test_logs_the_entropy_of_every_head_and_one_picture(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    trainer, _ = train(tiny, AttentionLogger(), logger=logger, max_steps=8)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("attention/")}
    heads = [f"attention/entropy/layer0_head{h}" for h in range(2)]
    heads += [f"attention/entropy/layer1_head{h}" for h in range(4)]
    assert set(metrics) == {"attention/entropy", *heads}
    assert all(0 < value <= 1 for value in metrics.values())
    assert metrics["attention/entropy"] == pytest.approx(sum(metrics[h] for h in heads) / 6)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == ["attention_heads-000004.png", "attention_heads-000008.png"]
    assert "attention/entropy/layer1_head3" in (tmp_path / "metrics.csv").read_text()


def test_looks_at_the_first_row_of_the_first_batch_as_it_is_every_time(train, tiny):
    seen = []

    class Watched(tiny):
        def forward(self, tokens):
            if len(tokens) == 1:
                seen.append((tokens.clone(), self.training))
            return super().forward(tokens)

    trainer, _ = train(Watched, AttentionLogger(max_tokens=5), max_steps=8)
    expected = trainer.lightning_module.val_dataloader().dataset[0]["inputs"][None, :5]
    assert len(seen) == 2  # two validations, and not the sanity check
    assert all(torch.equal(tokens, expected) and not training for tokens, training in seen)


@pytest.mark.parametrize("wrap", [lambda b: b["inputs"], lambda b: (b["inputs"], 1), lambda b: [b["inputs"]]])
def test_takes_the_batches_of_others(train, tiny, wrap):
    class Others(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return wrap(batch) if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    trainer, _ = train(Others, AttentionLogger())
    assert "attention/entropy" in trainer.callback_metrics


def test_without_attention_it_says_so_once_and_stays_quiet(train, tiny, caplog):
    with caplog.at_level(logging.INFO):
        trainer, _ = train(lambda: tiny("lstm"), AttentionLogger(), max_steps=8)
    assert sum("no attention" in record.message for record in caplog.records) == 1
    assert not [key for key in trainer.callback_metrics if key.startswith("attention")]


def test_unknown_batches_and_failing_models_end_no_training(train, tiny):
    class Odd(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {"words": batch} if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    class TwoInputs(tiny):
        def forward(self, tokens, more=None):
            if len(tokens) == 1:
                raise TypeError("missing an input")
            return super().forward(tokens)

    for model, reason in ((Odd, "got dict"), (TwoInputs, "missing an input")):
        with pytest.warns(UserWarning, match=reason) as warnings:
            train(model, AttentionLogger(), max_steps=8)
        assert len([w for w in warnings if "AttentionLogger" in str(w.message)]) == 1


def test_works_in_validation_alone(train, tiny, tmp_path):
    trainer, _ = train(tiny, AttentionLogger(), limit_val_batches=0, val_check_interval=1.0)
    trainer.limit_val_batches = 1
    (metrics,) = trainer.validate(trainer.lightning_module, verbose=False)
    assert 0 < metrics["attention/entropy"] <= 1


def test_no_validation_no_pictures(train, tmp_path):
    train(BoringModel, AttentionLogger(), limit_val_batches=0, val_check_interval=1.0)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks
def test_compiled_models_train_the_same_and_are_not_compiled_again(train, tiny):
    def make():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = tiny()
        model.body.compile(backend="eager")
        return model

    _, without = train(make)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trainer, with_it = train(make, AttentionLogger())
    assert "attention/entropy" in trainer.callback_metrics
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    assert torch.equal(without, with_it)


def test_too_few_tokens_are_refused():
    with pytest.raises(InputError, match="max_tokens=1, expected at least 2"):
        AttentionLogger(max_tokens=1)
