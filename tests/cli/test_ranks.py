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
    assert result.stdout.count("lightning-seq generate --checkpoint") == 1
    run = here / "runs" / "LSTMLanguageModel-1"
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert (run / "metrics.csv").read_text().count("\n") >= 2
