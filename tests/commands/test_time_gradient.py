"""``lightning-seq time-gradient``."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from lightning_seq import checkpoints
from lightning_seq.__main__ import main
from lightning_seq.cli import from_recipe
from lightning_seq.data import TextDataModule
from lightning_seq.networks.time_gradient import time_gradient
from tests.cli.conftest import TEXT, command, here, trained  # noqa: F401

RECIPE = """
seed_everything: 7
model:
  class_path: {model}
  init_args: {{embedding_dim: 8, {options}}}
data:
  class_path: TextDataModule
  init_args: {{path: text.txt, batch_size: 2, context_length: 8}}
trainer: {{max_steps: 2}}
"""
MODELS = {
    "simple": ("RNNLanguageModel", "hidden_size: 8"),
    "gated": ("LSTMLanguageModel", "hidden_size: 8, forget_gate_bias: 3.0"),
    "attends": ("TransformerLanguageModel", "num_layers: 1, num_heads: 2, context_length: 12"),
}


@pytest.fixture
def models(here):  # noqa: F811
    for name, (model, options) in MODELS.items():
        (here / f"{name}.yaml").write_text(RECIPE.format(model=model, options=options))
    return [f"{name}.yaml" for name in MODELS]


@pytest.fixture
def measured(command, capsys):  # noqa: F811
    """Runs the command and returns what it says of each model."""

    def run(*words):
        capsys.readouterr()
        assert main(["time-gradient", "--json", *map(str, words)]) == 0
        return json.loads(capsys.readouterr().out)["models"]

    return run


def windows(model, text, lags):
    """What the command looks at: eight sequences one after the other, from the beginning."""
    ids = torch.tensor(model.tokenizer.encode(text).ids[: 8 * (lags + 2)])
    ids = ids[: len(ids) // (lags + 2) * (lags + 2)].view(-1, lags + 2)
    return ids[:, :-1], ids[:, -1]


def test_all_models_in_one_table_and_one_picture(command, models, here):  # noqa: F811
    status, said = command("time-gradient", *models, "--tokens=16")
    assert status == 0, said
    lines = said.splitlines()
    assert lines[0].split() == ["model", "per", "token", "half-life", "1%", "horizon"]
    assert [line.split()[0] for line in lines[1:4]] == list(MODELS)
    decays = [float(line.split()[1]) for line in lines[1:4]]
    assert decays[0] < decays[1] < 1.1
    assert lines[3].endswith("> 11")  # of the Transformer's context of 12 tokens
    assert "text: text.txt, validation split" in said
    assert said.rstrip().endswith("picture: time_gradient.png")
    assert max(map(len, lines)) <= 80
    assert (here / "time_gradient.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in here.iterdir() if path.is_dir()) == []  # no run


def test_a_recipes_model_is_the_one_that_training_begins_with(measured, models):
    found = measured(*models, "--tokens=12")
    for name, result in zip(models, found, strict=True):
        _, model, data = from_recipe(name)
        model.tokenizer = data.tokenizer
        lags = min(12, getattr(model.network, "context_length", None) or 13) - (name == "attends.yaml")
        (text,) = data.documents("validation")
        expected = time_gradient(model, *windows(model, text, lags))
        assert result["lags"] == expected.lags
        assert result["curve"] == pytest.approx(expected.curve, rel=1e-6)
        assert result["decay_per_step"] == pytest.approx(expected.decay_per_step)
        assert result["model"] == name
        assert result["sequences"] == min(8, len(text) // (lags + 2))


def test_checkpoints_are_read_with_the_data_of_their_run(measured, trained, here):  # noqa: F811
    (result,) = measured(trained, "--tokens=10")
    model = checkpoints.load(trained)
    (text,) = TextDataModule("text.txt").documents("validation")
    assert result["curve"] == pytest.approx(time_gradient(model, *windows(model, text, 10)).curve, rel=1e-6)
    assert (result["label"], result["text"]) == ("trained/last.ckpt", "text.txt, validation split")


def test_a_text_is_taken_for_all(measured, trained, models, here):  # noqa: F811
    (here / "other.txt").write_text(TEXT[30:])
    recipe, result = measured("gated.yaml", trained, "--text=other.txt", "--tokens=9", "--output=a.PNG")
    model = checkpoints.load(trained)
    expected = time_gradient(model, *windows(model, TEXT[30:], 9))
    assert result["curve"] == pytest.approx(expected.curve, rel=1e-6)
    assert recipe["text"] == result["text"] == "other.txt"
    assert (here / "a.PNG").exists()


def test_random_tokens_where_there_is_no_text(command, trained, here):  # noqa: F811
    shutil.copy(trained, here / "alone.ckpt")
    status, said = command("time-gradient", "alone.ckpt", trained)
    assert status == 0, said
    said = " ".join(said.split())
    assert f"text: random tokens, as no text was given (--text) nor found ({here.name}/alone.ckpt)" in said
    assert "text: text.txt, validation split (trained/last.ckpt)" in said


def test_tasks_without_text_are_looked_at_where_they_are_scored(measured, here):  # noqa: F811
    (here / "task.yaml").write_text(
        "model: {class_path: LSTMLanguageModel, init_args: {embedding_dim: 8, hidden_size: 8}}\n"
        "data: {class_path: CopyTask, init_args: {length: 2, delay: 6}}\n"
    )
    (result,) = measured("task.yaml")
    assert result["text"] == "CopyTask, validation split"
    assert result["lags"][-1] == 9
    assert result["horizon"] is None  # JSON knows no infinity


def test_what_explodes_is_named(command, here):  # noqa: F811
    options = "hidden_size: 8, nonlinearity: relu, init_range: 1.5"
    (here / "wild.yaml").write_text(RECIPE.format(model="RNNLanguageModel", options=options))
    status, said = command("time-gradient", "wild.yaml", "--tokens=20")
    assert status == 0
    name, decay, *rest = said.splitlines()[1].split()
    assert (name, rest) == ("wild", ["explodes", ">", "20"])
    assert float(decay) > 1.1


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (["nothing"], 1, "no recipe 'nothing'"),
        (["quickstrt"], 1, "no recipe 'quickstrt' (did you mean 'quickstart'?)"),
        (["missing.yaml"], 1, "no file missing.yaml"),
        (["missing.ckpt"], 1, "no checkpoint at missing.ckpt"),
        (["text.ckpt"], 1, "text.ckpt (5 bytes) is no whole checkpoint"),
        (["half.yaml"], 1, "half.yaml has no section data, and the gradient needs a model and data"),
        (["simple.yaml", "--output=a.pdf"], 2, "--output is 'a.pdf': give a name that ends in .png"),
        (["simple.yaml", "--tokens=2"], 2, "--tokens is 2: give 3 or more"),
        (["simple.yaml", "--text=short.txt"], 1, "short.txt has 3 tokens: give a text of 5 or more"),
        (["simple.yaml", "--text=missing.txt"], 1, "no file or directory 'missing.txt'"),
        (["simple.yaml", "--output=nowhere/a.png"], 1, "nowhere/a.png: No such file or directory"),
        (["wrong.yaml"], 2, "LSTMLanguageModel has no option 'hiden_size' (did you mean 'hidden_size'?)"),
        (["unknown.yaml"], 2, "no class 'LSTMLanguageModl' for model (did you mean 'LSTMLanguageModel'?)"),
        (["refused.yaml"], 1, "dropout is 2.0, and a probability in [0, 1) is expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, models, here, line, status, message):  # noqa: F811
    (here / "text.ckpt").write_text("words")
    (here / "short.txt").write_text("the")
    (here / "half.yaml").write_text("model: LSTMLanguageModel")
    lstm = (
        ("LSTMLanguageModel", "hiden_size: 8"),
        ("LSTMLanguageModl", ""),
        ("LSTMLanguageModel", "dropout: 2"),
    )
    for name, (model, options) in zip(("wrong", "unknown", "refused"), lstm, strict=True):
        (here / f"{name}.yaml").write_text(RECIPE.format(model=model, options=options))
    found, said = command("time-gradient", *line)
    assert message in said
    assert found == status
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("line", [["--help"], ["x", "--tokens=1"], []])
def test_help_and_wrong_usage_import_no_torch(line):
    script = (
        "import sys\nfrom lightning_seq.__main__ import main\n"
        f"try:\n    status = main(['time-gradient', *{line!r}])\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & sys.modules.keys()\nprint(status)"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == ("0" if line == ["--help"] else "2")
    assert max(map(len, said.splitlines())) <= 80
