"""A user's first session: the wheel, installed elsewhere, in an empty directory, `recipes` to `export`."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_seq import recipes

ROOT = Path(__file__).parents[1]
TINY = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.val_check_interval=2",
    "--data.batch_size=4",
    "--data.context_length=16",
]


def call(*words, **kwargs):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **kwargs)
    assert done.returncode == 0, f"{shlex.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel, built and installed apart from the checkout, beside the packages that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("lightning_seq-*.whl")
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder / "site", wheel)
    return wheel, folder / "site"


@pytest.fixture
def session(site, tmp_path):
    """Runs ``lightning-seq`` as it was installed, in an empty directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(site[1]),
        "LIGHTNING_SEQ_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path / "home"),
        "COLUMNS": "80",
    }

    def run(words, *more):
        words = shlex.split(words) if isinstance(words, str) else list(words)
        script = [sys.executable, str(site[1] / "bin" / "lightning-seq")]
        return call(*script, *words, *more, cwd=elsewhere, env=environment)

    run.directory = elsewhere
    run.python = lambda code: call(sys.executable, "-c", code, cwd=elsewhere, env=environment)
    return run


@pytest.mark.slow
def test_the_wheel_has_the_recipes_and_nothing_else(site):
    names = zipfile.ZipFile(site[0]).namelist()
    every = [*recipes.names(), *recipes.fragments(), *recipes.sweeps()]
    assert {f"lightning_seq/_recipes/{name}.yaml" for name in every} <= set(names)
    assert "lightning_seq/py.typed" in names
    assert not [n for n in names if n.startswith(("tests/", "recipes/")) or n.endswith(".pyc")]


@pytest.mark.slow
def test_a_whole_session(session):
    here = session.directory
    assert session.python("import lightning_seq as l; print(l.__file__)").startswith(str(here.parent.parent))
    listed = [line.split()[0] for line in session("recipes").splitlines() if "  " in line]
    assert listed == [*recipes.names(), *recipes.fragments(), *recipes.sweeps()]
    assert "class_path: LSTMLanguageModel" in session("recipes show quickstart_lstm")

    said = session("recipes copy quickstart_lstm mine.yaml")
    assert "lightning-seq fit --config mine.yaml" in said
    recipe = here / "mine.yaml"
    text = recipe.read_text()
    for before, after in (
        ("hidden_size: 256", "hidden_size: 24"),
        ("max_steps: 700", "max_steps: 4"),
        ("warmup_steps: 50", "warmup_steps: 2"),
        ("log_every_n_steps: 10", "log_every_n_steps: 1"),
        ("val_check_interval: 175", "val_check_interval: 2"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    recipe.write_text(text)
    own = ["--config", "mine.yaml", *TINY]

    assert "all is well" in session("doctor", *own)
    session("prepare --config mine.yaml")
    said = session("fit", *own)
    assert "runs/mine-1" in said
    best, last = (f"runs/mine-1/checkpoints/{name}.ckpt" for name in ("best", "last"))
    suggested = re.search(r"^next +lightning-seq ((?:.*\\\n)*.*)$", said, re.MULTILINE)[1]
    suggested = suggested.replace("\\\n", " ")
    assert session(suggested)  # what it says to do next can be done

    said = session("fit", *own, "--ckpt_path", last, "--trainer.max_steps=8")
    assert "runs/mine-2" in said
    assert "step 8" in said or "8 steps" in said or (here / "runs/mine-2/metrics.csv").exists()
    for act in ("validate", "test"):
        assert "loss" in session(act, *own, "--ckpt_path", "runs/mine-2/checkpoints/last.ckpt")
    assert "losses.npy" in session("predict", *own, "--ckpt_path", best)

    (here / "book.txt").write_text("It was a dark and stormy night. " * 40)
    assert "perplexity" in session("evaluate --text book.txt --protocol stream --checkpoint", best)
    assert session("generate --max_new_tokens 8 --seed 1 --checkpoint", best)
    session("attention --text stormy --checkpoint", best)
    session("fit", *own, "--data.path=book.txt", "--weights", best)

    small = ["--model.embedding_dim=16", "--model.num_layers=1", "--model.num_heads=2"]
    session("fit --config quickstart --trainer.max_steps 2 --run_dir gpt", *TINY, *small)
    session("export --checkpoint gpt/checkpoints/best.ckpt --output exported")
    assert (here / "exported" / "tokenizer.json").exists()
    session("import --directory exported --output imported.ckpt")
    again = [
        session(f"generate --temperature 0 --max_new_tokens 8 --checkpoint {name}").splitlines()[-1]
        for name in ("gpt/checkpoints/best.ckpt", "imported.ckpt")
    ]
    assert again[0] == again[1]

    expected = {"book.txt", "exported", "gpt", "imported.ckpt", "mine.yaml", "runs"}
    assert {path.name for path in here.iterdir()} - expected <= {"attention.html", "losses.npy"}
    outside = {path.name for path in here.parent.iterdir()}
    assert outside <= {"elsewhere", "cache", "home"}
