"""Sets Lightning's progress counters to the batch with which a training goes on."""

from typing import Any


def align_progress(trainer: Any, loader_length: int) -> None:
    """Makes the counters of ``trainer`` agree with the batches that were trained on.

    Lightning counts an epoch as processed also where fit ended inside it (max_steps, max_time, should_stop),
    and restarts in a state that depends on the hook in which a checkpoint was saved. Here both become one of
    two states: inside an epoch, after so many of its batches, or before the first batch of an epoch. A
    validation that is due after the last batch and did not finish is run from its beginning.

    It is called before the first batch of a fit is asked for, after a checkpoint's counters are restored. It
    writes to attributes of Lightning's loops that are not public, checked with Lightning 2.6.

    Args:
        trainer: The trainer that fits.
        loader_length: Batches of the training loader, before ``limit_train_batches``.
    """
    loop = trainer.fit_loop.epoch_loop
    epochs, batches = trainer.fit_loop.epoch_progress, loop.batch_progress
    epoch, trained = epochs.current.processed, batches.current.processed
    exhausted = batches.is_last_batch and batches.current.ready == trained
    counted = epochs.current.started == epoch  # among the processed ones, though fit may have ended inside it
    inside = trained > 0 and not (counted and (exhausted or epoch == 0))
    epoch -= inside and counted
    saved_before_validation = batches.current.completed < trained
    _set(epochs.current, epoch + inside, epoch)
    _set(batches.current, trained, trained)
    _set(batches.total, batches.total.processed, batches.total.processed)
    batches.is_last_batch = exhausted
    validates = inside and _validates_now(trainer, loader_length)
    if exhausted and not validates:
        inside, epoch = False, epochs.current.started
        _set(epochs.current, epoch, epoch)
    if not inside:
        batches.reset_on_run()
    _set(epochs.total, epoch + inside, epoch)
    if validates and (saved_before_validation or not _finished(loop.val_loop.batch_progress)):
        loop.val_loop.batch_progress.reset()
        _set(loop.val_loop.batch_progress.total, 1, 0)  # by this Lightning knows a validation that has begun
    if trainer.lightning_module.automatic_optimization:
        # the step of the loggers: Lightning adds one behind a validation, and behind one that it leaves out
        loop._batches_that_stepped = trainer.global_step - (validates and not loop._should_accumulate())
    trainer.fit_loop._restarting = loop.restarting = inside  # the fit loop's setter overrules False


def _set(counts: Any, begun: int, done: int) -> None:
    counts.ready = counts.started = begun
    counts.processed = counts.completed = done


def _finished(validation: Any) -> bool:
    return bool(validation.is_last_batch and validation.current.ready == validation.current.completed)


def _validates_now(trainer: Any, loader_length: int) -> bool:
    """Says whether a validation follows the last batch, as Lightning does once it knows the loader."""
    loop = trainer.fit_loop.epoch_loop
    if not loop._should_check_val_epoch() or getattr(trainer, "_val_check_time_interval", None) is not None:
        return False
    every, limit = trainer.val_check_interval, trainer.limit_train_batches
    if isinstance(every, float):
        batches = min(loader_length, limit) if isinstance(limit, int) else int(loader_length * limit)
        every = max(1, int(batches * every))
    by_total = trainer.check_val_every_n_epoch is None
    number = loop.total_batch_idx + 1 if by_total else loop.batch_progress.current.ready
    return bool(number % every == 0)
