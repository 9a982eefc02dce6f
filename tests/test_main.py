"""What the console script prints, whatever reads it."""

import errno
import io
import subprocess
import sys

import pytest

from lightning_seq.__main__ import main
from lightning_seq.commands import recipes as a_command

SAID = "Größe → “日本” ─ Ω"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "iso-8859-1", "utf-8"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_an_encoding_lacks_is_printed_as_an_escape(monkeypatch, encoding, stream):
    monkeypatch.setattr(a_command, "main", lambda argv: print(SAID, file=getattr(sys, stream)) or 0)
    printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, stream, printed)
    assert main(["recipes"]) == 0
    printed.flush()
    expected = SAID.encode(encoding, "backslashreplace").decode(encoding)
    assert printed.buffer.getvalue().decode(encoding) == expected + "\n"


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "show", "quickstart"]])
def test_a_reader_that_has_read_enough_is_no_error(words):
    """The pipe is closed before anything is written, as by a reader that ends at once."""
    command = [sys.executable, "-m", "lightning_seq", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert said == ""
    assert process.returncode == 141  # 128 + SIGPIPE, as for other programs


def test_a_broken_pipe_of_another_process_is_an_error(monkeypatch):
    def lose_a_worker(argv):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(a_command, "main", lose_a_worker)
    with pytest.raises(BrokenPipeError):
        main(["recipes"])
