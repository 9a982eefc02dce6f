"""Randomness of a training step as a function of its place: a resumed run drops out what it would have."""

import hashlib
from typing import Any

import torch


class StepRandomness:
    """Seeds torch before each step from (base seed, epoch, batch, rank).

    Restoring generator states instead would need every rank's, and a draw between a checkpoint and the next
    step, say by a callback, would part the runs all the same.
    """

    def __init__(self) -> None:
        self.base: int | None = None  # of the run: kept in its checkpoints

    def begin(self, trainer: Any) -> None:
        """Takes the base seed of rank 0, if there is none yet: before any checkpoint is written."""
        if self.base is None:
            self.base = int(trainer.strategy.broadcast(torch.initial_seed()))

    def before(self, trainer: Any) -> None:
        """Seeds the generators for the batch that ``trainer`` is about to train on."""
        loop = trainer.fit_loop
        epoch, batch = loop.epoch_progress.current.processed, loop.epoch_loop.batch_idx
        rank = (trainer.distributed_sampler_kwargs or {}).get("rank", 0)
        place = f"{self.base} {epoch} {batch} {rank}".encode()
        seed = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest())
        # Not torch.manual_seed: where CUDA is not in use it keeps a stack trace for later, a quarter of a ms.
        torch.default_generator.manual_seed(seed)
        if (device := trainer.strategy.root_device.type) != "cpu":
            torch.get_device_module(device).manual_seed(seed)
