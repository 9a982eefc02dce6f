"""The trial steps of Lightning's tuners are no steps of the training, whichever callback watches it."""

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner

from lightning_seq import callbacks
from lightning_seq.models import LSTMLanguageModel
from tests.callbacks.test_reset_on_fit import TUNES, Texts, make, plain

BATCH_SIZE = 4
SIZES = {"init_val": BATCH_SIZE, "max_trials": 1, "steps_per_trial": 2}  # one trial, which changes nothing


def no_tuner(trainer, model, data):
    trainer.fit(model, data)


def finders(trainer, model, data):
    trainer.callbacks += [
        LearningRateFinder(num_training_steps=9, update_attr=False),
        BatchSizeFinder(**SIZES),
    ]
    trainer.fit(model, data)


def tuner(trainer, model, data):
    Tuner(trainer).lr_find(model, datamodule=data, num_training=9, update_attr=False)
    Tuner(trainer).scale_batch_size(model, datamodule=data, **SIZES)
    trainer.fit(model, data)


def train(quiet_trainer, tmp_path, clips, tune):
    """Trains with all callbacks at once but for one of the two that clip; returns weights and states."""
    other = {"AutoClip", "ZClip"} - {clips}
    watching = [make(name, tmp_path / "run") for name in callbacks.__all__ if name not in other]
    torch.manual_seed(0)
    model = LSTMLanguageModel(vocab_size=40, embedding_dim=8, hidden_size=8, learning_rate=0.05)
    data = Texts(TUNES, batch_size=BATCH_SIZE, context_length=16, cache_dir=str(tmp_path / "cache"))
    trainer = quiet_trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        enable_progress_bar=True,
        enable_checkpointing=True,
        callbacks=watching,
    )
    tune(trainer, model, data)
    assert trainer.global_step == 6
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights.tolist(), {type(each).__name__: plain(each.state_dict()) for each in watching}


@pytest.mark.parametrize("tune", [finders, tuner])
@pytest.mark.parametrize("clips", ["AutoClip", "ZClip"])
def test_trial_steps_are_not_counted_and_change_nothing(clips, tune, quiet_trainer, tmp_path):
    weights, states = train(quiet_trainer, tmp_path / "tuned", clips, tune)
    assert states["GradientClippingMonitor"]["ledgers"][0]["steps"] == 6
    assert (weights, states) == train(quiet_trainer, tmp_path / "plain", clips, no_tuner)
