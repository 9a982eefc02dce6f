"""What LightningCLI does by itself that surprises its users, and that this command line does not do."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from lightning_seq import models
from tests.cli.conftest import LSTM, TINY

FAMILIES = sorted(name for name in models.__all__ if name != "LanguageModel")
SMALL = {
    "RNNLanguageModel": LSTM[1:],
    "GRULanguageModel": LSTM[1:],
    "LSTMLanguageModel": LSTM[1:],
    "MinGRULanguageModel": LSTM[1:],
    "MinLSTMLanguageModel": LSTM[1:],
    "TransformerLanguageModel": ["--model.embedding_dim=8", "--model.num_heads=2", "--model.num_layers=1"],
}


def callbacks_of(run):
    config = yaml.safe_load(Path(run, "config.yaml").read_text(encoding="utf-8"))
    return [each["class_path"].rpartition(".")[2] for each in config["trainer"]["callbacks"] or []]


def write(path, trainer, **sections):
    path.write_text(yaml.safe_dump({"trainer": trainer, **sections}), encoding="utf-8")
    return path.name


MONITOR = {"class_path": "GradientClippingMonitor"}
STATES = {"class_path": "RecurrentStateMonitor"}
CLIP = {"class_path": "AutoClip"}


@pytest.mark.parametrize(
    ("later", "line", "expected"),
    [
        ({"callbacks+": CLIP}, [], ["GradientClippingMonitor", "AutoClip"]),
        (
            {"callbacks+": [CLIP, STATES]},
            [],
            ["GradientClippingMonitor", "AutoClip", "RecurrentStateMonitor"],
        ),
        ({"callbacks": [CLIP]}, [], ["AutoClip"]),
        ({"max_steps": 2}, ["--trainer.callbacks+=AutoClip"], ["GradientClippingMonitor", "AutoClip"]),
        ({"callbacks+": CLIP}, ["--trainer.callbacks+", "RecurrentStateMonitor"], None),
    ],
)
def test_a_later_file_adds_callbacks_or_replaces_them(later, line, expected, command, here):
    first, second = write(here / "a.yaml", {"callbacks": [MONITOR]}), write(here / "b.yaml", later)
    files = ["--config", first, "--config", second]
    status, said = command("fit", *files, *LSTM, *TINY, *line, "--run_dir=run")
    assert status == 0, said
    expected = expected or ["GradientClippingMonitor", "AutoClip", "RecurrentStateMonitor"]
    assert callbacks_of("run") == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_datas_vocabulary_reaches_every_family_and_its_checkpoint(family, command, here):
    """A link whose target is not there would be silent."""
    status, said = command("fit", "--model", family, *SMALL[family], *TINY, "--run_dir=run")
    assert status == 0, said
    checkpoint = torch.load(here / "run/checkpoints/last.ckpt", weights_only=True)
    (embedding,) = (w for n, w in checkpoint["state_dict"].items() if n.endswith("embedding.weight"))
    assert checkpoint["hyper_parameters"]["vocab_size"] == len(embedding) > 10


def test_model_and_data_may_differ_in_an_argument_of_one_name(command, here):
    """Lightning's loggers refuse two values of one hyperparameter."""
    model = ["--model=TransformerLanguageModel", *SMALL["TransformerLanguageModel"]]
    status, said = command("fit", *model, "--model.context_length=32", *TINY, "--run_dir=run")
    assert status == 0, said
    config = yaml.safe_load((here / "run/config.yaml").read_text())
    lengths = [config[section]["init_args"]["context_length"] for section in ("model", "data")]
    assert lengths == [32, 8]


def test_the_schedule_moves_at_every_step_and_the_model_owns_its_optimizer(command, here):
    options = ["--model.schedule=linear", "--model.warmup_steps=2", "--trainer.max_steps=4"]
    monitor = "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"
    status, said = command(
        "fit", *LSTM, *TINY, *options, monitor, "--trainer.log_every_n_steps=1", "--run_dir=run"
    )
    assert status == 0, said
    with (here / "run/metrics.csv").open() as file:
        rates = [
            float(v) for row in csv.DictReader(file) for k, v in row.items() if k.startswith("lr-") and v
        ]
    assert len(set(rates)) == 4
    status, said = command("fit", *LSTM, *TINY, "--optimizer=AdamW")
    assert status == 2
    assert "--optimizer" in said.splitlines()[-1]


def test_a_schedule_or_optimizer_by_a_misspelt_name_is_one_line(command):
    status, said = command("fit", *LSTM, *TINY, "--model.schedule=cosin")
    assert status == 2
    assert "cosine" in next(line for line in said.splitlines() if "error: " in line)


@pytest.mark.parametrize(
    ("words", "option"),
    [(["--help"], "--trainer.max_steps"), (["--model.help", "LSTMLanguageModel"], "--model.hidden_size")],
)
def test_help_of_the_subcommand_and_of_a_class(words, option, command, capsys):
    with pytest.raises(SystemExit) as left:
        command("fit", *words)
    assert left.value.code == 0
    assert option in capsys.readouterr().out


def test_a_checkpoints_class_is_imported_by_its_name(command, here, monkeypatch):
    """Lightning's own loading needs the class to be imported before."""
    (here / "own_module.py").write_text(
        "from lightning_seq.models import LSTMLanguageModel\n"
        "class Own(LSTMLanguageModel):\n"
        "    def __init__(self, vocab_size: int, **kwargs):\n"
        "        super().__init__(vocab_size, embedding_dim=8, hidden_size=8, **kwargs)\n"
        "        self.save_hyperparameters()\n"
    )
    status, said = command("fit", "--model=own_module.Own", *TINY, "--run_dir=run")
    assert status == 0, said
    checkpoint = "--checkpoint=run/checkpoints/last.ckpt"
    monkeypatch.delitem(__import__("sys").modules, "own_module")
    status, said = command("generate", checkpoint, "--max_new_tokens=2", "--prompt=the")
    assert status == 1
    assert "written by own_module.Own, which is not part of lightning_seq" in said
    status, said = command("generate", checkpoint, "--max_new_tokens=2", "--prompt=the", "--trust")
    assert status == 0, said
