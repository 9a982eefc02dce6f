"""Functions run on several ranks at once, in real processes that talk over gloo.

Lightning's own launchers run pytest once more, or import everything anew in each rank: a fork server that has
imported it already starts ranks in a moment, and to Lightning they look as if a cluster had started them.
"""

import io
import multiprocessing
import os
import socket
import time
import traceback
from queue import Empty

import torch

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lightning.pytorch", "lightning_seq.models", "lightning_seq.data"])


def run_ranks(function, *args, world=2, timeout=120, **kwargs):
    """Returns what ``function(*args, **kwargs)`` gives on each rank; it must be importable."""
    results = _context.Queue()
    port = _free_port()
    processes = [
        _context.Process(target=_rank, args=(function, rank, world, port, results, args, kwargs), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        return _collect(processes, results, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.join(1)
            if process.is_alive():
                process.kill()


def _collect(processes, results, end):
    found = {}
    while len(found) < len(processes):
        try:
            rank, error, content = results.get(timeout=0.2)
        except Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            assert not dead, f"a rank died with {dead}"
            assert time.monotonic() < end, f"only ranks {sorted(found)} came to an end"
            continue
        assert error is None, f"rank {rank}:\n{error}"
        found[rank] = torch.load(io.BytesIO(content), weights_only=False)
    return [found[rank] for rank in sorted(found)]


def _rank(function, rank, world, port, results, args, kwargs):
    os.environ.update(
        LOCAL_RANK=str(rank),
        RANK=str(rank),
        NODE_RANK="0",
        GROUP_RANK="0",
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        content = io.BytesIO()
        torch.save(function(*args, **kwargs), content)  # by value: shared tensors die with their process
        results.put((rank, None, content.getvalue()))
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
