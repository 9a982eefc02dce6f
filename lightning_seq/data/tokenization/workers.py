"""Processes that tokenize pieces of text, for as long as there are any."""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from typing import IO, Any, cast

from lightning_seq.data.tokenization import chunks
from lightning_seq.data.tokenization.chunks import Ids
from lightning_seq.errors import InputError

MOST_PROCESSES = 16  # by default: more encode faster than one process can write
WAITING = 2  # batches for each process

# No threads of theirs beside the processes.
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def default_processes() -> int:
    """Returns how many processes to tokenize with: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


def encode_in_processes(tokenizer: str, batches: Iterable[list[str]], processes: int) -> Iterator[list[Ids]]:
    """Yields what ``ChunkEncoder`` makes of each batch, in order; a few batches are taken ahead.

    The processes run one file as a script, and are no ``multiprocessing`` ones: those would import the
    caller's main module again, which a training script is not made for, and torch with it.

    Args:
        tokenizer: One that ``ChunkEncoder`` is for, as ``tokenizer.to_str()`` gives it.
        batches: Lists of pieces.
        processes: How many processes there shall be.

    Raises:
        InputError: A process ended before its work did.
    """
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    pending: deque[Future[list[Ids]]] = deque()

    def encode(batch: list[str]) -> list[Ids]:
        worker = idle.get()
        try:
            return _ask(worker, batch)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        workers = [stack.enter_context(_running()) for _ in range(processes)]
        pool = stack.enter_context(ThreadPoolExecutor(processes, thread_name_prefix="tokenizing"))
        for worker in workers:
            stack.callback(worker.kill)  # before the pool waits for its threads, which wait for them
            _send(worker, tokenizer)
            idle.put(worker)
        for batch in batches:
            pending.append(pool.submit(encode, batch))
            if len(pending) > WAITING * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _running() -> Iterator[subprocess.Popen[bytes]]:
    found_here = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", chunks.__file__]  # -P: beside that file is another `tokenizers`
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": found_here}
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        yield worker
    finally:
        worker.kill()
        for stream in (worker.stdin, worker.stdout):
            with suppress(OSError):  # what was still to be written
                cast(IO[bytes], stream).close()
        worker.wait()


def _ask(worker: subprocess.Popen[bytes], batch: list[str]) -> list[Ids]:
    _send(worker, batch)
    try:
        return cast(list[Ids], pickle.load(cast(IO[bytes], worker.stdout)))
    except (EOFError, pickle.UnpicklingError) as error:
        raise _ended(worker) from error


def _send(worker: subprocess.Popen[bytes], what: Any) -> None:
    stream = cast(IO[bytes], worker.stdin)
    try:
        pickle.dump(what, stream, protocol=pickle.HIGHEST_PROTOCOL)
        stream.flush()
    except OSError as error:
        raise _ended(worker) from error


def _ended(worker: subprocess.Popen[bytes]) -> InputError:
    with suppress(subprocess.TimeoutExpired):
        worker.wait(timeout=1)
    worker.kill()
    status = worker.wait()
    return InputError(
        f"a process that tokenizes ended too early, with status {status}{' (killed)' if status < 0 else ''}; "
        "it may have run out of memory: tokenize in one process (num_proc=1), or free some memory"
    )
