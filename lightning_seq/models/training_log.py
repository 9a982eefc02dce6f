"""Loss and speed of the steps since the last log."""

import time

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
        self._nll += nll.detach().sum()
        self._tokens += tokens

    def read(self, step: int, ranks: int) -> dict[str, Tensor | float]:
        """Returns the mean loss of this rank and the tokens per second of all ranks, and restarts."""
        tokens = torch.as_tensor(self._tokens)
        loss = torch.as_tensor(self._nll) / tokens
        speed = float(tokens) * ranks / (time.perf_counter() - self._clock)
        self.step = step
        self.restart()
        return {"train_loss": loss, "tokens_per_second": speed}
