"""Every recipe: readable, and two steps of it run."""

import re
import shlex

import pytest
import yaml

from lightning_seq import recipes
from lightning_seq.__main__ import main

NAMES = recipes.names()


def shrinking(name):
    """Options of the recipe's ``# test:`` line: what makes a large one small enough for a test."""
    found = re.search(r"^# test: (.*)$", recipes.find(name).read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(found[1]) if found else []


def test_there_are_recipes():
    assert {"quickstart", "quickstart_rnn", "quickstart_lstm"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_does_and_the_command_that_runs_it(name):
    first, second = recipes.find(name).read_text(encoding="utf-8").splitlines()[:2]
    assert re.fullmatch(r"# \S.{20,90}", first)
    assert max(map(len, NAMES)) + 2 + len(first.removeprefix("# ")) <= 80  # as `recipes` lists it
    assert second == f"#   lightning-seq fit --config {name}"


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_a_recipe_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]
    status = main(["fit", "--config", name, *shrinking(name), *options])
    assert status == 0, capsys.readouterr()
    run = tmp_path / "runs" / f"{name.replace('/', '_').rpartition('/')[2]}-1"
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert (run / "metrics.csv").exists()
    callbacks = yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))["trainer"]["callbacks"]
    sampled = "SampleLogger" in [each["class_path"] for each in callbacks]
    assert (run / "samples.txt").exists() == sampled


def test_the_quickstart_family_differs_in_the_model_alone():
    """So that the same data and budget compare the families."""
    family = [n for n in NAMES if n.startswith("quickstart")]
    loaded = {n: yaml.safe_load(recipes.find(n).read_text(encoding="utf-8")) for n in family}
    base = loaded["quickstart"]
    for name, recipe in loaded.items():
        assert recipe["data"]["init_args"]["path"] == base["data"]["init_args"]["path"], name
        for key in ("batch_size", "context_length", "tokenizer"):
            assert recipe["data"]["init_args"][key] == base["data"]["init_args"][key], name
        assert recipe["trainer"]["max_steps"] == base["trainer"]["max_steps"], name
        assert recipe["seed_everything"] == base["seed_everything"]
