"""The wheel, built and used elsewhere: it carries the recipes and trains one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_seq import recipes

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_lists_the_recipes_and_trains_one(tmp_path):
    def run(*words, **kwargs):
        return subprocess.run(words, check=True, capture_output=True, text=True, **kwargs).stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("lightning_seq-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    every = [*recipes.names(), *recipes.fragments(), *recipes.sweeps()]
    assert {f"lightning_seq/_recipes/{name}.yaml" for name in every} <= set(names)
    assert "lightning_seq/py.typed" in names
    assert not [n for n in names if n.startswith(("tests/", "recipes/")) or n.endswith(".pyc")]

    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site), "LIGHTNING_SEQ_CACHE": str(tmp_path / "cache")}

    def command(*words):
        return run(sys.executable, "-m", "lightning_seq", *words, cwd=elsewhere, env=environment)

    where = run(
        sys.executable, "-c", "import lightning_seq as l; print(l.__file__)", cwd=elsewhere, env=environment
    )
    assert where.startswith(str(site))
    listed = [line.split()[0] for line in command("recipes").splitlines() if "  " in line]
    assert listed == every
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"]
    assert "quickstart_lstm-1" in command("fit", "--config", "quickstart_lstm", *steps)
    checkpoint = "runs/quickstart_lstm-1/checkpoints/best.ckpt"
    said = command("generate", "--checkpoint", checkpoint, "--prompt", "The", "--max_new_tokens", "5")
    assert said.startswith("The")
