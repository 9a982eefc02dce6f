"""What wins: the command line over the checkpoint over the recipe; and what does not go together."""

import re
import subprocess
import sys

import pytest
import torch

from lightning_seq.data.sources.documents import cut_parts, digest
from tests.cli.conftest import LSTM, TEXT, TINY


def test_a_checkpoint_is_tested_with_its_own_architecture_and_tokenizer(command, trained, here):
    (here / "other.txt").write_text("zebras quiz waltzing nymphs\n" * 60)  # another alphabet
    bare = [
        "--model=LSTMLanguageModel",
        *TINY,
        "--data.path=other.txt",
    ]  # and the default width, not the trained
    with pytest.warns(UserWarning, match=r"35.7% of the tokens of the test split of other.txt"):
        status, said = command("test", *bare, "--ckpt_path", trained)
    assert status == 0, said
    assert "model.hidden_size: 8 as in the checkpoint, not 256" in said
    assert "test_loss" in said
    assert "model.vocab_size" not in said


def test_the_checkpoints_tokenizer_wins_over_the_recipes_and_not_over_the_lines(command, here):
    assert command("fit", *LSTM, *TINY, "--data.tokenizer=word", "--run_dir=run")[0] == 0
    last = "--ckpt_path=run/checkpoints/last.ckpt"
    (here / "recipe.yaml").write_text(
        "data:\n  class_path: TextDataModule\n  init_args:\n    tokenizer: byte\n"
    )
    line = [*LSTM, "--config=recipe.yaml", *TINY]
    status, said = command("test", *line, last)
    assert status == 0, said
    status, said = command("test", *line, last, "--data.tokenizer=character")
    assert status == 1
    assert "trained with a word tokenizer and the data asks for 'character'" in said


@pytest.mark.parametrize("act", ["validate", "test", "predict"])
def test_every_evaluation_runs_from_a_checkpoint(command, trained, act):
    status, said = command(act, *LSTM, *TINY, "--ckpt_path", trained)
    assert status == 0, said
    assert "not trained ones" not in said


@pytest.mark.parametrize(
    ("act", "split"), [("validate", "validation"), ("test", "test"), ("predict", "test")]
)
def test_every_evaluation_says_which_text_it_scores(command, trained, here, act, split):
    other = "".join(f"{'the old owl '[: i % 7]}{' sees the cat'[: i % 11]}\n" for i in range(1, 99))
    (here / "other.txt").write_text(other)
    line = [act, *LSTM, *TINY, f"--ckpt_path={trained}"]
    parts = dict(zip(("train", "validation", "test"), cut_parts(TEXT, 2), strict=True))
    same, other = (
        " ".join(command(*words)[1].split())
        for words in (line, [*line, "--data.path=other.txt", f"--data.val_path={here}/text.txt"])
    )
    sha256 = digest([parts[split]])[:8]
    assert f"scored text: text.txt, {split} split, sha256 {sha256} the checkpoint was trained on the" in same
    found = re.search(rf"scored text: other.txt, .*{split} split, sha256 (\w+) the checkpoint (.*)", other)
    assert found is not None
    trained_on = f"text.txt, sha256 {digest([parts['train']])[:8]}"
    if split == "validation":  # which is the whole file that was trained on
        assert found[1] == digest([TEXT])[:8]
        assert found[2].startswith(f"was trained on {trained_on}, of which 100% occurs in the scored text")
    else:
        assert found[2].startswith(f"was trained on other data: {trained_on}")


def test_a_training_goes_on_from_a_checkpoint(command, trained, here):
    status, said = command(
        "fit", *LSTM, *TINY, "--ckpt_path", trained, "--trainer.max_steps=4", "--run_dir=more"
    )
    assert status == 0, said
    assert torch.load(here / "more/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_an_explicit_value_wins_over_the_checkpoint(command, trained, here):
    config = here / "more" / "config.yaml"
    line = [*LSTM, *TINY, "--ckpt_path", trained, "--trainer.max_steps=3", "--run_dir=more"]
    status, said = command("fit", *line, "--model.weight_decay=0.5")
    assert status == 0, said
    assert "weight_decay: 0.5" in config.read_text()


def test_a_checkpoint_of_another_class_is_refused_and_both_are_named(command, trained):
    status, said = command("fit", "--model=GRULanguageModel", *TINY, "--ckpt_path", trained)
    assert status == 1
    assert "holds a lightning_seq.models.recurrent.LSTMLanguageModel" in said
    assert "the configuration builds a lightning_seq.models.recurrent.GRULanguageModel" in said


def test_a_truncated_checkpoint_is_refused_by_name(command, trained):
    cut = trained.with_name("cut.ckpt")
    cut.write_bytes(trained.read_bytes()[:5000])
    status, said = command("test", *LSTM, *TINY, "--ckpt_path", cut)
    assert status == 1
    assert re.search(r"error: .*cut\.ckpt \(5,000 bytes\) is no whole checkpoint", said)


def test_another_kind_of_tokenizer_is_refused(command, trained):
    status, said = command("test", *LSTM, *TINY, "--data.tokenizer=byte", "--ckpt_path", trained)
    assert status == 1
    assert "trained with a character tokenizer and the data asks for 'byte'" in said


def test_weights_without_training_are_named(command):
    status, said = command("test", *LSTM, *TINY)
    assert status == 0, said
    assert "the weights are not trained ones" in said


def test_only_tensors_and_plain_values_are_loaded(command, here):
    class Bomb:
        def __reduce__(self):
            return (open, (str(here / "exploded"), "w"))

    torch.save({"state_dict": {}, "bomb": Bomb()}, here / "bomb.ckpt")
    status, said = command("fit", *LSTM, *TINY, "--ckpt_path", "bomb.ckpt")
    assert status == 1
    assert "more than tensors and plain values" in said
    assert not (here / "exploded").exists()


def test_weights_that_do_not_fit_are_explained(command, trained):
    status, said = command("test", *LSTM, *TINY, "--ckpt_path", trained, "--model.hidden_size=16")
    assert status == 1
    assert re.search(
        r"error: the checkpoint's weights do not fit the model as configured \(size mismatch", said
    )


@pytest.mark.parametrize("word", ["last", "best"])
def test_a_word_instead_of_a_path_is_refused(command, word):
    status, said = command("fit", *LSTM, *TINY, f"--ckpt_path={word}")
    assert status == 1
    assert f"ckpt_path is '{word}', and every run has a directory of its own" in said


@pytest.mark.slow
def test_a_scripts_own_class_is_named_after_its_file(here):
    (here / "my_script.py").write_text(
        "import lightning.pytorch as pl, lightning_seq, torch\n"
        "from lightning_seq.models import GRULanguageModel\n"
        "from lightning_seq.data import TextDataModule\n"
        "class Mine(GRULanguageModel):\n"
        "    pass\n"
        "if __name__ == '__main__':\n"
        "    data = TextDataModule('text.txt', batch_size=2, context_length=8)\n"
        "    trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator='cpu')\n"
        "    trainer.fit(Mine(data.vocab_size, 8, 8), data)\n"
        "    trainer.save_checkpoint('mine.ckpt')\n"
        "    assert type(lightning_seq.load('mine.ckpt')) is Mine\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "my_script.py"], check=True, capture_output=True, cwd=here
    )
    entry = torch.load(here / "mine.ckpt", weights_only=True)["lightning_seq"]
    assert entry["class_path"] == "my_script.Mine"


GPT = ["--model=TransformerLanguageModel", "--model.embedding_dim=16", "--model.num_layers=1"]


@pytest.mark.parametrize("act", ["fit", "validate", "test", "predict"])
def test_an_option_that_the_weights_bear_all_the_same_is_told(command, act):
    assert command("fit", *GPT, *TINY, "--run_dir=run")[0] == 0
    more = ["--trainer.max_steps=3", "--model.num_heads=2", "--model.positions=none"]
    status, said = command(act, *GPT, *TINY, *more, "--ckpt_path=run/checkpoints/last.ckpt")
    assert status == 0, said
    assert "model.num_heads: 2 here, 4 in the checkpoint" in said
    assert "model.positions: 'none' here, 'rotary' in the checkpoint" in said
    assert "model.embedding_dim" not in said


@pytest.mark.parametrize(("tied", "cannot"), [(False, "made one"), (True, "told apart")])
@pytest.mark.parametrize("act", ["fit", "test"])
def test_matrices_are_neither_tied_nor_parted_by_a_checkpoint(command, act, tied, cannot):
    line = [*GPT, *TINY, f"--model.tie_weights={str(tied).lower()}"]
    assert command("fit", *line, "--run_dir=run")[0] == 0
    other = [f"--model.tie_weights={str(not tied).lower()}", "--trainer.max_steps=3"]
    status, said = command(act, *line[:-1], *other, "--ckpt_path=run/checkpoints/last.ckpt")
    assert status == 1
    assert f"error: model.tie_weights is {not tied} and {tied} in the checkpoint, whose matrices" in said
    assert cannot in said


def test_an_optimizer_of_other_parameters_is_one_line(command, trained):
    content = torch.load(trained, weights_only=True)
    content["optimizer_states"][0]["param_groups"][0]["params"].pop()
    torch.save(content, trained)
    status, said = command("fit", *LSTM, *TINY, "--trainer.max_steps=3", "--ckpt_path", trained)
    assert status == 1
    assert re.search("^error: the checkpoint's optimizer had other parameters than this model", said, re.M)


def test_a_new_training_begins_with_the_weights_of_a_checkpoint(command, trained, here):
    (here / "other.txt").write_text("the sad dog sees the sun.\n" * 60)
    bare = ["--model=LSTMLanguageModel", *TINY, "--data.path=other.txt", "--run_dir=tuned"]
    still = ["--model.learning_rate=1e-30", "--model.weight_decay=0", "--trainer.max_steps=1"]
    status, said = command("fit", *bare, *still, "--weights", trained)
    assert status == 0, said
    assert "model.hidden_size: 8 as in the checkpoint, not 256" in said
    assert "model.learning_rate" not in said  # how to train is not the checkpoint's business
    before = torch.load(trained, weights_only=True)
    after = torch.load(here / "tuned/checkpoints/last.ckpt", weights_only=True)
    assert after["global_step"] == 1
    assert after["hyper_parameters"]["learning_rate"] == 1e-30
    assert before["lightning_seq"]["tokenizer"] == after["lightning_seq"]["tokenizer"]
    for name, weight in before["state_dict"].items():
        torch.testing.assert_close(after["state_dict"][name], weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("act", "options", "said"),
    [
        ("fit", ["--weights={}", "--ckpt_path={}"], "give one of them"),
        ("test", ["--weights={}"], "weights to `fit` alone"),
        ("fit", ["--weights={}", "--model.hidden_size=9"], "do not fit the model as configured"),
        ("fit", ["--weights={}", "--model=GRULanguageModel"], "holds a .*LSTMLanguageModel"),
        ("fit", ["--weights=nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
    ],
)
def test_weights_that_cannot_be_taken_are_told_of_and_leave_nothing(
    command, trained, here, act, options, said
):
    line = [*LSTM, *TINY, "--run_dir=tuned"]
    status, found = command(act, *line, *[each.format(trained) for each in options])
    assert status == 1
    assert re.search(said, found), found
    assert not (here / "tuned").exists()
