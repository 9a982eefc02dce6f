import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys, warnings
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning_seq.callbacks import AttentionLogger, GradientClippingMonitor, ProgressBar, SampleLogger

warnings.filterwarnings("error", message=".*attention.*sync_dist.*")
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
sys.modules["tiny"] = tiny
spec.loader.exec_module(tiny)

def fit(callbacks, folder):
    seed_everything(1)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=4, val_check_interval=2,
        logger=CSVLogger(folder, "", ""), log_every_n_steps=1, enable_checkpointing=False,
        gradient_clip_val=0.2, default_root_dir=folder, callbacks=callbacks,
    )
    model = tiny.Writer()
    trainer.fit(model)
    return torch.cat([p.detach().flatten() for p in model.parameters()])

watchers = [AttentionLogger(), GradientClippingMonitor(), SampleLogger(), ProgressBar()]
assert torch.equal(fit([], sys.argv[2] + "/without"), fit(watchers, sys.argv[2] + "/with"))
"""


@pytest.mark.slow
def test_two_ranks_train_the_same_and_one_of_them_writes(tmp_path):
    conftest = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", SCRIPT, str(conftest), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "with"
    assert (folder / "samples.txt").read_text(encoding="utf-8").count("===\n") == 2
    assert len(list((folder / "figures").glob("*.png"))) == 2
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"grad/norm", "grad/clipped_share", "attention/entropy"} <= set(header)
