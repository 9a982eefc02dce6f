"""ProgressBar: the loss and the speed, in one line of a terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm  # type: ignore[import-untyped]
from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]

_SHORT = {"train_loss": "loss", "val_loss": "val", "tokens_per_second": "tok/s"}


class ProgressBar(TQDMProgressBar):
    """Shows how far the training is, its loss, the validation loss and the tokens per second.

    Where the training ends after a number of steps (`max_steps`) the bar runs once over all of them, else
    once per epoch.

    Args:
        refresh_rate: Redraw after this many batches; 0 shows no bar. Drawing at every batch slows small
            models down.
    """

    # without the batches per second, which the tokens per second tell better: the line fits 80 columns
    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._redirected = ExitStack()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What the model logged with `prog_bar=True`, briefly: loss, validation loss and speed first."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        order = [*(key for key in _SHORT if key in metrics), *(key for key in metrics if key not in _SHORT)]
        return {_SHORT.get(key, key): _short(key, metrics[key]) for key in order}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        super().on_train_start(trainer, pl_module)
        self._keep_log_lines_apart()
        if _counts_steps(trainer):
            self.train_progress_bar.set_description("Train")
            self.train_progress_bar.reset(trainer.max_steps)
            self.train_progress_bar.initial = self.train_progress_bar.n = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of a validation."""
        super().on_validation_start(trainer, pl_module)
        self._keep_log_lines_apart()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of a test."""
        super().on_test_start(trainer, pl_module)
        self._keep_log_lines_apart()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of a prediction."""
        super().on_predict_start(trainer, pl_module)
        self._keep_log_lines_apart()

    def _keep_log_lines_apart(self) -> None:
        """Prints log lines and warnings from here on above the bars, on lines of their own."""
        self._redirected.close()
        if self.is_enabled:
            self._redirected.enter_context(logging_redirect_tqdm([logging.getLogger("lightning.pytorch")]))
            self._redirected.enter_context(_warnings_above_bars())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets what is said go where it went before."""
        self._redirected.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets what is said go where it went before."""
        self._redirected.close()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the bar over, where it runs over epochs."""
        if not _counts_steps(trainer):
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if not _counts_steps(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            return
        bar, step = self.train_progress_bar, trainer.global_step
        if self.is_enabled and step != bar.n and (step % self.refresh_rate == 0 or step == bar.total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))


@contextmanager
def _warnings_above_bars() -> Iterator[None]:
    show = warnings.showwarning

    def show_above_bars(*arguments: Any, **options: Any) -> None:
        with tqdm.external_write_mode():
            show(*arguments, **options)

    warnings.showwarning = show_above_bars
    try:
        yield
    finally:
        warnings.showwarning = show


def _counts_steps(trainer: Trainer) -> bool:
    return trainer.max_steps > 0 and trainer.max_epochs in (-1, None)


def _short(key: str, value: Any) -> Any:
    if not isinstance(value, int | float):
        return value
    if key != "tokens_per_second":
        return f"{value:.4g}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"
