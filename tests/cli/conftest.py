"""A directory of one's own, a small text, and a training of two steps."""

import logging
import sys

import pytest

from lightning_seq.__main__ import main

LINES = [
    f"the {colour} {animal} sees the {other}.\n"
    for colour in ("red", "old", "new")
    for animal in ("cat", "dog", "owl")
    for other in ("sun", "sea")
]
TEXT = "".join(LINES * 12)

TINY = [
    "--data=TextDataModule",
    "--data.path=text.txt",
    "--data.batch_size=2",
    "--data.context_length=8",
    "--trainer.max_steps=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--seed_everything=0",
]
LSTM = ["--model=LSTMLanguageModel", "--model.embedding_dim=8", "--model.hidden_size=8"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the working directory
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def command(here, capsys, caplog):
    """Runs the command line in this process; returns its status and everything that it said."""
    caplog.set_level(logging.INFO)

    def run(*words):
        caplog.clear()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err + caplog.text

    return run


@pytest.fixture
def trained(command, here):
    """A checkpoint of a small LSTM."""
    status, said = command("fit", *LSTM, *TINY, "--run_dir=trained")
    assert status == 0, said
    return here / "trained" / "checkpoints" / "last.ckpt"
