"""``lightning-seq attention``."""

import json
import shutil

import pytest
import torch

from lightning_seq import checkpoints
from lightning_seq.__main__ import main
from lightning_seq.networks.saliency import saliency
from tests.cli.conftest import TEXT, TINY, command, here, trained  # noqa: F401

ATTENDS = ["--model=TransformerLanguageModel", "--model.embedding_dim=8", "--model.num_layers=2"]
ATTENDS += ["--model.num_heads=2", "--model.context_length=12"]


@pytest.fixture
def attends(command, here):  # noqa: F811
    status, said = command("fit", *ATTENDS, *TINY, "--run_dir=attends")
    assert status == 0, said
    return here / "attends" / "checkpoints" / "last.ckpt"


def test_two_families_on_the_same_sentence_are_one_page(command, trained, attends, here):  # noqa: F811
    (here / "attention.html").write_text("an older one")
    status, said = command("attention", "--checkpoint", trained, attends, "--text", "the old owl sees")
    assert status == 0, said
    lines = said.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["trained/last.ckpt", "saliency"],
        ["attends/last.ckpt", "4"],
        ["attends/last.ckpt", "saliency"],
    ]
    assert "text: 'the old owl sees'" in said
    assert all(len(line) <= 80 for line in lines)
    page = (here / "attention.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "attends/last.ckpt" in page


def test_the_numbers_of_the_json_are_those_of_the_model(trained, here, capsys):  # noqa: F811
    (here / "other.txt").write_text(TEXT[30:])
    capsys.readouterr()
    words = ["attention", "--json", "--text=other.txt", "--tokens=9", "--output=a.HTML", "--checkpoint"]
    assert main([*words, str(trained)]) == 0
    found = json.loads(capsys.readouterr().out)
    (result,) = found["models"]
    assert (result["tokens"], found["page"]) == (9, "a.HTML")
    model = checkpoints.load(trained)
    ids = torch.tensor([model.tokenizer.encode(TEXT[30:]).ids[:9]])
    expected = float(saliency(model, ids).maps[0, 1:].amax(-1).mean())
    assert result["measures"]["saliency/max_probability"] == pytest.approx(expected, abs=1e-5)
    assert (here / "a.HTML").exists()


def test_without_a_text_it_takes_the_validation_split_of_the_run(command, attends, here):  # noqa: F811
    status, said = command("attention", "--checkpoint", attends)
    assert status == 0, said
    assert said.splitlines()[1].split()[:2] == ["attends/last.ckpt", "4"]
    shutil.copy(attends, here / "alone.ckpt")
    status, said = command("attention", "--checkpoint", "alone.ckpt")
    assert status == 1
    assert "alone.ckpt has no config.yaml of its run beside it: give --text" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output=page.png"], "give a name that ends in .html"),
        (["--tokens=1"], "--tokens is 1: give from 2 to 256"),
        (["--tokens=300"], "--tokens is 300: give from 2 to 256"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_read(command, words, message):  # noqa: F811
    status, said = command("attention", "--checkpoint", "none.ckpt", *words)
    assert status == 2
    assert message in said
