"""Numbers of a training step, to every logger."""

import torch
from lightning.pytorch import Trainer

from lightning_seq.figures import forgiving


def logging_step(trainer: Trainer) -> int:
    """Returns the step at which Lightning logs the numbers of this moment, and so do all callbacks here.

    The first batch is logged at step 0, a batch counts once however many optimizers step in it, and the
    validation after a batch is logged where the batch is. `trainer.global_step` counts otherwise.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def log_at_step(trainer: Trainer, numbers: dict[str, float], step: int | None = None) -> None:
    """Logs numbers once, at ``step`` or this training step, from within ``on_train_batch_end``.

    As Lightning's own monitors do, past the module: its ``log`` costs half a millisecond a number, keeps to
    log steps, and repeats at each the last that it was given.
    """
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in numbers.items()})
    if not trainer.is_global_zero:
        return
    step = logging_step(trainer) if step is None else step
    for logger in trainer.loggers:
        with forgiving(logger, "numbers of a step"):
            logger.log_metrics(numbers, step=step)
