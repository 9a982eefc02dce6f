"""What wins: the command line over the checkpoint over the recipe; and what does not go together."""

import re

import pytest
import torch

from tests.cli.conftest import LSTM, TINY


def test_a_checkpoint_is_tested_with_its_own_architecture_and_tokenizer(command, trained, here):
    (here / "other.txt").write_text("zebras quiz waltzing nymphs\n" * 60)  # another alphabet
    bare = [
        "--model=LSTMLanguageModel",
        *TINY,
        "--data.path=other.txt",
    ]  # and the default width, not the trained
    status, said = command("test", *bare, "--ckpt_path", trained)
    assert status == 0, said
    assert "model.hidden_size: 8 as in the checkpoint, not 256" in said
    assert "test_loss" in said
    assert "model.vocab_size" not in said


@pytest.mark.parametrize("act", ["validate", "test", "predict"])
def test_every_evaluation_runs_from_a_checkpoint(command, trained, act):
    status, said = command(act, *LSTM, *TINY, "--ckpt_path", trained)
    assert status == 0, said
    assert "not trained ones" not in said


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
