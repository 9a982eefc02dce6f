"""Every optimizer, with a schedule, clipping and accumulation, in Lightning's own loop."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_seq.optimization import LearningRateSchedule, build_optimizer

X, Y = torch.randn(2, 8, 6, 4, generator=torch.Generator().manual_seed(0))
VALIDATIONS = [2.0, 1.0, 1.0, 1.5, 1.2, 0.9]  # nt_asgd triggers and the plateau reduces in the fourth epoch
OPTIMIZERS = ["adamw", "sgd", "nt_asgd"] + ["muon"] * hasattr(torch.optim, "Muon")
SCHEDULES = {
    "inverse_sqrt": {"warmup_steps": 3},
    "step": {"decay_interval": 5, "decay_factor": 0.8},
    "plateau": {"patience": 1, "decay_factor": 0.5},
    "wsd": {"max_steps": 24, "decay_steps": 8},
}


class Batches:
    """Not a DataLoader: Lightning then leaves the order alone."""

    def __len__(self):
        return len(X)

    def __iter__(self):
        yield from zip(X, Y, strict=True)


class Regression(LightningModule):
    def __init__(self, optimizer, schedule):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 4))
        self.choice = optimizer, schedule
        self.used = []

    def configure_optimizers(self):
        optimizer, schedule = made(self.net, *self.choice)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        self.used.append(self.optimizers().param_groups[0]["lr"])
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        validated(VALIDATIONS[self.current_epoch], self.optimizers().optimizer, self.lr_schedulers())


def made(net, name, schedule):
    interval = {"non_monotone_interval": 1} if name == "nt_asgd" else {}
    optimizer = build_optimizer(net, name, 0.05, 0.1, **interval)
    return optimizer, LearningRateSchedule(optimizer, schedule, **SCHEDULES[schedule])


def validated(loss, optimizer, schedule):
    schedule.validated(loss)
    if hasattr(optimizer, "validated"):
        optimizer.validated(loss)


def assert_same(net, other):
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def fit(quiet_trainer):
    def run(model, epochs, **options):
        trainer = quiet_trainer(
            max_epochs=epochs,
            gradient_clip_val=0.1,
            accumulate_grad_batches=2,
            num_sanity_val_steps=0,
            limit_val_batches=1,
        )
        trainer.fit(model, Batches(), Batches(), **options)
        return trainer

    return run


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trains_as_a_plain_loop_does(fit, optimizer, schedule):
    model, reference = Regression(optimizer, schedule), Regression(optimizer, schedule)
    trainer = fit(model, 6)
    plain, plain_schedule = made(reference.net, optimizer, schedule)
    rates = []
    for epoch in range(6):
        for first in range(0, 8, 2):
            plain.zero_grad()
            rates += [plain.param_groups[0]["lr"]] * 2
            for x, y in zip(X[first : first + 2], Y[first : first + 2], strict=True):
                (nn.functional.mse_loss(reference.net(x), y) / 2).backward()
            nn.utils.clip_grad_norm_([p for group in plain.param_groups for p in group["params"]], 0.1)
            plain.step()
            plain_schedule.step()
        validated(VALIDATIONS[epoch], plain, plain_schedule)
    assert_same(model, reference)
    assert model.used == rates
    assert len(set(rates)) > 1
    if optimizer == "nt_asgd":
        averages = trainer.optimizers[0].averages()
        expected = plain.averages()
        for p, q in zip(model.net.parameters(), reference.net.parameters(), strict=True):
            torch.testing.assert_close(averages[p], expected[q], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["plateau", "wsd"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [2, 4])  # before and after the trigger of nt_asgd
def test_goes_on_from_a_checkpoint_to_the_bit(fit, tmp_path, optimizer, schedule, stop):
    whole, model, rest = (Regression(optimizer, schedule) for _ in range(3))
    fit(whole, 6)
    fit(model, stop).save_checkpoint(tmp_path / "x.ckpt")
    fit(rest, 6, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert_same(rest, whole)
    assert model.used + rest.used == whole.used
