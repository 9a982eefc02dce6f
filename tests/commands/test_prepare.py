"""``lightning-seq prepare``."""

import numpy as np
import pytest

from tests.cli.conftest import LSTM, TINY, command, here  # noqa: F401

RECIPE = """
model: NoSuchModel
data:
  class_path: TextDataModule
  init_args:
    path: text.txt
    batch_size: 2
    context_length: 8
trainer: {no_such_option: 1}
"""


@pytest.fixture
def recipe(here, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(here / "cache"))
    (here / "mine.yaml").write_text(RECIPE)
    return "--config=mine.yaml"


def test_prepares_what_fit_then_finds(command, recipe, here):  # noqa: F811
    status, said = command("prepare", recipe)
    assert status == 0
    assert "data: text.txt, sha256 " in said
    assert "vocabulary 18 (character)" in said
    size = sum(file.stat().st_size for file in (here / "cache" / "tokens").rglob("*.*"))
    assert f"prepared: {size:,} bytes of train, validation, test in {here / 'cache' / 'tokens'}" in said
    assert sorted(path.name for path in here.iterdir()) == ["cache", "mine.yaml", "text.txt"]
    before = {path: path.stat().st_mtime_ns for path in (here / "cache").rglob("*")}
    status, said = command("prepare", recipe)
    assert status == 0
    assert f"already there: {size:,} bytes" in said
    assert command("fit", *LSTM, *TINY)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (here / "cache").rglob("*")}


def test_options_win_over_recipes_and_later_recipes_over_earlier(command, recipe, here):  # noqa: F811
    command("prepare", recipe)
    (here / "more.yaml").write_text("data: {init_args: {tokenizer: byte}}")
    assert "vocabulary 256 (byte)" in command("prepare", recipe, "--config", "more.yaml")[1]
    line = ("prepare", "--data.tokenizer=word", recipe, "--config", "more.yaml")
    assert "(word)" in command(*line)[1]
    (here / "more.yaml").write_text("data: HuggingFaceTextDataModule")
    assert "prepared: " in command("prepare", recipe, "--config", "more.yaml", "--data.tokenizer=bpe")[1]
    said = command("prepare", "--config=quickstart", "--data.path=text.txt")[1]
    assert "already there: " in said


def test_ids(command, recipe, here):  # noqa: F811
    np.save(here / "ids.npy", np.arange(1000) % 7)
    said = command("prepare", recipe, "--data=TokenDataModule", "--data.path=ids.npy")[1]
    assert "train 900 tokens in 1 sequence, " in said
    assert "vocabulary 7\n" in said
    assert "prepared: " in said


def test_a_datamodule_without_anything_to_prepare_and_one_of_ones_own(command, here):  # noqa: F811
    (here / "own_data.py").write_text(
        "from pathlib import Path\n"
        "from lightning.pytorch import LightningDataModule\n"
        "class Nothing(LightningDataModule):\n    pass\n"
        "class Something(Nothing):\n"
        "    def prepare_data(self):\n        Path('made').touch()\n"
    )
    said = command("prepare", "--data=own_data.Nothing")[1]
    assert said == "Nothing has nothing to prepare: it makes its data as training goes\n"
    assert "prepared: Something" in command("prepare", "--data=own_data.Something")[1]
    assert (here / "made").exists()


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ([], 1, "no data is chosen: give --config RECIPE or --data CLASS"),
        (["--config=nowhere"], 1, "nowhere"),
        (["--data=TextDataModul"], 2, "no class 'TextDataModul' for data (did you mean 'TextDataModule'?)"),
        (
            ["--data=TextDataModule", "--data.pth=x"],
            2,
            "TextDataModule has no option 'pth' (did you mean 'path'?)",
        ),
        (["--data=TextDataModule", "--data.path=nowhere.txt"], 1, "no file or directory 'nowhere.txt'"),
        (["--data=TextDataModule", "--data.batch_size=0"], 1, "batch_size is 0; it must be at least 1"),
        (
            ["--config=quickstart", "--trainer.max_steps=3"],
            1,
            "prepare builds only the data: leave --trainer",
        ),
        (["--config=quickstart", "--dat.path=3"], 2, "no option --dat.path"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, line, status, message):  # noqa: F811
    found, said = command("prepare", *line)
    assert found == status
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
