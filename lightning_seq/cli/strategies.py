"""Models spread over processes: what only the number of processes says, and who builds the weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from lightning_seq.errors import InputError


def share_out(trainer: Trainer) -> None:
    """Lets all processes that share no layer read different data, where only the first is said.

    Lightning's own "auto" takes one reader a node, whatever tensor_parallel_size is.

    Raises:
        InputError: The processes cannot be shared out so.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy) or strategy._data_parallel_size != "auto":
        return
    processes, sharing = trainer.num_devices * trainer.num_nodes, sharing_of(trainer)
    if strategy._tensor_parallel_size == "auto":
        return
    if processes % sharing:
        raise InputError(
            f"tensor_parallel_size is {sharing}, which does not divide the {processes} processes: give "
            "--trainer.devices a multiple of it"
        )
    strategy._data_parallel_size = processes // sharing


def sharing_of(trainer: Trainer) -> int:
    """Returns how many processes share each layer, and read the same data."""
    strategy: Any = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        return 1
    sharing = strategy._tensor_parallel_size
    return int(trainer.num_devices if sharing == "auto" else sharing)


def spreads(strategy: Any) -> bool:
    """Whether a strategy spreads weights over processes that each have a part (FSDP2, tensor parallel).

    Args:
        strategy: As a configuration has it: a name, or a class and its arguments.
    """
    return str(getattr(strategy, "class_path", strategy)).endswith(ModelParallelStrategy.__name__)


def leave_group() -> None:
    """Ends this process's part in a group, whose threads would abort an interpreter that ends before them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def where_weights_begin(strategy: Any) -> AbstractContextManager[object]:
    """Returns the context to build a model in: without memory, where it takes its weights from rank 0."""
    elsewhere = spreads(strategy) and rank_zero_only.rank != 0  # type: ignore[attr-defined]
    return torch.device("meta") if elsewhere else nullcontext()
