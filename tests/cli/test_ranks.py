"""Two real processes through the console script's own entry."""

import subprocess
import sys

import pytest
import torch

from tests.cli.conftest import LSTM, TINY, here  # noqa: F401


@pytest.mark.slow
def test_two_ranks_share_one_run_directory_one_cache_and_one_tokenizer(here):  # noqa: F811
    line = [*LSTM, *TINY, "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.val_check_interval=1"]
    watchers = [f"--trainer.callbacks+={name}" for name in ("GradientClippingMonitor", "SampleLogger")]
    command = [sys.executable, "-m", "lightning_seq", "fit", *line, *watchers]
    result = subprocess.run(command, capture_output=True, text=True, cwd=here, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    assert [p.name for p in (here / "runs").iterdir()] == ["LSTMLanguageModel-1"]
    assert result.stdout.count("lightning-seq generate --prompt") == 1
    run = here / "runs" / "LSTMLanguageModel-1"
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert (run / "metrics.csv").read_text().count("\n") >= 2


@pytest.mark.slow
def test_two_ranks_go_on_with_their_own_lanes(here):  # noqa: F811
    line = [*LSTM, *TINY, "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.val_check_interval=3"]

    def fit(*words):
        command = [sys.executable, "-m", "lightning_seq", "fit", *line, *words]
        result = subprocess.run(command, capture_output=True, text=True, cwd=here, timeout=240)
        assert result.returncode == 0, result.stderr[-3000:]

    fit("--trainer.max_steps=5", "--run_dir=whole")
    fit("--trainer.max_steps=2", "--run_dir=half")
    fit("--trainer.max_steps=5", "--run_dir=rest", "--ckpt_path=half/checkpoints/last.ckpt")
    whole, half, rest = (
        torch.load(here / run / "checkpoints/last.ckpt", weights_only=True)
        for run in ("whole", "half", "rest")
    )
    hidden = half["lightning_seq"]["state"][0]  # (ranks * batch, layers, hidden)
    assert hidden.shape == (4, 1, 8)
    assert len(hidden.unique(dim=0)) == 4
    assert all(
        torch.equal(whole["state_dict"][name], rest["state_dict"][name]) for name in whole["state_dict"]
    )
