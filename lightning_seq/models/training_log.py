"""Loss and speed of the steps since the last log."""

import time
from typing import Any

import torch
from torch import Tensor


class TrainingLog:
    """Sums losses and tokens where they are computed, so that nothing waits for the device between logs."""

    def __init__(self) -> None:
        self.step = 0  # of the last log
        self.restart()

    def restart(self) -> None:
        """Starts the sums and the clock anew."""
        self._nll: Tensor | float = 0.0
        self._tokens: Tensor | int = 0
        self._clock = time.perf_counter()

    def add(self, nll: Tensor, tokens: Tensor) -> None:
        """Adds a batch: the losses of its targets, and how many there are."""
        self._nll += nll
        self._tokens += tokens

    def read(self, trainer: Any) -> dict[str, Tensor | float]:
        """Returns the mean loss and the tokens per second of all ranks, and restarts; all must ask.

        There is no loss where no target was scored, as where all batches were skipped.
        """
        sums = torch.stack([torch.as_tensor(each).float() for each in (self._nll, self._tokens)])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        readers = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)  # others share their data
        tokens = float(sums[1]) * readers / trainer.world_size
        speed = tokens / (time.perf_counter() - self._clock)
        self.step = trainer.global_step
        self.restart()
        loss = {"train_loss": sums[0] / sums[1]} if tokens else {}
        return {**loss, "tokens_per_second": speed}
