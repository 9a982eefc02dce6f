"""``lightning-seq reproduce``."""

import csv
import json
import subprocess
import sys

import pytest

from lightning_seq import recipes
from lightning_seq.__main__ import main
from lightning_seq.commands import reproduce
from tests.cli.conftest import command, here  # noqa: F401

HEADER = {
    "source": "nobody's, made for a test, https://example.org/a/long/address/that/is/not/broken/at/its-hyphens",
    "licence": "For research alone",
    "citation": "Nobody 1999",
    "data": "not yet measured",
    "result": "not yet measured",
    "measured": "not yet measured",
}
BODY = """\
seed_everything: 0
model: {class_path: LSTMLanguageModel, init_args: {embedding_dim: 8, hidden_size: 8}}
data: {class_path: TextDataModule, init_args: {path: text.txt, batch_size: 2, context_length: 8}}
trainer: {max_steps: 4, val_check_interval: 2, enable_progress_bar: false, accelerator: cpu}
"""


@pytest.fixture
def recipe(here):  # noqa: F811
    """Writes a small recipe with these lines in its header, and returns its name."""

    def write(**header):
        lines = [f"# {key}: {value}\n" for key, value in {**HEADER, **header}.items()]
        (here / "mine.yaml").write_text("# mine\n#   fit\n" + "".join(lines) + BODY, encoding="utf-8")
        return "mine.yaml"

    return write


@pytest.fixture
def in_this_process(monkeypatch):
    """Trains in this process, as a new one takes seconds to start, and keeps the command lines."""
    lines = []

    def fit(words, output):
        lines.append(words)
        try:
            return main(words)
        except SystemExit as stop:
            return stop.code

    monkeypatch.setattr(reproduce, "_fit", fit)
    return lines


def found_by(run):
    """The last values of the metrics of a run, and the smallest of its validation loss."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    losses = [float(row["val_loss"]) for row in rows]
    return losses[-1], min(losses)


def test_what_is_not_measured_is_shown_with_nothing_to_compare(recipe, command, here, in_this_process):  # noqa: F811
    status, said = command("reproduce", recipe())
    assert status == 0
    assert in_this_process == [["fit", "--config", "mine.yaml", "--run_dir", "runs/mine-reproduce-1"]]
    loss, _ = found_by(here / "runs" / "mine-reproduce-1")
    assert ["val_loss", "-", f"{loss:.5g}"] in [line.split() for line in said.splitlines()]
    assert "nothing to compare with: the recipe states no result, as none is measured yet" in said
    assert "\nlicence    For research alone\n" in said
    status, said = command("reproduce", "mine.yaml")
    assert "\nrun: runs/mine-reproduce-2\n" in said


def test_results_and_data_are_compared(recipe, command, here, in_this_process):  # noqa: F811
    _, said = command("reproduce", recipe())
    digits = said.partition("sha256 ")[2][:8]
    loss, best = found_by(here / "runs" / "mine-reproduce-1")
    result = f"val_loss {loss * 1.02:.6f} within 3%; best val_loss {best:.6f} within 0.1%"
    measured = "a slow machine far away, in a cellar, 2 min, June 2026"
    status, said = command("reproduce", recipe(data=digits, result=result, measured=measured))
    assert status == 0, said
    table = said.partition("\nmetric  ")[2].partition("\nrun: ")[0]
    rows = [line.split() for line in table.splitlines()]
    assert ["data", "(sha256)", digits, digits, "yes"] in rows
    assert ["val_loss", f"{loss * 1.02:.5g}", f"{loss:.5g}", "-1.96%", "3%", "yes"] in rows
    assert ["best", "val_loss", f"{best:.5g}", f"{best:.5g}"] in [row[:4] for row in rows]
    assert ["time", "in", "seconds", "120"] in [row[:4] for row in rows]
    assert f"expected as measured on {measured}\nreproduced: all of it holds" in said
    assert max(map(len, table.splitlines())) <= 80


def test_what_does_not_hold_is_named_and_the_status_is_1(recipe, here, capfd, in_this_process):  # noqa: F811
    stated = "val_loss 0.5 within 3%; val_perplexity 100 within 99%; no_such 1 within 9%"
    recipe(data="0a1b2c3d for Python 3.9", result=stated, measured="a CPU, 41 s, June 2026")
    assert main(["reproduce", "mine.yaml", "--json", "--run_dir=here", "--trainer.max_steps=2"]) == 1
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (found["reproduced"], found["run"]) == (False, "here")
    assert [row["holds"] for row in found["results"]] == [False, True, False]
    loss, _ = found_by(here / "here")
    assert found["results"][0]["found"] == pytest.approx(loss)
    assert found["results"][0]["difference"] == pytest.approx(100 * (loss - 0.5) / 0.5)
    assert found["results"][2] | {"found": None, "difference": None} == found["results"][2]
    assert found["data"]["same"] is False
    assert found["changed"] == ["--trainer.max_steps=2"]
    assert found["seconds"]["expected"] == 41.0
    assert 0 < found["seconds"]["found"] < 100
    assert main(["reproduce", "mine.yaml"]) == 1
    said = capfd.readouterr().out
    assert "another text (that was Python 3.9's, and this is 3." in said
    assert "not reproduced: val_loss, no_such, the data" in said


def test_a_training_that_diverged_does_not_hold(recipe, here, capfd, in_this_process):  # noqa: F811
    recipe(result="val_loss 0.5 within 3%", measured="a CPU, 41 s, June 2026")
    options = ["--model.optimizer=sgd", "--model.learning_rate=1e30", "--json"]
    assert main(["reproduce", "mine.yaml", *options]) == 1
    (row,) = json.loads(capfd.readouterr().out.splitlines()[-1])["results"]
    assert (row["found"], row["difference"], row["holds"]) == ("nan", None, False)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--trainer.devices", "1", "--trainer.logger", "false", "--log_text=false"], None),
        (["--trainer.accelerator=cpu", "--run_dir", "there", "--trainer.enable_progress_bar=false"], None),
        (["--trainer.max_steps", "2", "--trainer.devices=1"], "--trainer.max_steps 2"),
        (["-c", "precision/bf16", "--seed_everything", "1"], "-c precision/bf16, --seed_everything 1"),
        (["--trainer.devicess=1"], "--trainer.devicess=1"),
    ],
)
def test_options_that_change_the_experiment_are_said(options, changed, recipe, command, monkeypatch):  # noqa: F811
    monkeypatch.setattr(reproduce, "_fit", lambda words, output: 2)
    status, said = command("reproduce", recipe(), *options)
    assert status == 2  # of fit
    assert [line for line in said.splitlines() if line.startswith("changed:")] == (
        [f"changed:   {changed}"] if changed else []
    )


def test_wrong_usage_and_what_cannot_be_compared(recipe, command, here, in_this_process):  # noqa: F811
    status, said = command("reproduce", "--trainer.max_steps", "2", recipe())
    assert (status, in_this_process) == (2, [])
    assert "error: --trainer.max_steps stands before the recipe: give that first" in said
    status, said = command("reproduce", "mine.yaml", "--model.hiden_size=9")
    assert status == 2
    assert "did you mean 'hidden_size'?" in said
    status, said = command("reproduce", "quickstartt")
    assert (status, "did you mean 'quickstart'?" in said) == (1, True)
    status, said = command("reproduce", "mine.yaml", "--data.path=none.txt")
    assert status == 1
    assert "no file or directory 'none.txt'" in said
    status, said = command("reproduce", "mine.yaml", "--print_config")
    assert status == 1
    assert "the training left no runs/mine-reproduce-1/metrics.csv" in said
    (here / "mine.yaml").write_text(BODY)
    status, said = command("reproduce", "mine.yaml")
    assert (status, "mine.yaml has no header" in said) == (1, True)
    assert list(here.glob("runs/*")) == []


@pytest.mark.parametrize(("status", "expected"), [(130, 130), (2, 2), (1, 1), (143, 1), (-9, 1)])
def test_how_a_training_ended_is_told(status, expected, recipe, command, monkeypatch):  # noqa: F811
    monkeypatch.setattr(reproduce, "_fit", lambda words, output: status)
    ended, said = command("reproduce", "--json", recipe())
    assert ended == expected
    assert (f"the training ended with status {status}" in said) == (expected == 1)


@pytest.mark.parametrize("name", recipes.names())
def test_the_terms_of_every_recipe_come_first(name, command, monkeypatch):  # noqa: F811
    monkeypatch.setattr(reproduce, "_fit", lambda words, output: print("training") or 2)
    _, said = command("reproduce", name)
    lines = said.splitlines()
    words = [line.split(" ")[0] for line in lines if not line.startswith(" ")]
    assert words == ["recipe", "source", "licence", "citation", "command", "training"]
    assert max(map(len, lines)) <= 80
    if name.startswith("ptb"):
        assert "LDC" in said
        assert "research" in said


@pytest.mark.slow
def test_the_training_is_a_process_of_its_own(recipe, here):  # noqa: F811
    recipe(result="val_perplexity 1000 within 1%", measured="a CPU, 41 s, June 2026")
    line = [sys.executable, "-m", "lightning_seq", "reproduce", "mine.yaml"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=here, timeout=100, check=False)
    assert done.returncode == 1
    rows = [
        "licence    For research alone",
        "validation  loss ",
        "\nmetric  ",
        "not reproduced: val_perplexity",
    ]
    places = [done.stdout.find(row) for row in rows]
    assert min(places) >= 0
    assert places == sorted(places)
    done = subprocess.run(
        [*line, "--json"], capture_output=True, text=True, cwd=here, timeout=100, check=False
    )
    found = json.loads(done.stdout)  # all the rest went to stderr
    assert found["run"] == "runs/mine-reproduce-2"
    assert "licence    For research alone" in done.stderr
    assert "validation  loss " in done.stderr
