"""Training batches of a stream: rows that lie one behind the other in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from tokenizers import Tokenizer

from lightning_seq.data.batching.batches import Batch, gather, separate
from lightning_seq.data.batching.plans import Rows
from lightning_seq.data.streaming.stream import START, Stream, Window
from lightning_seq.data.streaming.workers import ProcessWindows, Reader


class PackedStream:
    """Batches of rows that lie one behind the other in the stream, the next one whenever one is asked for.

    Args:
        stream: The documents of all ranks.
        tokenizer: Tokenizes them.
        batch_size: Rows of a batch.
        context_length: Tokens of a row.
        steps_per_epoch: Batches that make an epoch.
        separate_documents: Whether a batch says which of its tokens belong to one document, and does not
            score the first token of the next.
        rank: This process among those that read different data.
        world_size: How many these are.
        num_workers: Processes that read and tokenize ahead; 0 for this one.
    """

    def __init__(
        self,
        stream: Stream,
        tokenizer: Tokenizer,
        batch_size: int,
        context_length: int,
        steps_per_epoch: int,
        separate_documents: bool = False,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        count = max(num_workers, 1)
        shares = [replace(stream, index=rank * count + i, of=world_size * count) for i in range(count)]
        content, length = tokenizer.to_str(), batch_size * context_length + 1
        self._readers = [Reader(share, content, length) for share in shares]
        starts = np.arange(batch_size) * context_length
        self._rows = Rows(starts, starts + context_length, context_length)
        self._steps = steps_per_epoch
        self._separate = separate_documents
        self._in_processes = num_workers > 0
        self._states = [START] * count
        self._turn = 0
        self._windows: list[Iterator[Window]] = []

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        """Returns a function that gives the next batch, whatever the epoch and its step."""
        return lambda step: self._next()

    def _next(self) -> Batch:
        if not self._windows:
            read = ProcessWindows if self._in_processes else Reader.windows
            self._windows = [read(*each) for each in zip(self._readers, self._states, strict=True)]
        tokens, beginnings, state = next(self._windows[self._turn])
        self._states[self._turn] = state
        self._turn = (self._turn + 1) % len(self._readers)
        batch = gather(tokens, self._rows)
        if self._separate:
            separate(batch, self._rows, beginnings)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Returns what comes next: for each reader, where it stands, and whose turn it is."""
        return {"turn": self._turn, "readers": [dict(state) for state in self._states]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state``; from the beginning, where as many readers cannot go on from it."""
        self.close()
        before, now = len(state["readers"]), len(self._readers)
        if before != now:
            rank_zero_info(
                f"resume: the training stream starts from its beginning, since {before} processes of a rank "
                f"read it and now {now} do, each its own share"
            )
        else:
            self._turn, self._states = state["turn"], [dict(each) for each in state["readers"]]

    def close(self) -> None:
        """Ends the processes; the next batch starts them again, where they stood."""
        for each in self._windows:
            cast(Any, each).close()
        self._windows = []
