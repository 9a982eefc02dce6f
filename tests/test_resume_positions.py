"""Whatever wrote a checkpoint, and wherever, training goes on with the next batch and to the same weights."""

import contextlib
import json
import types
import zlib
from itertools import count

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, timer

from lightning_seq.data import CopyTask, HuggingFaceTextDataModule, SequenceDataModule, TokenDataModule
from lightning_seq.models import LSTMLanguageModel

DOCUMENTS = ["".join(chr(97 + i * (i + k) % 23) for i in range(20 + 37 * k % 50)) for k in range(16)]
LONG = {"max_steps": 17, "limit_train_batches": 7}  # ends inside the third epoch

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists", "ignore:Be aware that when using `ckpt_path`, callbacks"
)


class Data(SequenceDataModule):
    """Documents of 20 to 70 characters."""

    def documents(self, split):
        return DOCUMENTS if split == "train" else ["abcaabc"]


class Batches(Callback):
    """What was trained on, by the number of the batch."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        assert number not in self.seen
        self.seen[number] = (trainer.current_epoch, batch_idx, zlib.crc32(batch["inputs"].numpy().tobytes()))


class At(Callback):
    """Does something when ``hook`` is first called after so many batches."""

    def __init__(self, hook, batch, action):
        def act(trainer, *args, **kwargs):
            if trainer.fit_loop.epoch_loop.batch_progress.total.processed == batch and not self.done:
                self.done = True
                action(trainer)

        self.done = False
        setattr(self, hook, act)


def raising(error):
    def act(trainer):
        raise error

    return act


def stop(trainer):
    trainer.should_stop = True


def save(path):
    return lambda trainer: trainer.save_checkpoint(path)


@pytest.fixture
def fit(tmp_path, quiet_trainer):
    def make(**options):
        return Data(batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache"), **options)

    def fit(*callbacks, ckpt_path=None, make=make, model=None, **options):
        torch.manual_seed(1 if ckpt_path else 0)  # a resumed process was seeded otherwise
        data = make()
        sizes = {"embedding_dim": 6, "hidden_size": 7, "num_layers": 1, "dropout": 0.3}
        module = LSTMLanguageModel(data.vocab_size, **{**sizes, "learning_rate": 0.01, **(model or {})})
        batches = Batches()
        trainer = quiet_trainer(
            callbacks=[batches, *callbacks],
            enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
            **{"limit_val_batches": 0, "num_sanity_val_steps": 0, **LONG, **options},
        )
        with contextlib.suppress(MemoryError, SystemExit):  # Lightning ends the process after Ctrl-C
            trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        run = types.SimpleNamespace(trainer=trainer, module=module, data=data, batches=batches.seen)
        run.hash = data.consumed_hash
        run.weights = {name: weight.clone() for name, weight in module.state_dict().items()}
        return run

    return fit


def assert_same(resumed, whole, first=None):
    """Also that no batch was left out, where the ``first`` run is given."""
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert resumed.trainer.current_epoch == whole.trainer.current_epoch
    seen = {} if first is None else {n: b for n, b in first.batches.items() if n < min(resumed.batches)}
    assert {**seen, **resumed.batches} == {
        n: b for n, b in whole.batches.items() if first or n in resumed.batches
    }
    assert resumed.hash == whole.hash
    for name, weight in whole.weights.items():
        assert torch.equal(resumed.weights[name], weight), name


VALIDATED = {"limit_val_batches": 1.0}
MORE_EPOCHS = {"max_epochs": 3, "max_steps": -1}
WINDOWS = {"accumulate_grad_batches": 3, "max_steps": 6}
ON_EXCEPTION = {"save_on_exception": True}
ENDS = {  # how a checkpoint is saved, what ends the first fit, and what both have
    "max_steps inside an epoch": ({}, {"max_steps": 5}, {}),
    "max_steps inside the second epoch": ({}, {"max_steps": 10}, VALIDATED),
    "max_steps at the end of an epoch": ({}, {"max_steps": 7}, {}),
    "max_steps at the end of a validated epoch": ({}, {"max_steps": 7}, VALIDATED),
    "max_steps at a validation": ({}, {"max_steps": 5}, {**VALIDATED, "val_check_interval": 5}),
    "max_steps inside the last epoch": ({}, {"max_steps": 17}, MORE_EPOCHS),
    "more epochs": ({}, {"max_epochs": 1}, MORE_EPOCHS),
    "should_stop inside an epoch": ({}, ("on_train_batch_end", 4, stop), VALIDATED),
    "should_stop inside a window": ({}, ("on_train_batch_end", 4, stop), WINDOWS),
    "save_last": ({"save_last": True, "every_n_train_steps": 2}, {"max_steps": 5}, {}),
    "last batch of an epoch": ({"every_n_train_steps": 7}, {"max_steps": 7}, {}),
    "an exception": (ON_EXCEPTION, ("on_before_backward", 9, raising(MemoryError())), {}),
    "Ctrl-C": (ON_EXCEPTION, ("on_train_batch_start", 7, raising(KeyboardInterrupt())), {}),
    "Ctrl-C in a window": (ON_EXCEPTION, ("on_train_batch_start", 5, raising(KeyboardInterrupt())), WINDOWS),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_model_checkpoint_after(fit, tmp_path, end):
    saving, ending, options = ENDS[end]
    whole = fit(**options)
    saver = ModelCheckpoint(tmp_path / "saved", **saving)
    if isinstance(ending, dict):
        first = fit(saver, **{**options, **ending})
    else:
        first = fit(saver, At(*ending), **options)
    path = saver.last_model_path or saver._last_checkpoint_saved
    assert_same(fit(ckpt_path=path, **options), whole, first)


def test_max_time(fit, tmp_path, monkeypatch):
    whole = fit()
    seconds = count()
    monkeypatch.setattr(timer, "time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    saver = ModelCheckpoint(tmp_path / "saved")
    first = fit(saver, max_time={"seconds": 4})
    assert 0 < len(first.batches) < 7
    assert_same(fit(ckpt_path=saver.best_model_path), whole, first)


@pytest.mark.parametrize("then", ["", "test", "validate"])
def test_a_checkpoint_behind_fit(fit, tmp_path, then):
    """Also where the carried state matters: the text goes on across the checkpoint."""
    whole = fit()
    first = fit(max_steps=10)
    if then:
        getattr(first.trainer, then)(first.module, first.data, verbose=False)
    first.trainer.save_checkpoint(tmp_path / "behind.ckpt")
    assert_same(fit(ckpt_path=tmp_path / "behind.ckpt"), whole, first)


HOOKS = {
    "on_train_start": 0, "on_train_batch_start": 3, "on_before_backward": 4, "on_after_backward": 7,
    "on_before_optimizer_step": 8, "on_train_batch_end": 7, "on_validation_start": 5,
    "on_validation_batch_end": 5, "on_validation_end": 12, "on_train_epoch_end": 7, "on_train_epoch_start": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"max_epochs": 3, "max_steps": -1}, marks=pytest.mark.slow),
        {**VALIDATED, "val_check_interval": 5},
        {**VALIDATED, "val_check_interval": 5, "check_val_every_n_epoch": None, "max_steps": 13},
    ],
)
def test_a_checkpoint_in_a_hook(fit, tmp_path, options):
    """With plateau, whose learning rate would tell if a validation were left out or made twice."""
    options = {**options, "model": {"schedule": "plateau", "optimizer": "sgd", "learning_rate": 0.5}}
    hooks = {
        hook: batch for hook, batch in HOOKS.items() if options.get("limit_val_batches") or "val" not in hook
    }
    whole = fit(*(At(hook, batch, save(tmp_path / hook)) for hook, batch in hooks.items()), **options)
    found = [tmp_path / hook for hook in hooks if (tmp_path / hook).exists()]
    assert len(found) >= len(hooks) - 1
    for path in found:
        assert_same(fit(ckpt_path=path, **options), whole)


def test_a_resumed_training_is_resumed_again(fit, tmp_path):
    whole = fit()
    first = fit(At("on_train_batch_end", 7, save(tmp_path / "1.ckpt")), max_steps=7)
    second = fit(At("teardown", 12, save(tmp_path / "2.ckpt")), ckpt_path=tmp_path / "1.ckpt", max_steps=12)
    first.batches.update(second.batches)
    assert_same(fit(ckpt_path=tmp_path / "2.ckpt"), whole, first)


def test_the_same_trainer_fits_again_inside_an_epoch(fit):
    """Lightning makes the optimizer anew, so one without memory shows that all else goes on."""
    model = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0}
    whole = fit(model=model)
    half = fit(model=model, max_steps=10)
    half.trainer.fit_loop.epoch_loop.max_steps = 17
    half.trainer.fit(half.module, half.data)
    assert half.batches == whole.batches
    for name, weight in whole.weights.items():
        assert torch.equal(half.module.state_dict()[name], weight), name


def test_a_batch_whose_gradient_would_count_twice_is_said(fit, tmp_path):
    options = {"accumulate_grad_batches": 3, "max_steps": 3}
    with pytest.warns(UserWarning, match="does not resume exactly: it is saved between the backward pass"):
        fit(At("on_after_backward", 4, save(tmp_path / "within.ckpt")), **options)


def lines(tmp_path):
    texts = (json.dumps({"text": document}) for document in DOCUMENTS)
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    return str(tmp_path / "texts.jsonl")


def stream(tmp_path, num_workers):
    return HuggingFaceTextDataModule(
        lines(tmp_path),
        streaming=True,
        batching="blocks",
        tokenizer="byte",
        num_workers=num_workers,
        shuffle_buffer=4,
        steps_per_epoch=6,
        batch_size=2,
        context_length=8,
        cache_dir=str(tmp_path / "cache"),
    )


DATA = {
    "blocks": lambda tmp_path: text(tmp_path, batching="blocks"),
    "documents": lambda tmp_path: text(tmp_path, batching="documents", tokens_per_batch=40),
    "tokens": lambda tmp_path: TokenDataModule(
        np.arange(400) % 11, batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache")
    ),
    "task": lambda tmp_path: CopyTask(length=2, delay=3, batch_size=3),
    "stream": lambda tmp_path: stream(tmp_path, 0),
    "stream of workers": lambda tmp_path: stream(tmp_path, 2),
}


def text(tmp_path, **options):
    return Data(batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache"), **options)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if "workers" in kind else []) for kind in DATA]
)
def test_every_data_module_goes_on_inside_an_epoch(fit, tmp_path, kind):
    options = {"make": lambda: DATA[kind](tmp_path), "limit_train_batches": 5}
    whole = fit(**options, max_steps=12)
    saver = ModelCheckpoint(tmp_path / "saved")
    first = fit(saver, **options, max_steps=8)
    assert_same(fit(ckpt_path=saver.best_model_path, **options, max_steps=12), whole, first)
