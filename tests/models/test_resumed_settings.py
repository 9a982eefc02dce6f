"""A resumed training goes on with the optimizer's settings that it had, unless other ones are given."""

import logging

import pytest
import torch

from lightning_seq.data import CopyTask
from lightning_seq.models import LSTMLanguageModel


@pytest.fixture
def fit(quiet_trainer):
    def fit(model, ckpt_path=None, max_steps=2, save=None):
        trainer = quiet_trainer(max_steps=max_steps, limit_val_batches=0, num_sanity_val_steps=0)
        data = CopyTask(length=2, delay=3, batch_size=3)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        if save:
            trainer.save_checkpoint(save)
        return trainer.optimizers[0].param_groups[0]

    return fit


def build(**options):
    torch.manual_seed(0)
    return LSTMLanguageModel(
        **{"vocab_size": 10, "embedding_dim": 4, "hidden_size": 5, "num_layers": 1, **options}
    )


CHANGED = {"learning_rate": 2e-2, "weight_decay": 0.3}


@pytest.mark.parametrize("name", CHANGED)
def test_an_attribute_set_before_fit_goes_on_with_fresh_models(fit, tmp_path, caplog, name):
    caplog.set_level(logging.INFO)
    model = build()
    setattr(model, name, CHANGED[name])
    fit(model, save=tmp_path / "1.ckpt")
    for number in (2, 3):  # also where the training is resumed again
        caplog.clear()
        fresh = build()
        group = fit(fresh, tmp_path / f"{number - 1}.ckpt", 2 * number, tmp_path / f"{number}.ckpt")
        assert getattr(fresh, name) == CHANGED[name]
        assert group["lr" if name == "learning_rate" else name] in (CHANGED[name], 0.0)
        assert f"resume: {name} stays {CHANGED[name]}, which the checkpoint was trained with" in caplog.text


@pytest.mark.parametrize("options", [{}, {"learning_rate": 1e-2, "betas": (0.8, 0.9)}])
def test_settings_that_were_passed_go_on_in_a_model_of_defaults(fit, tmp_path, options):
    fit(build(**options), save=tmp_path / "1.ckpt")
    group = fit(build(), tmp_path / "1.ckpt", 4)
    assert group["lr"] == options.get("learning_rate", 1e-3)
    assert tuple(group["betas"]) == options.get("betas", (0.9, 0.95))


@pytest.mark.parametrize("given", [5e-3, 1e-3])
@pytest.mark.parametrize("by_attribute", [False, True])
def test_a_value_that_is_given_wins_and_is_said(fit, tmp_path, caplog, given, by_attribute):
    """The default too, where it is passed."""
    caplog.set_level(logging.INFO)
    fit(build(learning_rate=2e-2), save=tmp_path / "1.ckpt")
    model = build(learning_rate=2e-2 if by_attribute else given)
    model.learning_rate = given
    assert fit(model, tmp_path / "1.ckpt", 4)["lr"] == given
    assert f"resume: learning_rate was 0.02 and is now {given}, as given to this model" in caplog.text


def test_another_schedule_is_said(fit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(build(schedule="cosine"), save=tmp_path / "1.ckpt")
    fit(build(), tmp_path / "1.ckpt", 4)
    assert "resume: schedule was cosine and is now constant, as given to this model" in caplog.text


def test_nothing_is_said_where_nothing_changes(fit, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fit(build(learning_rate=2e-2), save=tmp_path / "1.ckpt")
    fit(build(learning_rate=2e-2), tmp_path / "1.ckpt", 4)
    assert "resume:" not in caplog.text
