"""Batches as a sequence of epochs: what every loader asks for, and how it is read from a token store."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from lightning_seq.data.batching.plans import Indices, Plan, Rows
from lightning_seq.data.token_store import TokenStore
from lightning_seq.networks.base import IGNORE_INDEX

Batch = dict[str, Tensor]


class Batches(Protocol):
    """The batches of one rank: equally many in every epoch and on every rank."""

    def __len__(self) -> int:
        """Batches of an epoch."""

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        """Returns the function from a step of ``epoch`` to its batch: the same batch whenever asked."""


class StoredBatches:
    """The rows that a plan takes from a store.

    Args:
        plan: Which rows.
        store: Where from.
        separate_documents: Whether a batch says which of its tokens belong to one document, and does not
            score the first token of the next.
    """

    def __init__(self, plan: Plan, store: TokenStore, separate_documents: bool = False) -> None:
        self.plan = plan
        self.store = store
        self.separate_documents = separate_documents

    def __len__(self) -> int:
        return len(self.plan)

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        """Returns the function from a step of ``epoch`` to its batch."""
        rows_of, tokens = self.plan.epoch(epoch), self.store.tokens
        documents = np.asarray(self.store.documents) if self.separate_documents else None

        def batch(step: int) -> Batch:
            rows = rows_of(step)
            batch = gather(tokens, rows)
            if documents is not None:
                separate(batch, rows, documents)
            return batch

        return batch

    def positions(self) -> Indices:
        """Returns where in the text each row of an evaluation starts, (rows,), in the order of batches."""
        rows_of = self.plan.epoch(0)
        return np.concatenate([rows_of(step).starts for step in range(len(self))])


def gather(tokens: npt.NDArray[Any], rows: Rows) -> Batch:
    """Reads one batch: ``inputs`` and ``targets`` (batch, width), padded behind short windows."""
    if (rows.stops - rows.starts == rows.width).all():  # all at once
        windows = sliding_window_view(tokens, rows.width + 1)[rows.starts]
        inputs, targets = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
    else:
        inputs = np.zeros((len(rows.starts), rows.width), dtype=np.int64)
        targets = np.full_like(inputs, IGNORE_INDEX)
        for row, (start, stop) in enumerate(zip(rows.starts.tolist(), rows.stops.tolist(), strict=True)):
            inputs[row, : stop - start] = tokens[start:stop]
            targets[row, : stop - start] = tokens[start + 1 : stop + 1]
    batch = {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}
    if rows.continues is not None:
        batch["continues"] = torch.from_numpy(rows.continues)
    return batch


def separate(batch: Batch, rows: Rows, documents: Indices) -> None:
    """Adds ``document_ids`` (batch, width), from 0 in each row, and takes targets of other documents away."""
    first, last = (documents.searchsorted(edges, "right") for edges in (rows.starts, rows.stops))
    count = last - first  # of documents that begin within each row
    row = np.arange(len(first)).repeat(count)
    at = documents[np.arange(len(row)) + (last - count.cumsum()).repeat(count)] - rows.starts[row]
    batch["targets"].numpy()[row, at - 1] = IGNORE_INDEX  # the same memory
    beginnings = np.zeros((len(first), rows.width + 1), dtype=np.int64)
    beginnings[row, at] = 1
    batch["document_ids"] = torch.from_numpy(beginnings[:, :-1].cumsum(1))
