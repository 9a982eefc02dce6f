"""A callback that served one training begins the next one as a new callback does."""

import inspect
import math
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils._pytree import tree_map

from lightning_seq import callbacks
from lightning_seq.callbacks import AutoClip, LastCheckpoint, SampleLogger, StopOnSignal
from lightning_seq.data import SequenceDataModule
from lightning_seq.models import LSTMLanguageModel

OPTIONS = {
    "GradientIncidentRecorder": {"warmup_steps": 5, "then": "skip"},
    "ZClip": {"warmup_steps": 2, "z": 0.1},
    "AutoClip": {"percentile": 50.0},
    "SampleLogger": {"max_new_tokens": 4},
    "TuneMonitor": {"n_tunes": 2, "max_new_tokens": 8},
    "AttentionLogger": {"max_tokens": 8, "page": False},
}
TUNES = [f"X:{n}\nM:2/4\nK:C\nCDEF|GABc|\n\n" for n in range(40)]
OTHER_TUNES = [f"X:{n}\nM:2/4\nK:C\nGGGG|cccc|c2B2|\n\n" for n in range(40)]


class Texts(SequenceDataModule):
    """The texts that it is given."""

    def __init__(self, texts, **options):
        super().__init__(**options)
        self.texts = texts

    def documents(self, split):
        return self.texts if split == "train" else self.texts[:2]


class Notes(Callback):
    """Keeps all that is logged after every batch, and by the callbacks in validation."""

    def __init__(self):
        self.logged = []

    def on_train_batch_end(self, trainer, *args):
        self.logged.append(plain({k: float(v) for k, v in trainer.callback_metrics.items()}))

    def on_validation_end(self, trainer, *args):
        self.on_train_batch_end(trainer)


def plain(found):
    """What can be compared: without what the clock decides; tensors as lists, NaN as text."""

    def leaf(x):
        x = x.tolist() if isinstance(x, torch.Tensor) else x
        return "nan" if isinstance(x, float) and math.isnan(x) else x

    found = {k: v for k, v in found.items() if k != "tokens_per_second"}
    return tree_map(leaf, tree_map(leaf, found))


def make(name, directory):
    kind = getattr(callbacks, name)
    takes_one = "directory" in inspect.signature(kind).parameters
    return kind(**OPTIONS.get(name, {}), **({"directory": str(directory)} if takes_one else {}))


@pytest.fixture
def train(quiet_trainer, tmp_path):
    """Trains a new model; returns its weights, what was logged, and the state of the first callback."""

    def train(callback, *others, texts=TUNES, seed=0, ckpt_path=None, **options):
        torch.manual_seed(seed)
        model = LSTMLanguageModel(vocab_size=40, embedding_dim=8, hidden_size=8, learning_rate=0.05 + seed)
        data = Texts(texts, batch_size=4, context_length=16, cache_dir=str(tmp_path / "cache"))
        notes = Notes()
        everything = [callback, *others, notes]
        defaults = {
            "max_steps": 6,
            "val_check_interval": 3,
            "limit_val_batches": 1,
            "log_every_n_steps": 2,
            "enable_progress_bar": any(isinstance(each, TQDMProgressBar) for each in everything),
            "enable_checkpointing": any(isinstance(each, Checkpoint) for each in everything),
        }
        trainer = quiet_trainer(callbacks=everything, **defaults | options)
        trainer.fit(model, data, ckpt_path=ckpt_path)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return weights.tolist(), notes.logged, plain(callback.state_dict())

    return train


@pytest.mark.parametrize("name", callbacks.__all__)
def test_a_callback_that_is_used_again_trains_logs_and_saves_as_a_new_one(name, train, tmp_path):
    used = make(name, tmp_path / "used")
    train(used, texts=OTHER_TUNES, seed=1, max_steps=4)
    again = train(used)
    assert again == train(make(name, tmp_path / "new"))


def test_a_training_that_is_resumed_keeps_the_state_of_its_checkpoint(train, tmp_path):
    whole = train(AutoClip(50.0))
    used = AutoClip(50.0)
    train(used, LastCheckpoint(str(tmp_path / "run")), max_steps=3)
    train(used, texts=OTHER_TUNES, seed=1)
    weights, _, state = train(used, ckpt_path=tmp_path / "run/last.ckpt")
    assert weights == whole[0]
    assert state == whole[2]
    assert len(state["norms"]) == 6


class Fails(Callback):
    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("no data today")


def test_a_checkpoint_stays_where_the_next_training_fails_before_its_first_batch(train, tmp_path):
    last = LastCheckpoint(str(tmp_path / "run"))
    train(last, max_steps=3)
    (tmp_path / "run/last.ckpt").rename(tmp_path / "kept.ckpt")
    with pytest.raises(RuntimeError, match="no data today"):
        train(last, Fails(), ckpt_path=tmp_path / "kept.ckpt")
    assert not (tmp_path / "run/last.ckpt").exists()


class Signals(StopOnSignal):
    sends = True

    def on_train_batch_start(self, *args):
        if self.sends:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_one_training_and_not_the_next(train):
    stop = Signals()
    with pytest.raises(SIGTERMException):
        train(stop)
    assert stop.stopped_by == signal.SIGTERM
    stop.sends = False
    _, logged, _ = train(stop)
    assert stop.stopped_by is None
    assert len(logged) == 6 + 3  # batches, and validations with the sanity check


def test_a_prompt_that_is_taken_from_the_data_is_taken_from_those_of_each_training(train):
    sampler = SampleLogger("", max_new_tokens=4)
    train(sampler, texts=OTHER_TUNES, seed=1)
    assert sampler.last.startswith("X:0\nM:2/")
    train(sampler, texts=["reel " + each for each in TUNES])
    assert sampler.last.startswith("reel X:0")
    assert sampler.prompt == ""
