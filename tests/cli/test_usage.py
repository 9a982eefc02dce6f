"""What bad input gets: one line, with the way out, and nothing left behind."""

import re
import sys

import pytest

from lightning_seq.__main__ import main
from tests.cli.conftest import LSTM, TINY


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (
            ["--model=LSTMLanguageModl"],
            2,
            "no class 'LSTMLanguageModl' for model .did you mean 'LSTMLanguageModel'",
        ),
        (
            ["--data=CopyTask", "--data.context_length=8"],
            2,
            "CopyTask has no option 'context_length'.*: `lightning-seq fit --data.help CopyTask` lists them",
        ),
        (
            ["--data=TokenDataModule", "--data.tokenizer=byte"],
            2,
            "TokenDataModule has no option 'tokenizer': `lightning-seq fit --data.help TokenDataModule`",
        ),
        (["--data.path=#1.txt"], 1, "'--data.path=#1.txt': what begins with # is a comment in YAML"),
        (["--data.path", "# 1.txt"], 1, "'# 1.txt': what begins with # is a comment in YAML"),
        (["--trainer.devices=[a]"], 1, "trainer: `devices` selected with `CPUAccelerator` should be an int"),
        (["--trainer.default_root_dir=x"], 1, "default_root_dir is 'x', and .* give it as --run_dir"),
        (["--data=my_diary.Diary"], 2, "my_diary.Diary lacks documents"),
        (["--data=TextDatModule"], 2, "no class 'TextDatModule' for data .did you mean 'TextDataModule'"),
        (["--trainer.callbacks+=AttentionLoger"], 2, "for callbacks .did you mean 'AttentionLogger'"),
        (["--model=mine.Model"], 2, "model: mine.Model: No module named 'mine'"),
        (
            ["--model.hiden_size=3"],
            2,
            "LSTMLanguageModel has no option 'hiden_size' .did you mean 'hidden_size'",
        ),
        (["--data.batchsize=3"], 2, "TextDataModule has no option 'batchsize' .did you mean 'batch_size'"),
        (["--trainer.max_stepz=3"], 2, "no option --trainer.max_stepz .did you mean '--trainer.max_steps'"),
        (["--model.num_layers=two"], 2, "num_layers is 'two', and int is expected"),
        (
            ["--model.adaptive_cutoffs=20"],
            2,
            "model.adaptive_cutoffs is '20', and list.int. or null is expected$",
        ),
        (
            ["--trainer.precision=bf17"],
            2,
            "trainer.precision is 'bf17', and 64, 32, 16, .*16-mixed, bf16-true, .* or null is expected$",
        ),
        (["--seed_everything=-1"], 1, "seed_everything is -1: give a whole number from 0 to 4294967295"),
        (["--trainer.accumulate_grad_batches=0"], 1, "accumulate_grad_batches is 0: give 1 or more"),
        (["--model.dropout=2"], 1, r"dropout is 2.0, and a probability in \[0, 1\) is expected"),
        (["--model.learning_rate=-1"], 1, "learning_rate is -1.0: give a number above 0"),
        (
            ["--model.schedule=cosine", "--trainer.max_steps=-1", "--trainer.max_epochs=1"],
            1,
            "trainer.max_steps is not",
        ),
        (["--data.path=missing.txt"], 1, "missing.txt"),
        (["--data.path=empty.txt"], 1, "'empty.txt' is empty"),
        (["--data.path=broken.txt"], 1, "'broken.txt' is not UTF-8: byte 3"),
        (["--data.context_length=9999"], 1, "too few for one batch"),
        (["--config=nothing"], 1, "no recipe 'nothing'"),
        (["--config=quickstrat"], 1, "no recipe 'quickstrat' .did you mean 'quickstart'"),
        (["--config=nothing.yaml"], 1, "no file nothing.yaml"),
        (["--config=odd.yaml"], 1, "odd.yaml is no YAML: .* line 1"),
        (["--config=list.yaml"], 1, "list.yaml holds no configuration"),
        (["--config=stray.yaml"], 2, "trainr"),
        (["quickstart"], 2, "'quickstart' belongs to no option: give it as --config quickstart"),
        (["a.txt", "b.txt"], 2, r"'a.txt' belongs to no option: if a pattern such as \*.txt"),
        (["--model=LSTMLanguageModl"], 2, "for model .did you mean 'LSTMLanguageModel'"),
        (["--data.batching=block"], 2, "one of 'contiguous', 'blocks', 'documents' is expected"),
        (["--config"], 2, "--config stands alone"),
        (["--ckpt_path=missing.ckpt"], 1, "no checkpoint at missing.ckpt"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(command, here, line, status, message):
    (here / "empty.txt").write_text("")
    (here / "broken.txt").write_bytes(b"abc\xff\xfe")
    (here / "odd.yaml").write_text("model: [1, 2\n")
    (here / "list.yaml").write_text("- 1\n")
    (here / "stray.yaml").write_text("trainr:\n  max_steps: 3\n")
    (here / "my_diary.py").write_text(
        "from lightning_seq.data import SequenceDataModule\nclass Diary(SequenceDataModule): pass\n"
    )
    got, said = command("fit", *LSTM, *TINY, *line)
    errors = [text for text in said.splitlines() if text.startswith("error: ")]
    assert got == status, said
    assert len(errors) == 1, said
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in said
    assert not list(here.glob("runs/*"))


def test_what_is_not_chosen_is_asked_for(command):
    assert "error: no model is chosen: give --config RECIPE" in command("fit", *TINY)[1]
    assert "error: no data is chosen" in command("fit", *LSTM)[1]
    assert "no model is chosen" in command("fit", "--model.hidden_size=3", *TINY)[1]


def test_debug_shows_the_traceback(here):
    from lightning_seq.errors import InputError

    with pytest.raises(InputError, match="no recipe"):
        main(["fit", "--config", "nothing", "--debug"])


def test_another_class_over_a_recipe_says_what_was_kept_and_dropped(command):
    small = [
        "--data.path=text.txt",
        "--data.batch_size=2",
        "--data.context_length=8",
        "--trainer.max_steps=1",
    ]
    rest = ["--trainer.enable_progress_bar=false", "--trainer.val_check_interval=1", "--trainer.callbacks=[]"]
    status, said = command("fit", "--config", "quickstart", "--model", "LSTMLanguageModel", *small, *rest)
    assert status == 0, said
    line = next(text for text in said.splitlines() if "replaces the recipe's" in text)
    assert "model: LSTMLanguageModel replaces the recipe's TransformerLanguageModel" in line
    kept, dropped = line.split("kept ")[1].split("; dropped ")
    assert {"embedding_dim", "num_layers", "learning_rate"} <= set(kept.split(", "))
    assert {"num_heads", "context_length"} <= set(dropped.split(", "))


OWN = """
from lightning_seq.models import LanguageModel
from lightning_seq.networks import GRU


class MyModel(LanguageModel):
    def __init__(self, vocab_size: int, width: int = 8, **kwargs):
        super().__init__(GRU(vocab_size, width, width), **kwargs)
        self.save_hyperparameters()
"""


def test_a_class_in_the_working_directory_is_found(command, here, monkeypatch):
    (here / "my_module_of_a_test.py").write_text(OWN)
    line = ["--model=my_module_of_a_test.MyModel", "--model.width=6", "--model.learning_rate=0.01"]
    status, said = command("fit", *line, *TINY, "--run_dir=own")
    assert status == 0, said
    assert "MyModel, " in said
    checkpoint = here / "own/checkpoints/last.ckpt"
    monkeypatch.delitem(__import__("sys").modules, "my_module_of_a_test")
    status, said = command("generate", "--checkpoint", checkpoint, "--prompt", "the ")
    assert status == 1
    assert "(--trust)" in said
    status, said = command("generate", "--checkpoint", checkpoint, "--prompt", "the ", "--trust")
    assert status == 0, said
    assert "the " in said


def test_a_class_changed_by_a_second_file_is_reported_too(command, here):
    (here / "second.yaml").write_text("model: GRULanguageModel\n")
    small = [
        "--data.path=text.txt",
        "--data.batch_size=2",
        "--data.context_length=8",
        "--trainer.max_steps=1",
    ]
    rest = ["--trainer.enable_progress_bar=false", "--trainer.val_check_interval=1", "--trainer.callbacks=[]"]
    status, said = command("fit", "--config", "quickstart", "--config", "second.yaml", *small, *rest)
    assert status == 0, said
    assert "model: GRULanguageModel replaces the recipe's TransformerLanguageModel" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--model.betas=[0.9,1.5]"], "betas are (0.9, 1.5)"),
        (["--model.hidden_size=0"], "hidden_size is 0: give 1 or more"),
        (["--trainer.accelerator=nonsense"], "nonsense"),
    ],
)
def test_what_torch_and_lightning_refuse_is_one_line_too(command, line, message):
    status, said = command("fit", *LSTM, *TINY, *line)
    assert status == 1, said
    assert re.search(f"^error: .*{re.escape(message)}", said, re.MULTILINE)


def test_an_error_begins_below_an_open_progress_bar(command, here, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.stdout)  # a terminal shows both in the order they came in
    (here / "one.txt").write_text("a")
    bar = [word for word in TINY if "progress" not in word]
    status, said = command("fit", *LSTM, *bar, "--data.path=one.txt")
    assert status == 1
    assert "Sanity Checking" in said
    bar_line, error = said.split("error: the validation split of one.txt has 0 tokens")[0].rsplit("\n", 1)
    assert "Sanity Checking" in bar_line
    assert error == ""
