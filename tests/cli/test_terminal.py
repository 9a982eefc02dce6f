"""What stands in a terminal of 80 columns: a real one, as far as the programs in it can tell."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.cli.conftest import TEXT

COLUMNS = 80
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"(Train|Validation|Sanity|Testing).*\|.*\d*/[\d?]+ \[.*\]")
LONG_BY_NATURE = re.compile(
    r"^(error: |warmup_steps is|GradientClippingMonitor: |Restoring states|Loaded model|"
    r".*the model's vocabulary lacks)"
)


def show(directory, *words):
    """Runs a command in a terminal; returns its status and the lines that stay there."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
        "TERM": "xterm",
        "OMP_NUM_THREADS": "1",
        "LIGHTNING_SEQ_CACHE": str(directory / "cache"),
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "lightning_seq", *words]
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    status = process.wait(timeout=60)
    lines = CONTROL.sub("", said.decode("utf-8")).replace("\r\n", "\n").split("\n")
    # a line that is written over: what was written last stays
    last = [next(filter(str.strip, reversed(line.split("\r"))), "") for line in lines]
    return status, [line.rstrip() for line in last]


def _read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how the end of a terminal reads on Linux
        return b""


def check(lines):
    for line in lines:
        assert len(line) <= COLUMNS or LONG_BY_NATURE.match(line), line
        assert "Traceback" not in line
        assert "Warning" not in line
        if BAR.search(line):
            assert BAR.fullmatch(line), line  # nothing is glued to a progress bar


@pytest.mark.parametrize("words", [["--help"], ["recipes"], ["recipes", "show", "quickstart_lstm"]])
def test_what_needs_no_torch_fits(words, tmp_path):
    status, lines = show(tmp_path, *words)
    assert status == 0
    if words[-1] != "quickstart_lstm":  # a file is shown as it is
        check(lines)
    assert len(lines) > 5


def test_an_error_is_one_line_without_a_traceback(tmp_path):
    status, lines = show(tmp_path, "recipes", "show", "quickstat")
    assert status == 1
    (line,) = filter(None, lines)
    assert line.startswith("error: no recipe 'quickstat' (did you mean 'quickstart'?)")


@pytest.mark.slow
def test_a_first_training_and_what_follows_it(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 4)
    small = [
        "--data.path=text.txt",
        "--data.batch_size=4",
        "--model.embedding_dim=16",
        "--model.num_layers=1",
        "--model.warmup_steps=5",
    ]
    small += ["--trainer.max_steps=40", "--trainer.val_check_interval=20", "--trainer.accelerator=cpu"]
    status, lines = show(tmp_path, "fit", "--config=quickstart", *small)
    assert status == 0, "\n".join(lines)
    check(lines)
    assert "-" * COLUMNS in lines
    assert [line for line in lines if line.startswith("Train: 100%")]
    box = lines[lines.index("-" * COLUMNS) :]
    assert [line.split()[0] for line in box if line[:1].isalpha()] == [
        "validation",
        "clipping",
        "attention",
        "sample",
        "run",
        "next",
    ]
    checkpoint = "--checkpoint=runs/quickstart-1/checkpoints/best.ckpt"
    for words in (
        ["doctor", "--config=quickstart", *small],
        ["test", "--config=quickstart", "--data.path=text.txt", "--ckpt_path", checkpoint.partition("=")[2]],
        ["evaluate", "--protocol=stream", "--text=text.txt", checkpoint],
        ["generate", "--prompt=the", "--max_new_tokens=20", checkpoint],
        ["attention", "--text=the cat sees", checkpoint],
    ):
        status, lines = show(tmp_path, *words)
        assert status == 0, "\n".join(lines)
        check(lines)
