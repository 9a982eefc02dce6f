"""Every recipe: readable, and two steps of it run."""

import json
import math
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import lightning_seq
from lightning_seq import recipes
from lightning_seq.__main__ import main
from lightning_seq.callbacks import AttentionLogger, GradientClippingMonitor
from tests.wandb_file import environment

NAMES = recipes.names()
FRAGMENTS = recipes.fragments()
SHORT = [
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
]


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
    assert max(len(name), 20) + 2 + len(first.removeprefix("# ")) <= 80  # as `recipes` lists it
    assert second == f"#   lightning-seq fit --config {name}"


# What stands for the dataset is a small text, which lacks words of the recipe's prompt.
@pytest.mark.filterwarnings("ignore:the model's vocabulary lacks", "ignore:.* of the tokens of the")
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_a_recipe_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main(["fit", "--config", name, *shrinking(name), *SHORT])
    assert status == 0, capsys.readouterr()
    run = tmp_path / "runs" / f"{name.replace('/', '_').rpartition('/')[2]}-1"
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert (run / "metrics.csv").exists()
    callbacks = read(name)["trainer"].get("callbacks", [])
    sampled = "SampleLogger" in [each["class_path"] for each in callbacks]
    assert (run / "samples.txt").exists() == sampled


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_opens_with_what_it_does_and_how_it_is_used(name):
    first, second = recipes.find(name).read_text(encoding="utf-8").splitlines()[:2]
    assert re.fullmatch(r"# \S.{15,90}", first)
    assert second == f"#   lightning-seq fit --config quickstart --config {name}"
    assert "model" not in read(name)
    assert "callbacks" not in read(name)["trainer"]  # which would replace the recipe's


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        (["logger/tensorboard", "precision/bf16"], {"precision": "bf16-mixed"}),
        pytest.param(
            ["precision/fp16", "precision/bf16", "strategy/ddp"],
            {"precision": "bf16-mixed", "strategy": "ddp"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_fragments_change_their_own_part_of_a_recipe(fragments, expected, tmp_path):
    configs = [word for name in ("quickstart_lstm", *fragments) for word in ("--config", name)]
    # in a process of its own, since Lightning leaves the process group of ddp as it is
    words = [sys.executable, "-m", "lightning_seq", "fit", *configs, *SHORT, "--trainer.devices=1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "quickstart_lstm-1"  # not named after a fragment
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert {key: config["trainer"][key] for key in expected} == expected
    recipe = read("quickstart_lstm")
    assert [each["class_path"].rpartition(".")[2] for each in config["trainer"]["callbacks"]] == [
        each["class_path"] for each in recipe["trainer"]["callbacks"]
    ]
    assert bool(list(tmp_path.rglob("events.out.tfevents.*"))) == ("logger/tensorboard" in fragments)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.sweeps())
@pytest.mark.parametrize("end", [min, max])
def test_what_a_sweep_runs(name, end, tmp_path):
    """The command that `wandb agent` makes of it, with the smallest and the largest values."""
    sweep = read(name)
    chosen = {
        option: end(choice["values"] if "values" in choice else [choice["min"], choice["max"]])
        for option, choice in sweep["parameters"].items()
    }
    given = {"${program}": ["-m", "lightning_seq"], "${args}": [f"--{k}={v}" for k, v in chosen.items()]}
    words = [each for word in sweep["command"] for each in given.get(word, [word])]
    command = [sys.executable, *words, *SHORT, "--run_dir=run", "--trainer.logger.offline=true"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    for option, value in chosen.items():
        assert config["model"]["init_args"][option.removeprefix("model.")] == value
    assert sweep["program"] == "lightning-seq"
    assert sweep["metric"]["name"] in (tmp_path / "run/metrics.csv").read_text().split("\n")[0]


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


def read(name):
    return yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))


def test_the_explosion_and_its_cure_differ_in_clipping_alone():
    unclipped, clipped = read("explode_rnn"), read("explode_rnn_clipped")
    assert clipped["trainer"].pop("gradient_clip_val") == 1.0
    assert unclipped == clipped


@pytest.mark.slow
def test_without_clipping_the_gradients_explode_and_with_it_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledgers, losses = {}, {}
    for name in ("explode_rnn", "explode_rnn_clipped"):
        trainer, model, data = lightning_seq.from_recipe(name, trainer={"enable_progress_bar": False})
        trainer.fit(model, data)
        (monitor,) = [c for c in trainer.callbacks if isinstance(c, GradientClippingMonitor)]
        ledgers[name], losses[name] = monitor.ledgers[0], float(trainer.callback_metrics["val_loss"])
        assert monitor.advice().startswith(
            "the gradients exploded" if name == "explode_rnn" else "clipping at 1 is a"
        )
    assert math.isnan(losses["explode_rnn"])
    assert losses["explode_rnn_clipped"] < 2.9
    largest = max(row.norm for row in ledgers["explode_rnn"].rows if math.isfinite(row.norm))
    assert largest > 100
    assert ledgers["explode_rnn"].nonfinite > 100
    assert ledgers["explode_rnn_clipped"].nonfinite == 0
    assert 0.02 < ledgers["explode_rnn_clipped"].clipped_share < 0.5


@pytest.mark.slow
def test_the_trio_draws_one_picture_with_the_decay_of_each_family(tmp_path, capsys):
    names = ["vanish_rnn", "vanish_lstm", "vanish_transformer"]
    assert main(["time-gradient", *names, "--output", str(tmp_path / "trio.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    decays = [each["decay_per_step"] for each in found["models"]]
    assert decays == pytest.approx([0.45, 0.98, 1.0], abs=0.03)
    assert (tmp_path / "trio.png").stat().st_size > 10_000


@pytest.mark.slow
def test_two_layers_of_attention_grow_an_induction_head_and_one_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, seen = {}, {}
    for layers in (2, 1):
        trainer, model, data = lightning_seq.from_recipe(
            "induction", trainer={"enable_progress_bar": False}, **{"model.num_layers": layers}
        )
        trainer.fit(model, data)
        found[layers] = float(trainer.callback_metrics["val_accuracy"])
        (logger,) = (each for each in trainer.callbacks if isinstance(each, AttentionLogger))
        seen[layers] = {each["step"]: each["attention/induction_max"] for each in logger.history}
    assert found[2] > 0.99
    assert found[1] < 0.2
    assert max(score for step, score in seen[2].items() if step <= 100) < 0.2  # seen to appear
    assert min(score for step, score in seen[2].items() if step >= 400) > 0.8
    assert max(seen[1].values()) < 0.2
    assert len(list(tmp_path.rglob("attention_training-000599.png"))) == 2
