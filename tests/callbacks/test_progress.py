import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import ProgressBar


@pytest.fixture
def fast(tiny):
    class Fast(tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log_dict({"tokens_per_second": 12345.6, "train_loss": loss}, prog_bar=True, logger=False)
            return loss

        def log(self, name, *args, **options):
            if name != "train_loss" or options:
                super().log(name, *args, **options)

    return Fast


def lines(capsys):
    return [line for line in capsys.readouterr().out.replace("\n", "\r").split("\r") if line.strip()]


def test_one_short_line_over_the_whole_run(train, fast, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    bar = ProgressBar(refresh_rate=2)
    options = {"enable_progress_bar": True, "logger": CSVLogger(tmp_path, "", "abcd")}
    train(fast, bar, max_steps=12, **options)  # an epoch has 8
    last = [line for line in lines(capsys) if line.startswith("Train")][-1]
    assert "100%" in last
    assert "12/12" in last
    assert "loss=" in last
    assert "val=" in last
    assert "tok/s=12.3k" in last
    assert "v_num" not in last
    assert len(last.rstrip()) <= 80
    assert bar.train_progress_bar.total == 12


def test_runs_by_epochs_keep_one_bar_per_epoch(train, fast, capsys):
    train(
        fast,
        ProgressBar(refresh_rate=1),
        max_steps=-1,
        max_epochs=2,
        enable_progress_bar=True,
        val_check_interval=1.0,
    )
    shown = "".join(lines(capsys))
    assert "Epoch 0" in shown
    assert "Epoch 1" in shown
    assert "8/8" in shown


@pytest.mark.parametrize(
    ("value", "shown"), [(3.0, "3"), (999.4, "999"), (12345.6, "12.3k"), (4.56e6, "4.56M"), (7e9, "7G")]
)
def test_speed_is_short(train, fast, value, shown):
    class Speed(fast):
        def training_step(self, batch, batch_idx):
            self.log("tokens_per_second", torch.tensor(value), prog_bar=True)
            return super(fast, self).training_step(batch, batch_idx)

    bar = ProgressBar(refresh_rate=0)
    trainer, _ = train(Speed, bar, max_steps=1, enable_progress_bar=True)
    assert bar.get_metrics(trainer, trainer.lightning_module)["tok/s"] == shown
