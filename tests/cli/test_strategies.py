"""FSDP2 and tensor parallelism from the command line: two processes that Lightning starts."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import TEXT

SMALL = [
    "--data.path=text.txt",
    "--data.batch_size=2",
    "--data.context_length=16",
    "--model.embedding_dim=16",
    "--model.num_layers=1",
    "--model.num_heads=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=2",
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 10)

    def run(*words):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIGHTNING_SEQ_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "lightning_seq", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def losses(directory: Path):
    with (directory / "metrics.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("fragment", ["strategy/fsdp2", "strategy/tensor_parallel"])
def test_a_recipe_trains_spread_over_processes_and_goes_on_in_one(fragment, run, tmp_path):
    rows = "--data.batch_size=1" if fragment == "strategy/fsdp2" else "--data.batch_size=2"  # a process
    line = ["fit", "--config=quickstart", *SMALL, "--data.batching=blocks", "--model.dropout=0"]
    spread = [*line, "--config", fragment, "--trainer.devices=2", rows]
    status, said = run(*spread, "--trainer.max_steps=4", "--run_dir=spread")
    assert status == 0, said
    status, said = run(*line, "--trainer.max_steps=4", "--run_dir=alone")
    assert status == 0, said
    assert losses(tmp_path / "spread") == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)
    assert (tmp_path / "spread/samples.txt").exists()
    assert list((tmp_path / "spread/figures").glob("grad_clipping*"))
    last = "--ckpt_path=spread/checkpoints/last.ckpt"
    status, said = run(*line, last, "--trainer.max_steps=5", "--data.strict_resume=false", "--run_dir=on")
    assert status == 0, said
    status, said = run("generate", "--checkpoint=spread/checkpoints/best.ckpt", "--max_new_tokens=4")
    assert status == 0, said


@pytest.mark.slow
def test_a_distributed_checkpoint_goes_on_and_is_consolidated(run, tmp_path):
    parts = "--trainer.strategy.save_distributed_checkpoint=true"
    line = ["fit", "--config=quickstart", *SMALL, "--config=strategy/fsdp2", parts, "--trainer.devices=2"]
    status, said = run(*line, "--trainer.max_steps=4", "--run_dir=one")
    assert status == 0, said
    assert sorted(path.name for path in (tmp_path / "one/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    last = "one/checkpoints/last.ckpt"
    assert (tmp_path / last).is_dir()
    status, said = run(*line, "--trainer.max_steps=6", "--run_dir=two", "--ckpt_path", last)
    assert status == 0, said
    alone = ["fit", "--config=quickstart", *SMALL, "--trainer.max_steps=6", "--data.strict_resume=false"]
    for words in (["generate", "--checkpoint", last], [*alone, "--ckpt_path", last]):
        status, said = run(*words)
        assert status == 1
        assert f"`lightning-seq consolidate {last}` makes one" in said.replace("\n", " ")
    status, said = run("consolidate", last, "--output=whole.ckpt")
    assert status == 0, said
    assert run("generate", "--checkpoint=whole.ckpt", "--max_new_tokens=4")[0] == 0
    status, said = run(*alone, "--ckpt_path=whole.ckpt")
    assert status == 0, said
