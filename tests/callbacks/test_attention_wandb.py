"""What reaches Weights & Biases, read back from the file of an offline run."""

import json
import subprocess
import sys

import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_seq.callbacks import AttentionLogger
from tests.wandb_file import environment, read_runs

# in a process of its own: wandb's service and its exit hooks outlive a test
SCRIPT = """
import sys
from pathlib import Path
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from lightning_seq.callbacks import AttentionLogger
from tests.callbacks.conftest import TinyModel
import json

folder = Path(sys.argv[1])

class Keeps(AttentionLogger):
    def page(self):
        html = super().page()
        (folder / f"given-{len(list(folder.glob('given-*')))}.html").write_bytes(html.encode())
        return html

seed_everything(1)
logger = WandbLogger(project="test", save_dir=folder, offline=True)
watcher = Keeps(**json.loads(sys.argv[2]))
Trainer(accelerator="cpu", max_steps=12, val_check_interval=4, log_every_n_steps=2, logger=logger,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=1, callbacks=[watcher]).fit(TinyModel())
(folder / "history.json").write_text(json.dumps(watcher.history))
logger.experiment.finish()
"""


def offline_run(folder, **options):
    """Trains with real W&B, and returns what its run directory holds afterwards."""
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(options)]
    env = environment() | {"WANDB_CONSOLE": "off"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, cwd=folder, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    (run,) = read_runs(folder)
    run.said = done.stderr
    run.given = [path.read_bytes() for path in sorted(folder.glob("given-*.html"))]
    run.looks = json.loads((folder / "history.json").read_text())
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return offline_run(tmp_path_factory.mktemp("run"), warn_entropy_below=2)


def at_steps(run, key):
    """What came under a key, by the step of the training."""
    return [(row["trainer/global_step"], row[key]) for row in run.rows if key in row]


@pytest.mark.slow
def test_a_page_of_each_look_arrives_as_it_is(run):
    pages = at_steps(run, "attention/page")
    assert [step for step, _ in pages] == [3, 7, 11]
    assert {page["_type"] for _, page in pages} == {"html-file"}
    assert [(run.files / page["path"]).read_bytes() for _, page in pages] == run.given
    assert len({page["path"] for _, page in pages}) == len(list(run.files.rglob("*.html"))) == 3
    assert run.given[0].lower().startswith(b"<!doctype html>")
    assert run.given[0].rstrip().endswith(b"</html>")
    assert run.summary["attention/page"]["path"] == pages[-1][1]["path"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads", "map", "training"])
def test_pictures_arrive_at_the_step_of_their_look(run, name):
    pictures = at_steps(run, f"attention/{name}")
    assert [step for step, _ in pictures] == [3, 11]  # at the first look, at twice as many, and in the end
    for _, picture in pictures:
        assert picture["_type"] == "images/separated"
        assert min(picture["width"], picture["height"]) > 100
        (file,) = picture["filenames"]
        assert (run.files / file).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_numbers_arrive_at_the_step_at_which_they_were_measured(run):
    measured = {look["step"]: look for look in run.looks}
    assert list(measured) == [0, 4, 8, 12]
    for key in measured[12].keys() - {"step"}:
        found = at_steps(run, key)
        assert [step for step, _ in found] == [3, 7, 11]  # Lightning counts from 0
        assert [value for _, value in found] == pytest.approx(
            [measured[s][key] for s in (4, 8, 12)], abs=1e-6
        )
    assert "attention/entropy/layer0_head1" in measured[12]


@pytest.mark.slow
def test_steps_of_wandb_only_grow(run):
    steps = [row["_step"] for row in run.rows]
    assert steps == sorted(set(steps))
    assert "less than current step" not in run.said
    assert "could not take" not in run.said


@pytest.mark.slow
def test_an_alarm_is_one_alert_for_each_layer(run):
    assert [alert.title for alert in run.alerts] == [
        "Attention: entropy of layer 0",
        "Attention: entropy of layer 1",
    ]
    assert "the attention of layer 1 has collapsed" in run.alerts[1].text
    assert {alert.level for alert in run.alerts} == {"WARN"}
    assert run.said.count("the attention of layer 1 has collapsed") == 1


class Away:
    """A run of W&B that takes what Lightning logs itself, and nothing of attention."""

    def __init__(self):
        self.config = self
        self.asked = []

    def update(self, *args, **kwargs):
        pass

    def define_metric(self, *args, **kwargs):
        pass

    def log(self, metrics, step=None):
        self.asked += [key for key in metrics if key in ("attention/page", "attention/heads")]
        if any(key.startswith("attention/") and "val_loss" not in metrics for key in metrics):
            raise ConnectionError("the server is away")

    def alert(self, title, text, level):
        self.asked.append(title)
        raise ConnectionError("the server is away")


def test_wandb_that_fails_ends_no_training_and_is_told_of_once(train, tiny):
    away = Away()
    watcher = AttentionLogger(warn_entropy_below=2)
    with pytest.warns(UserWarning, match="could not take|has collapsed") as caught:
        trainer, _ = train(tiny, watcher, logger=WandbLogger(experiment=away), max_steps=12)
    assert trainer.global_step == 12
    assert [look["step"] for look in watcher.history] == [0, 4, 8, 12]
    assert away.asked.count("attention/page") == 3  # it was tried at each look
    assert {"attention/heads", "Attention: entropy of layer 0"} < set(away.asked)
    said = sorted(str(w.message) for w in caught if "could not take" in str(w.message))
    assert said == [
        f"WandbLogger could not take {what} and goes on without: ConnectionError: the server is away"
        for what in ("a figure", "a page", "an alert", "numbers of a step")
    ]
