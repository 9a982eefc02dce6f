"""Two real processes through the console script's own entry."""

import os
import subprocess
import sys

import pytest
import torch

from tests.cli.conftest import LSTM, TEXT, TINY, here  # noqa: F401


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


TERMINATING = """
from lightning.pytorch import Callback


class TerminateAt(Callback):
    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_start(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:  # as a SIGTERM to every rank does
            trainer._signal_connector.received_sigterm = True
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous", "blocks", "documents"])
def test_two_ranks_go_on_with_their_own_lanes_and_dropout(here, layout):  # noqa: F811
    (here / "terminating_callback.py").write_text(TERMINATING)
    (here / "text").mkdir()
    for i in range(40):
        (here / "text" / f"{i:02}.txt").write_text(TEXT[: 40 + 97 * i % 200])
    line = [*LSTM, *TINY, "--model.num_layers=2", "--model.dropout=0.3", f"--data.batching={layout}"]
    line += ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.val_check_interval=6"]
    line += ["--trainer.accumulate_grad_batches=2", "--trainer.log_every_n_steps=1", "--data.path=text"]
    line += ["--trainer.max_steps=6"]

    def fit(*words, status=0):
        command = [sys.executable, "-m", "lightning_seq", "fit", *line, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=here, timeout=240, env=environment
        )
        assert (result.returncode == 0) == (status == 0), result.stderr[-3000:]

    terminate = ["--trainer.callbacks+=terminating_callback.TerminateAt", "--trainer.callbacks.batch=4"]
    fit("--run_dir=whole")
    fit("--run_dir=half", *terminate, status=1)
    fit("--run_dir=rest", "--ckpt_path=half/checkpoints/last.ckpt")
    whole, half, rest = (
        torch.load(here / run / "checkpoints/last.ckpt", weights_only=True)
        for run in ("whole", "half", "rest")
    )
    assert half["global_step"] == 2
    assert half["lightning_seq"]["gradients"]  # batch 4 was the first of its window of two
    if layout == "contiguous":
        hidden = half["lightning_seq"]["state"][0]  # (ranks * batch, layers, hidden)
        assert hidden.shape == (4, 2, 8)
        assert len(hidden.unique(dim=0)) == 4
    assert all(
        torch.equal(whole["state_dict"][name], rest["state_dict"][name]) for name in whole["state_dict"]
    )
    marks = [each["TextDataModule"]["ranks"] for each in (whole, rest)]
    assert len({rank[-1]["hash"] for rank in marks[0]}) == 2
    assert [rank[-1] for rank in marks[0]] == [rank[-1] for rank in marks[1]]
