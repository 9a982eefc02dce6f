"""The command lines of the README, one section after the other, each in a directory of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.wandb_file import environment

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
QUICK = (
    "--trainer.max_steps 3 --trainer.val_check_interval 3 --trainer.limit_val_batches 2 "
    "--trainer.enable_progress_bar false --trainer.accelerator cpu"
)
ALONE = "--trainer.devices 1"
# the Hub cannot be reached by tests, and results take the whole training: these have tests of their own
ELSEWHERE = ("roneneldan/TinyStories", "lightning-seq reproduce", "lightning-seq doctor --config gpt2_124m")
WHOLE = ("GradientIncidentRecorder",)  # an incident comes when it comes
TEXT = "It was a dark and stormy night; the rain fell in torrents.\n" * 200


def sections():
    for part in re.split(r"^##+ ", README, flags=re.MULTILINE):
        lines = re.findall(r"^    (lightning-seq .*?)(?: {2,}#.*)?$", part, re.MULTILINE)
        if lines:
            yield pytest.param(lines, id=part.split("\n")[0])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the README's first command leaves."""
    folder = tmp_path_factory.mktemp("quickstart")
    run(f"lightning-seq fit --config quickstart {QUICK} {ALONE}", folder)
    return folder / "runs" / "quickstart-1"


def run(line, folder):
    """As a shell does, so that quotes and globs mean what they mean there."""
    line = line.replace("lightning-seq ", f"{sys.executable} -m lightning_seq ", 1)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment()
        | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("lines", list(sections()))
def test_the_commands_of_a_section_run_one_after_the_other(lines, quickstart, tmp_path):
    shutil.copytree(quickstart, tmp_path / "runs" / "quickstart-1")
    (tmp_path / "books").mkdir()
    for name in ("my.txt", "book.txt", "books/one.txt", "books/two.txt", "books/three.txt"):
        (tmp_path / name).write_text(TEXT)
    np.save(tmp_path / "notes.npy", np.arange(20_000) * 7 % 128)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my_module.py").write_text(next(block for block in blocks if "class MyModel" in block))
    for line in lines:
        if any(word in line for word in ELSEWHERE):
            if " fit " in line:  # those that follow count on its directory
                (tmp_path / "runs" / "quickstart-2").mkdir()
            continue
        quick = " fit " in line and not any(word in line for word in WHOLE)
        alone = "" if "--trainer.devices" in line else ALONE
        said = run(f"{line} {QUICK} {alone}" if quick else line, tmp_path)
        assert said or " prepare " in line
