"""Weights & Biases from the command line, in real offline runs read back from their files."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from lightning_seq.cli import wandb_runs
from tests.cli.conftest import TEXT, TINY
from tests.wandb_file import environment, read_runs

TRANSFORMER = [
    "--model=TransformerLanguageModel",
    "--model.embedding_dim=8",
    "--model.num_layers=1",
    "--model.num_heads=2",
    "--config=logger/wandb",
    "--trainer.logger.offline=true",
    "--trainer.val_check_interval=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.gradient_clip_val=1",
    "--trainer.callbacks+=AttentionLogger",
    "--trainer.callbacks+=GradientClippingMonitor",
    "--trainer.callbacks+=SampleLogger",
    "--trainer.callbacks.prompt=the red ",
    "--trainer.callbacks.max_new_tokens=5",
]


def fit(folder, *options):
    """In a process of its own: wandb's service and its exit hooks outlive a test."""
    (folder / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "lightning_seq", "fit", *TRANSFORMER, *TINY, *options]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A training of four steps, and two steps more that go on from it."""
    folder = tmp_path_factory.mktemp("runs")
    fit(folder, "--trainer.max_steps=4", "--run_dir=first")
    fit(folder, "--trainer.max_steps=6", "--run_dir=second", "--ckpt_path=first/checkpoints/last.ckpt")
    return folder, *read_runs(folder)


@pytest.mark.slow
def test_a_resumed_training_goes_on_as_the_same_run(runs):
    folder, first, second = runs
    assert first.id == second.id
    assert [row["trainer/global_step"] for row in first.rows if "val_loss" in row] == [0, 1, 2, 3]
    assert [row["trainer/global_step"] for row in second.rows if "val_loss" in row] == [4, 5]
    checkpoint = torch.load(folder / "second/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["WandbRun"] == {"ids": [first.id]}


@pytest.mark.slow
def test_the_resolved_configuration_is_the_runs_and_an_artifact(runs):
    folder, first, _ = runs
    config = yaml.safe_load((folder / "first/config.yaml").read_text())
    assert first.config["trainer"] == json.loads(json.dumps(config["trainer"]))
    assert first.config["model"]["init_args"]["embedding_dim"] == 8
    again = yaml.safe_load((folder / "second/config.yaml").read_text())
    assert again["trainer"]["logger"]["init_args"].get("id") is None  # it is a training of its own
    (artifact,) = (each for each in first.artifacts if each.type == "config")
    assert artifact.name == f"config-{first.id}"


@pytest.mark.slow
def test_summaries_are_the_best_values(runs):
    _, first, _ = runs
    found = {metric.name: metric.summary for metric in first.metrics if metric.name.startswith("val_")}
    assert found["val_perplexity"].min
    assert found["val_loss"].min
    assert found["val_accuracy"].max
    assert {metric.step_metric for metric in first.metrics if metric.name in found} == {"trainer/global_step"}


@pytest.mark.slow
def test_samples_are_a_table_that_grows_over_the_resume(runs):
    _, first, second = runs
    tables = [row["samples"] for run in (first, second) for row in run.rows if "samples" in row]
    assert [table["nrows"] for table in tables] == [1, 2, 3, 4, 5, 6]
    last = json.loads((second.files / tables[-1]["path"]).read_text())
    assert last["columns"] == ["step", "val_loss", "text"]
    assert [row[0] for row in last["data"]] == [1, 2, 3, 4, 5, 6]
    assert all(text.startswith("the red ") for _, _, text in last["data"])


@pytest.mark.slow
def test_pictures_pages_and_advice_are_there(runs):
    _, first, _ = runs
    logged = {key for row in first.rows for key in row}
    assert {"attention/heads", "attention/map", "attention/page", "grad/clipping", "grad/norm"} <= logged
    assert "clipping at 1" in first.summary["grad/advice"]


@pytest.mark.slow
def test_private_text_stays_in_the_run_directory(tmp_path):
    said = fit(tmp_path, "--log_text=false", "--run_dir=run", "--trainer.callbacks.prompt=the old ")
    (run,) = read_runs(tmp_path)
    logged = {key for row in run.rows for key in row}
    assert {"attention/heads", "grad/norm", "val_loss"} <= logged
    assert not {"samples", "attention/map", "attention/page"} & logged
    assert "the old" in (tmp_path / "run/samples.txt").read_text()
    assert list((tmp_path / "run/figures").glob("attention_page-*.html"))
    assert list((tmp_path / "run/figures").glob("attention_map-*.png"))
    assert "the old" in said  # the terminal shows it, and W&B does not see the terminal
    sent = b"".join(path.read_bytes() for path in run.files.parent.rglob("*") if path.is_file())
    assert b"the old" not in sent


def test_no_key_is_told_at_once_and_leaves_nothing(command, here, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(here / "no_netrc"))
    monkeypatch.setattr(wandb_runs, "_settings", lambda: settings(api_key=None))
    status, said = command("fit", *[each for each in TRANSFORMER if "offline" not in each], *TINY)
    assert status == 1
    assert "W&B has no key for https://wandb.invalid: run `wandb login`" in said
    assert "--trainer.logger.offline true" in said
    assert not (here / "runs").exists() or not list((here / "runs").iterdir())


def test_a_server_that_does_not_answer_is_told_within_seconds(command, here, monkeypatch):
    monkeypatch.setattr(wandb_runs, "_settings", lambda: settings(api_key="a" * 40))
    status, said = command("fit", *[each for each in TRANSFORMER if "offline" not in each], *TINY)
    assert status == 1
    assert "W&B at https://wandb.invalid does not answer" in said
    assert "--trainer.logger.offline true" in said


def settings(api_key):
    import wandb

    return wandb.Settings(api_key=api_key, base_url="https://wandb.invalid", mode="online")
