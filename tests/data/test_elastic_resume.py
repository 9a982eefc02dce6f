"""A training that was stopped on some processes goes on with others: the same batches, dealt out anew."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_seq.callbacks import LastCheckpoint
from lightning_seq.data import CopyTask, SequenceDataModule
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel
from tests.ranks import run_ranks

DOCUMENTS = ["".join(chr(97 + i * (i + k) % 23) for i in range(40 + 61 * k % 50)) for k in range(16)]
ROWS = 4  # of a step, over all ranks
SGD = {"optimizer": "sgd", "learning_rate": 0.5}  # AdamW blows up what is nought but for rounding
LAYOUTS = {
    "contiguous": {"batching": "contiguous"},
    "separate lanes": {"batching": "contiguous", "separate_documents": True},
    "blocks": {"batching": "blocks"},
    "documents": {"batching": "documents"},
    "task": {},
}
FEW = [
    name if name in ("contiguous", "blocks") else pytest.param(name, marks=pytest.mark.slow)
    for name in LAYOUTS
]


class Data(SequenceDataModule):
    """Documents of 40 to 90 characters."""

    def documents(self, split):
        return DOCUMENTS if split == "train" else ["abcaabc"]


def fit(layout, ranks, cache, folder=None, resume=None, steps=9, batch_size=None, strict=True):
    warnings.simplefilter("ignore")  # in a process of its own
    torch.manual_seed(0)
    batch_size = batch_size or ROWS // ranks
    if layout == "task":
        data = CopyTask(batch_size=batch_size, strict_resume=strict)
    else:
        options = {"context_length": 8, "cache_dir": cache, "strict_resume": strict, **LAYOUTS[layout]}
        data = Data(batch_size=batch_size, **options)
    model = LSTMLanguageModel(data.vocab_size, embedding_dim=6, hidden_size=7, **SGD)
    if layout == "blocks":
        sizes = {"embedding_dim": 8, "num_layers": 1, "num_heads": 2, "context_length": 8}
        model = TransformerLanguageModel(data.vocab_size, **sizes, **SGD)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=0.5,
        limit_val_batches=0,
        logger=False,
        callbacks=[LastCheckpoint(folder)] if folder else None,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=resume, weights_only=bool(resume) or None)
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("layout", FEW)
def test_as_many_rows_over_more_or_fewer_processes(layout, first, then, tmp_path):
    cache, folder, path = (str(tmp_path / name) for name in ("cache", "stopped", "stopped/last.ckpt"))
    (whole,) = run_ranks(fit, layout, 1, cache, world=1)
    run_ranks(fit, layout, first, cache, folder, world=first, steps=4)
    for found in run_ranks(fit, layout, then, cache, resume=path, world=then):
        for name, weight in whole.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("layout", ["contiguous", "blocks"])
def test_other_rows_are_refused_unless_that_is_wanted(layout, tmp_path):
    cache, folder, path = (str(tmp_path / name) for name in ("cache", "stopped", "stopped/last.ckpt"))
    run_ranks(fit, layout, 2, cache, folder, steps=4)
    with pytest.raises(AssertionError, match="cannot go on exactly: world_size was 2 and is 1; set it back"):
        run_ranks(fit, layout, 1, cache, resume=path, world=1, batch_size=2)
    run_ranks(fit, layout, 1, cache, resume=path, world=1, batch_size=2, strict=False)


def test_what_changes_is_said(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "lightning.pytorch")
    cache, folder, path = (str(tmp_path / name) for name in ("cache", "stopped", "stopped/last.ckpt"))
    run_ranks(fit, "contiguous", 2, cache, folder, steps=4)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    fit("contiguous", 1, cache, resume=path)
    assert "2 x 2 rows (processes x batch_size) are now 1 x 4: the same batches" in caplog.text


class Consumed(pl.Callback):
    """Where in the text the rows of each batch began, by epoch."""

    def __init__(self):
        self.windows = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rows = self.windows.setdefault(trainer.current_epoch, [])
        rows += [tuple(row) for row in batch["inputs"].tolist()]


LONG = list(range(2, 1021))  # no two windows are alike, and wherever the first is cut there are 101


class Numbers(SequenceDataModule):
    """Words that are all different."""

    def documents(self, split):
        return [" ".join(map(str, LONG if split == "train" else LONG[:40]))]


def consumed(batch_size, tmp_path, batching, resume=None, **limits):
    data = Numbers(
        batch_size=batch_size,
        context_length=10,
        batching=batching,
        tokenizer="word",
        cache_dir=str(tmp_path / "cache"),
        strict_resume=False,
    )
    model = LSTMLanguageModel(data.vocab_size, embedding_dim=4, hidden_size=4, **SGD)
    watcher = Consumed()
    folder = tmp_path / f"{batching}-{batch_size}"
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_val_batches=0,
        logger=False,
        callbacks=[watcher, LastCheckpoint(str(folder))],
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    trainer.fit(model, data, ckpt_path=resume, weights_only=bool(resume) or None)
    return watcher.windows, folder / "last.ckpt", len(data.train_dataloader())


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(("first", "then"), [(4, 2), (2, 4), (5, 3), (3, 5), (1, 8)])
def test_with_other_rows_an_epoch_goes_on_where_as_much_is_consumed(first, then, tmp_path):
    """Blocks: none of the epoch's windows is left out, and none but a step's is read twice."""
    before, path, _ = consumed(first, tmp_path, "blocks", max_steps=20 // first)
    after, _, batches = consumed(then, tmp_path, "blocks", resume=path)
    whole, _, _ = consumed(then, tmp_path / "whole", "blocks")
    seen = before[0] + after[0]
    twice = len(seen) - len(set(seen))
    assert twice < then  # of the step that was cut
    assert set(whole[0]) <= set(seen)
    assert after[1] == whole[1]  # the next epoch is whole, and the one that it would have been
    assert len(after[1]) == batches * then


@pytest.mark.filterwarnings("ignore:.*")
def test_with_other_rows_lanes_go_on_after_the_same_share(tmp_path):
    _, path, of_first = consumed(4, tmp_path, "contiguous", max_steps=15)
    after, _, of_then = consumed(2, tmp_path, "contiguous", resume=path)
    left = len(after[0]) // 2
    assert left / of_then == pytest.approx(1 - 15 / of_first, abs=1 / of_then)
    assert len(after[1]) == of_then * 2
