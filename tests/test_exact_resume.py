"""A training that was stopped, whenever and however, ends to the bit as one that was not."""

import logging
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_seq.callbacks import LastCheckpoint
from lightning_seq.data import SequenceDataModule
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel

DOCUMENTS = ["".join(chr(97 + i * (i + k) % 23) for i in range(20 + 37 * k % 50)) for k in range(16)]
LAYOUTS = {
    "contiguous": {"batching": "contiguous"},
    "separate lanes": {"batching": "contiguous", "separate_documents": True},
    "blocks": {"batching": "blocks"},
    "separate blocks": {"batching": "blocks", "separate_documents": True},
    "documents": {"batching": "documents"},
    "token budget": {"batching": "documents", "tokens_per_batch": 40},
}


# each layout with each way to stop: the rest runs with the slow ones
EVERY_LAYOUT = [
    name if name in ("contiguous", "blocks") else pytest.param(name, marks=pytest.mark.slow)
    for name in LAYOUTS
]


class Data(SequenceDataModule):
    """Documents of 20 to 70 characters; only the training text is used."""

    def documents(self, split):
        return DOCUMENTS if split == "train" else ["abcaabc"]


class FailAt(Callback):
    """Raises in the step that follows so many batches, or sends a signal after it."""

    def __init__(self, batch, hook, signal_number=None):
        self.batch, self.hook, self.signal_number = batch, hook, signal_number

    def _at(self, trainer, hook):
        if hook == self.hook and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            if self.signal_number is None:
                raise MemoryError("as the test wants it")
            os.kill(os.getpid(), self.signal_number)

    def on_train_batch_start(self, trainer, *args):
        self._at(trainer, "batch start")

    def on_before_backward(self, trainer, *args):
        self._at(trainer, "before backward")


@pytest.fixture
def fit(tmp_path, quiet_trainer):
    def fit(layout, ckpt_path=None, callbacks=(), model="lstm", **options):
        torch.manual_seed(1 if ckpt_path else 0)  # a resumed process was seeded otherwise
        data = Data(batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache"), **LAYOUTS[layout])
        if model == "lstm" and layout != "separate blocks":  # which a recurrent network cannot keep apart
            module = LSTMLanguageModel(
                data.vocab_size, embedding_dim=6, hidden_size=7, num_layers=2, dropout=0.3, learning_rate=0.01
            )
        else:
            module = TransformerLanguageModel(
                data.vocab_size, embedding_dim=8, num_layers=1, num_heads=2, context_length=8, dropout=0.3
            )
        trainer = quiet_trainer(
            **{
                "max_epochs": 2,
                "gradient_clip_val": 0.5,
                "callbacks": list(callbacks),
                "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
                "log_every_n_steps": 1,
                "limit_val_batches": 0,
                **options,
            }
        )
        try:
            trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        except (MemoryError, SIGTERMException):
            assert any(isinstance(each, FailAt) for each in callbacks)
        return {"hash": torch.tensor(data.consumed_hash), **module.state_dict()}

    return fit


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


SAVED = {
    "mid-epoch": ({"every_n_train_steps": 5}, {}),
    "mid second epoch": ({"every_n_train_steps": 24}, {}),
    "epoch end": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}),
    "after validation": ({"every_n_epochs": 1, "save_on_train_epoch_end": False}, {"limit_val_batches": 1}),
    "accumulation": ({"every_n_train_steps": 3}, {"accumulate_grad_batches": 3}),
    "limited": ({"every_n_train_steps": 7}, {"limit_train_batches": 6}),
    "last batch of an epoch": ({"every_n_train_steps": 6}, {"limit_train_batches": 6}),
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("stop", SAVED)
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_from_any_checkpoint(fit, tmp_path, layout, stop):
    saving, options = SAVED[stop]

    def saver():
        return ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, **saving)

    whole = fit(layout, callbacks=[saver()], **options)
    earliest = min((tmp_path / "saved").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    assert same(fit(layout, earliest, callbacks=[saver()], **options), whole)


@pytest.mark.parametrize("hook", ["batch start", "before backward"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_after_an_exception(fit, tmp_path, layout, accumulate, hook):
    """Batch 7 is the second of its window of three: what the first left in the gradients is not lost."""
    options = {"accumulate_grad_batches": accumulate}
    whole = fit(layout, **options)
    fit(layout, callbacks=[FailAt(7, hook), LastCheckpoint(str(tmp_path))], **options)
    assert same(fit(layout, tmp_path / "last.ckpt", **options), whole)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("layout", ["contiguous", "documents"])
def test_after_sigterm(fit, tmp_path, layout, accumulate):
    options = {"accumulate_grad_batches": accumulate}
    whole = fit(layout, **options)
    sender = FailAt(7, "batch start", signal.SIGTERM)
    stopped = fit(layout, callbacks=[sender, LastCheckpoint(str(tmp_path))], **options)
    assert not same(stopped, whole)
    assert same(fit(layout, tmp_path / "last.ckpt", **options), whole)


@pytest.mark.parametrize("layout", ["contiguous", "blocks", "documents"])
def test_a_transformer_too(fit, tmp_path, layout):
    whole = fit(layout, model="transformer")
    fit(layout, callbacks=[FailAt(7, "batch start"), LastCheckpoint(str(tmp_path))], model="transformer")
    assert same(fit(layout, tmp_path / "last.ckpt", model="transformer"), whole)


@pytest.mark.parametrize("steps", [6, 7])
def test_after_max_steps(fit, tmp_path, steps):
    whole = fit("contiguous", limit_train_batches=6)
    fit("contiguous", callbacks=[LastCheckpoint(str(tmp_path))], max_steps=steps, limit_train_batches=6)
    assert same(fit("contiguous", tmp_path / "last.ckpt", limit_train_batches=6), whole)


def test_a_second_training_of_the_same_data_begins_at_the_beginning(fit, tmp_path, quiet_trainer):
    fit("contiguous", callbacks=[LastCheckpoint(str(tmp_path))], max_steps=5)
    data = Data(batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache"))
    hashes = []
    for ckpt_path in (tmp_path / "last.ckpt", None, None):
        model = LSTMLanguageModel(data.vocab_size, embedding_dim=6, hidden_size=7, num_layers=2)
        trainer = quiet_trainer(max_steps=7, limit_val_batches=0)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        hashes.append(data.consumed_hash)
    assert len(set(hashes)) == 1


def lstm(data):
    torch.manual_seed(0)
    return LSTMLanguageModel(data.vocab_size, embedding_dim=6, hidden_size=7, num_layers=2)


@pytest.fixture
def data(tmp_path):
    def data(cls=Data, **options):
        return cls(batch_size=3, context_length=8, cache_dir=str(tmp_path / "cache"), **options)

    return data


def test_the_same_training_may_be_made_longer(data, quiet_trainer):
    whole, half = data(), data()
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(lstm(whole), whole)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(model := lstm(half), half)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, half)
    assert half.consumed_hash == whole.consumed_hash


def test_to_look_at_the_batches_changes_nothing(data, quiet_trainer, tmp_path):
    class Look(Callback):
        def on_train_batch_end(self, trainer, *args):
            next(iter(trainer.datamodule.train_dataloader()))

    hashes = []
    for callbacks in ([], [Look()]):
        looked = data()
        keep = {"callbacks": [*callbacks, LastCheckpoint(str(tmp_path))], "enable_checkpointing": True}
        quiet_trainer(max_steps=5, limit_val_batches=0, **keep).fit(lstm(looked), looked)
        rest = data()
        trainer = quiet_trainer(max_steps=9, limit_val_batches=0)
        trainer.fit(lstm(rest), rest, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        hashes += [looked.consumed_hash, rest.consumed_hash]
    assert hashes[:2] == hashes[2:]


def test_a_test_in_between_forgets_nothing(data, quiet_trainer, tmp_path):
    tested = data()
    trainer = quiet_trainer(max_steps=5, limit_val_batches=0)
    trainer.fit(model := lstm(tested), tested)
    trainer.save_checkpoint(tmp_path / "before.ckpt")
    resume = {"ckpt_path": tmp_path / "before.ckpt", "weights_only": True}
    trainer.test(model, tested, **resume, verbose=False)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    saved = [torch.load(tmp_path / f"{name}.ckpt")["Data"] for name in ("before", "after")]
    assert saved[0] == saved[1]


def test_a_finished_training_resumed_still_knows_its_hash(data, quiet_trainer, tmp_path):
    finished, again = data(), data()
    keep = {"callbacks": [LastCheckpoint(str(tmp_path))], "enable_checkpointing": True}
    quiet_trainer(max_steps=5, limit_val_batches=0, **keep).fit(lstm(finished), finished)
    trainer = quiet_trainer(max_steps=5, limit_val_batches=0)
    trainer.fit(lstm(again), again, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.consumed_hash == finished.consumed_hash


class OtherData(Data):
    """A class of its own, which a checkpoint of Data says nothing of."""


def test_the_data_of_another_class_is_refused(data, quiet_trainer, tmp_path, caplog):
    first = data()
    keep = {"callbacks": [LastCheckpoint(str(tmp_path))], "enable_checkpointing": True}
    quiet_trainer(max_steps=5, limit_val_batches=0, **keep).fit(lstm(first), first)
    resume = {"ckpt_path": tmp_path / "last.ckpt", "weights_only": True}
    said = "cannot go on exactly: the data was none of a OtherData.*strict_resume false"
    with pytest.raises(InputError, match=said):
        quiet_trainer(max_steps=9, limit_val_batches=0).fit(lstm(first), data(OtherData), **resume)
    caplog.set_level(logging.INFO)
    other = data(OtherData, strict_resume=False)
    quiet_trainer(max_steps=9, limit_val_batches=0).fit(lstm(first), other, **resume)
    assert "the data was none of a OtherData, so the batches are not" in caplog.text
