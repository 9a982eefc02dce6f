"""Nothing that a file holds is executed: checkpoints, token files, configurations, names."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lightning_seq.cli.run_directory import run_name
from tests.cli.conftest import LSTM, TINY


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.fixture
def bomb(here):
    content = {
        "state_dict": {},
        "hyper_parameters": {},
        "lightning_seq": {"class_path": "a.B"},
        "bomb": Bomb(),
    }
    torch.save(content, here / "bomb.ckpt")
    return "bomb.ckpt"


@pytest.mark.parametrize(
    "words",
    [
        ["fit", *LSTM, *TINY, "--ckpt_path={}"],
        ["fit", *LSTM, *TINY, "--weights={}"],
        ["fit", *LSTM, *TINY, "--data.tokenizer={}"],
        ["validate", *LSTM, *TINY, "--ckpt_path={}"],
        ["test", *LSTM, *TINY, "--ckpt_path={}"],
        ["predict", *LSTM, *TINY, "--ckpt_path={}"],
        ["generate", "--checkpoint={}", "--prompt=a"],
        ["evaluate", "--checkpoint={}", "--text=text.txt", "--protocol=stream"],
        ["attention", "--checkpoint={}", "--text=abc"],
        ["time-gradient", "{}", "--text=text.txt"],
        ["export", "--checkpoint={}", "--output=there"],
        ["doctor", *LSTM, *TINY, "--data.tokenizer={}"],
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint_that_holds_more_than_values_is_refused_by_name(words, trust, bomb, command, here):
    """Also by who trusts its author's classes: that is for classes, not for pickles."""
    takes_trust = words[0] in ("generate", "evaluate", "attention", "export")
    if trust and not takes_trust:
        pytest.skip("has no --trust")
    status, said = command(*(word.format(bomb) for word in words), *["--trust"] * trust)
    assert status == 1, said
    assert "bomb.ckpt" in said
    assert not (here / "exploded").exists()
    assert "Traceback" not in said


def test_so_is_one_that_a_run_would_go_on_from(bomb, command, here):
    (here / "run/checkpoints").mkdir(parents=True)
    (here / bomb).rename(here / "run/checkpoints/last.ckpt")
    status, said = command("fit", *LSTM, *TINY, "--run_dir=run", "--resume=true")
    assert status == 1
    assert "no checkpoint in run/checkpoints is whole (last.ckpt)" in said
    assert not (here / "exploded").exists()


def test_token_files_hold_no_objects(command, here):
    np.save(here / "tokens.npy", np.array([Bomb()] * 100, dtype=object))
    words = ["--data=TokenDataModule", "--data.path=tokens.npy", "--data.vocab_size=10"]
    status, said = command("fit", *LSTM, *words, *TINY[4:])
    assert status == 1
    assert "tokens.npy" in said
    assert not (here / "exploded").exists()
    assert pickle.loads((here / "tokens.npy").read_bytes()[128:]) is not None  # it would have
    assert (here / "exploded").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system"])
def test_a_configuration_makes_no_objects(tag, command, here):
    (here / "evil.yaml").write_text(f"trainer: {tag} [exploded]\n")
    for words in (["fit", "--config=evil.yaml", *LSTM, *TINY], ["doctor", "--config=evil.yaml"]):
        status, said = command(*words)
        assert status != 0
        assert "evil.yaml" in said
        assert not (here / "exploded").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "logger/../../secret", "secret.yaml/.."])
def test_recipes_are_found_in_their_folder_alone(name, command, here):
    (here.parent / "secret.yaml").write_text("model: x\n")
    status, said = command("recipes", "show", name)
    assert status == 1
    assert "model: x" not in said


@pytest.mark.parametrize(
    "config", ["..yaml", "a/../../b.yaml", "x;rm -rf.yaml", "a\nb.yaml", "....yaml", " .yaml"]
)
def test_a_run_is_named_by_one_part_of_a_path(config):
    name = run_name([config], "a.B", "fit")
    assert Path("runs", f"{name}-1").parent == Path("runs")
    assert Path(f"{name}-1").name == f"{name}-1"
    assert not set(name) & set("/\\:;\n ")


def test_a_model_from_elsewhere_is_named_before_it_is_imported(command, here):
    """A checkpoint of another package's class is not imported, though it could be."""
    (here / "elsewhere.py").write_text(
        "from pathlib import Path\nPath('exploded').touch()\nclass Model: pass\n"
    )
    entry = {"class_path": "elsewhere.Model", "format": 1, "tokenizer": None}
    torch.save({"state_dict": {}, "lightning_seq": entry}, here / "own.ckpt")
    for words in (
        ["generate", "--checkpoint=own.ckpt"],
        ["export", "--checkpoint=own.ckpt", "--output=there"],
    ):
        status, said = command(*words)
        assert status == 1
        assert "written by elsewhere.Model, which is not part of lightning_seq" in said
    status, said = command("fit", *LSTM, *TINY, "--ckpt_path=own.ckpt")
    assert status == 1
    assert "own.ckpt holds a elsewhere.Model" in said
    assert not (here / "exploded").exists()


def test_so_is_a_class_in_the_configuration_beside_a_checkpoint(command, here, trained):
    (here / "evil.py").write_text("from pathlib import Path\nPath('exploded').touch()\nclass Data: pass\n")
    config = trained.parent.parent / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["data"] = {"class_path": "evil.Data", "init_args": {}}
    config.write_text(yaml.safe_dump(content))
    for words in (["attention", "--checkpoint", trained], ["time-gradient", trained]):
        status, said = command(*words)
        assert status == 1
        assert "names evil.Data, which is not part of lightning_seq" in said
        assert not (here / "exploded").exists()


@pytest.mark.parametrize("path", ["subprocess.Popen", "os.system", "json", 3, None, "torch.nn.Linear"])
def test_a_checkpoint_names_a_model_and_nothing_else(path, command, here):
    torch.save(
        {"state_dict": {}, "lightning_seq": {"class_path": path, "tokenizer": None}}, here / "odd.ckpt"
    )
    status, said = command("generate", "--checkpoint=odd.ckpt", "--trust")
    assert status == 1
    assert said.startswith("error: ") or "\nerror: " in said
    assert "Traceback" not in said
