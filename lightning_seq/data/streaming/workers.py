"""Processes that read a stream and tokenize it, ahead of the training."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from tokenizers import Tokenizer

from lightning_seq.data.streaming.stream import State, Stream, Window, windows
from lightning_seq.data.tokenization.workers import ENVIRONMENT
from lightning_seq.errors import InputError

AHEAD = 4  # windows of each process, beside those in the pipe

# The package itself would import Lightning and torch: of no use there, seconds and 200 MB for each process.
PROGRAM = """
import sys, types
package = sys.modules["lightning_seq.data"] = types.ModuleType("lightning_seq.data")
package.__path__ = sys.argv[1:]
from lightning_seq.data.streaming.workers import main
main()
"""


@dataclass(frozen=True)
class Reader:
    """One of those who read the stream, each its own share of it.

    Args:
        stream: Its share of the documents.
        tokenizer: What tokenizes them, as ``tokenizer.to_str()`` gives it.
        length: Tokens of a window.
    """

    stream: Stream
    tokenizer: str
    length: int

    def windows(self, state: State) -> Iterator[Window]:
        """Yields windows without end, from ``state`` on."""
        return windows(self.stream.documents(state), Tokenizer.from_str(self.tokenizer), self.length, state)


class ProcessWindows:
    """The windows of a reader in a process of its own, which ends with this object or with this process.

    It is no ``multiprocessing`` one: to fork a process that has threads is not safe, and the other ways
    import the caller's main module again, which a training script is not made for.
    """

    def __init__(self, reader: Reader, state: State) -> None:
        self._process = _start()
        self._end = weakref.finalize(self, _stop, self._process)
        with suppress(OSError):  # it is gone, which the first window will tell
            to_process = cast(IO[bytes], self._process.stdin)
            _Pickler(to_process, pickle.HIGHEST_PROTOCOL).dump((reader, state))
            to_process.flush()

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        try:
            window: Window | str = pickle.load(cast(IO[bytes], self._process.stdout))
        except (EOFError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            raise InputError(
                f"a process that reads the training stream ended with status {status}"
                f"{' (killed)' if status < 0 else ''}; it may have run out of memory: lower num_workers or "
                "shuffle_buffer"
            ) from error
        if isinstance(window, str):
            raise InputError(window)
        return window

    def close(self) -> None:
        """Ends the process."""
        self._end()


class _Pickler(pickle.Pickler):
    """Leaves torch behind: `datasets` keeps one number in a tensor where there is torch."""

    def reducer_override(self, thing: Any) -> Any:
        if type(thing).__module__ == "torch" and type(thing).__name__ == "Tensor":
            return int, (int(thing),)
        return NotImplemented


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-c", PROGRAM, str(Path(__file__).parents[1])]
    found_here = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    environment = {**os.environ, **ENVIRONMENT, "USE_TORCH": "0", "PYTHONPATH": found_here}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            cast(IO[bytes], stream).close()
    process.wait()


def main() -> None:
    """Sends the windows of the reader that standard input brings, until nobody takes them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that trains
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what others print is not for the one that trains
    reader, state = pickle.load(sys.stdin.buffer)
    waiting: queue.Queue[Window | str] = queue.Queue(AHEAD)
    threading.Thread(target=_read, args=(reader, state, waiting), daemon=True).start()
    with suppress(BrokenPipeError):
        while True:
            pickle.dump(waiting.get(), replies, protocol=pickle.HIGHEST_PROTOCOL)
            replies.flush()
    os._exit(0)  # without waiting for what is still being read


def _read(reader: Reader, state: State, waiting: "queue.Queue[Window | str]") -> None:
    try:
        for window in reader.windows(state):
            waiting.put(window)
    except InputError as error:
        waiting.put(str(error))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
