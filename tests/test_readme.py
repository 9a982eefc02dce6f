"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_seq
from lightning_seq import recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_the_ones_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace(" --quiet", "")
    for command in (
        "pip install -c constraints.txt -e . && lightning-seq fit --config quickstart",
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ):
        assert f"\n    {command}\n" in README
        assert command in ci


def test_the_table_of_recipes_is_whole_and_true():
    section = README.split("### Recipes")[1].split("###")[0]
    table = re.findall(r"^\| `([\w/]+)` \| (.+) \|$", section, re.MULTILINE)
    assert sorted(name for name, _ in table) == recipes.names()
    assert all(said == recipes.description(name) for name, said in table)


def test_the_tree_has_every_file_of_the_package():
    tree = README.split("## The tree")[1].split("## Where")[0]
    in_tree = re.findall(r"^ +([\w./]+?)/? {2,}\S", tree, re.MULTILINE)
    package = ROOT / "lightning_seq"
    folders = {p.name for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    files = [p.name for p in package.rglob("*.py") if p.name != "__init__.py"]
    assert sorted(name for name in in_tree if name.endswith(".py")) == sorted([*files, "__init__.py"])
    assert folders <= set(in_tree)


def test_version_and_changelog_agree():
    latest = re.search(
        r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert latest[1] == lightning_seq.__version__


def test_the_public_names():
    from lightning_seq import callbacks, data, models, networks

    assert sorted(models.__all__) == [
        "GRULanguageModel",
        "LSTMLanguageModel",
        "LanguageModel",
        "MinGRULanguageModel",
        "MinLSTMLanguageModel",
        "RNNLanguageModel",
        "TransformerLanguageModel",
    ]
    assert sorted(data.__all__) == [
        "AddingProblem",
        "AssociativeRecall",
        "CopyTask",
        "DyckBrackets",
        "FolkTunes",
        "HuggingFaceTextDataModule",
        "MemoryTask",
        "RepeatedSequence",
        "ResumableDataModule",
        "SequenceDataModule",
        "TextDataModule",
        "TokenDataModule",
    ]
    assert sorted(callbacks.__all__) == [
        "AttentionLogger",
        "AutoClip",
        "GradientClippingMonitor",
        "GradientIncidentRecorder",
        "LastCheckpoint",
        "ProgressBar",
        "RecurrentStateMonitor",
        "SampleLogger",
        "StopOnSignal",
        "TimeGradientMonitor",
        "TuneMonitor",
        "WandbRun",
        "ZClip",
    ]
    assert sorted(networks.__all__) == [
        "ElmanRNN",
        "GRU",
        "LSTM",
        "MinGRU",
        "MinLSTM",
        "Network",
        "ParallelRecurrentNetwork",
        "RecurrentNetwork",
        "Transformer",
    ]
    assert sorted(lightning_seq.__all__) == ["__version__", "from_recipe", "load"]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    own = next(block for block in blocks if "class MyModel" in block)
    script = "\n".join(block for block in blocks if block is not own)
    script = script.replace("max_steps=100", "max_steps=4").replace('"max_steps": 50', '"max_steps": 4')
    (tmp_path / "readme.py").write_text(script)
    (tmp_path / "my_module.py").write_text(own)
    said = subprocess.run(
        [sys.executable, "readme.py"], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    assert said.count("The ") >= 2
    line = ["fit", "--config", "quickstart", "--model", "my_module.MyModel", "--model.width", "8"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"]
    script = "lightning-seq"
    installed = Path(sys.executable).with_name(
        script
    )  # the console script: its path lacks the working directory
    subprocess.run([installed, *line, *steps], check=True, capture_output=True, cwd=tmp_path)
    checkpoint = tmp_path / "runs" / "quickstart-1" / "checkpoints" / "best.ckpt"
    line = ["generate", "--checkpoint", checkpoint, "--prompt", "The ", "--max_new_tokens", "9", "--trust"]
    said = subprocess.run([installed, *line], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert said.startswith("The ")
