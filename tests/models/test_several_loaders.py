"""Each of several loaders has its own sums and names; schedules follow the first one."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_seq.callbacks import SampleLogger
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel
from tests.models.training import Batches, build, lanes, trainer, weights


def alone(model, loader, act="validate"):
    """Returns the figures of one loader in an evaluation of its own."""
    return getattr(trainer(), act)(model, loader, verbose=False)[0]


@pytest.mark.parametrize("cls", [LSTMLanguageModel, TransformerLanguageModel])
@pytest.mark.parametrize(("act", "prefix"), [("validate", "val"), ("test", "test")])
def test_each_loader_has_the_figures_that_it_has_alone(cls, act, prefix):
    model = build(cls)
    loaders = [lanes(steps=3, seed=1), lanes(steps=5, batch=2, seed=2), lanes(steps=1, seed=3)]
    expected = [alone(model, loader, act) for loader in loaders]
    found = getattr(trainer(), act)(model, loaders, verbose=False)
    assert len({each[f"{prefix}_loss"] for each in expected}) == 3
    for i in range(3):
        suffix = f"/dataloader_idx_{i}"
        assert found[i] == pytest.approx({name + suffix: value for name, value in expected[i].items()})


def test_the_same_in_training_and_the_sanity_check():
    model = build(LSTMLanguageModel)
    loaders = [lanes(steps=3, seed=1), lanes(steps=4, seed=2)]
    run = trainer(max_steps=2, val_check_interval=2, num_sanity_val_steps=2)
    run.fit(model, lanes(), loaders)
    for i, loader in enumerate(loaders):
        found = run.callback_metrics[f"val_loss/dataloader_idx_{i}"].item()
        assert found == pytest.approx(alone(model, loader)["val_loss"])
    assert "val_loss" not in run.callback_metrics


def test_a_limit_is_each_loaders():
    model = build(LSTMLanguageModel)
    loaders = [lanes(steps=6, seed=1), lanes(steps=6, seed=2)]
    run = trainer(limit_val_batches=2)
    found = run.validate(model, loaders, verbose=False)
    for i, loader in enumerate(loaders):
        expected = alone(model, Batches(loader.batches[:2]))["val_loss"]
        assert found[i][f"val_loss/dataloader_idx_{i}"] == pytest.approx(expected)


def test_the_state_of_one_loader_is_not_carried_into_the_next():
    model = build(LSTMLanguageModel)
    always = lanes(steps=2, seed=2)
    always.batches[0]["continues"][:] = True  # wrongly: nothing comes before
    found = trainer().validate(model, [lanes(steps=2, seed=1), always], verbose=False)
    assert found[1]["val_loss/dataloader_idx_1"] == pytest.approx(alone(model, always)["val_loss"])


@pytest.mark.parametrize("options", [{"schedule": "plateau"}, {"optimizer": "nt_asgd", "learning_rate": 1.0}])
@pytest.mark.parametrize("second", [3, 4])
def test_schedules_follow_the_first_loader(options, second, caplog):
    caplog.set_level("INFO")
    first = lanes(steps=2, seed=1)
    trained = []
    for loaders in (first, [first, lanes(steps=2, seed=second)]):
        model = build(LSTMLanguageModel, **options)
        run = trainer(max_steps=5, val_check_interval=1)
        run.fit(model, lanes(), loaders)
        trained.append(weights(model))
    assert torch.equal(*trained)
    name = options.get("schedule", "nt_asgd")
    assert f"{name}: of 2 validation loaders the first counts, val_loss/dataloader_idx_0" in caplog.text


@pytest.mark.parametrize("monitoring", [ModelCheckpoint, EarlyStopping])
def test_what_monitors_no_loader_is_refused_before_training(monitoring, tmp_path):
    loaders = [lanes(steps=2, seed=1), lanes(steps=2, seed=2)]
    checkpoints = {"enable_checkpointing": True} if monitoring is ModelCheckpoint else {}
    model = build(LSTMLanguageModel)
    options = {"default_root_dir": tmp_path, "max_steps": 1, "val_check_interval": 1, **checkpoints}
    run = trainer(callbacks=[monitoring(monitor="val_loss")], **options)
    with pytest.raises(InputError, match="monitor 'val_loss/dataloader_idx_0'"):
        run.fit(model, lanes(), loaders)
    assert run.global_step == 0
    trainer(callbacks=[monitoring(monitor="val_loss/dataloader_idx_0")], **options).fit(
        model, lanes(), loaders
    )


def test_samples_come_with_the_first_loaders_loss(tmp_path):
    sampler = SampleLogger("1 2", max_new_tokens=2)
    run = trainer(callbacks=[sampler], default_root_dir=tmp_path, max_steps=1, val_check_interval=1)
    run.fit(build(LSTMLanguageModel), lanes(), [lanes(steps=2, seed=1), lanes(steps=2, seed=2)])
    assert sampler.samples[0][1] == pytest.approx(run.callback_metrics["val_loss/dataloader_idx_0"].item())


class Shorter(Batches):
    def __len__(self):
        return len(self.batches) + 1


class Endless:
    def __iter__(self):
        return iter(lanes(steps=2).batches)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (Shorter(lanes(steps=2).batches), "val loader 1 did not reach"),
        (Endless(), "loader 1 of 2 val loaders"),
    ],
)
def test_a_loader_whose_end_is_not_known_is_refused(loader, message):
    with pytest.raises(InputError, match=message):
        trainer().validate(build(LSTMLanguageModel), [lanes(steps=2), loader], verbose=False)


def test_a_step_that_loses_the_loader_is_refused():
    class Merging(LSTMLanguageModel):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx)

    with pytest.raises(InputError, match="does not pass dataloader_idx on"):
        trainer().validate(build_of(Merging), [lanes(steps=2), lanes(steps=3)], verbose=False)


def build_of(cls):
    return cls(13, embedding_dim=8, hidden_size=8)


def test_one_loader_keeps_its_names():
    model = build(LSTMLanguageModel)
    for loader in (lanes(steps=2), [lanes(steps=2)], Endless()):
        assert set(alone(model, loader)) == {"val_loss", "val_perplexity"}


def test_a_data_module_may_have_several(tmp_path):
    class Two(pl.LightningDataModule):
        def train_dataloader(self):
            return lanes()

        def val_dataloader(self):
            return {"near": lanes(steps=2, seed=1), "far": lanes(steps=2, seed=2)}

    run = trainer(max_steps=1, val_check_interval=1)
    run.fit(build(LSTMLanguageModel), datamodule=Two())
    assert {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"} <= set(run.callback_metrics)
