"""StopOnSignal: a training that a scheduler wants to end ends on all ranks at once, with everything saved."""

import atexit
import os
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_seq.callbacks.reset_on_fit import ResetOnFit


class StopOnSignal(ResetOnFit):
    """Ends a training at SIGTERM or Ctrl-C after a whole step, the same one on all ranks.

    A signal reaches a rank in the middle of something else. Lightning answers at once, each rank by itself:
    what is saved then may be half a step, and several ranks may wait for each other forever. Here it is only
    noted; ranks ask each other about once in a second, at the end of an optimizer step, and then stop
    together. What is saved then (by LastCheckpoint, say) goes on with the very next batch. It takes the place
    of Lightning's own exchange, for which ranks wait in every batch. A second Ctrl-C ends the training at
    once.

    On SLURM the signal of ``SLURMEnvironment`` (SIGUSR1) does the same, and has the job requeued when this
    process ends: ask for it with ``sbatch --signal=SIGUSR1@120``.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets an earlier training."""
        self._signal: signal.Signals | None = None
        self.stopped_by: signal.Signals | None = None
        """The signal that ended the training, on every rank."""
        self._requeue_signal: signal.Signals | None = None
        self._step = self._steps = 0  # of the training, and since ranks asked each other
        self._interval, self._asked_at = 1, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier training, and its signal even if this one goes on with it."""
        super().setup(trainer, pl_module, stage)
        self._signal = self.stopped_by = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens, in Lightning's stead."""
        self._listen(trainer)
        self._step, self._steps, self._interval, self._asked_at = trainer.global_step, 0, 1, time.monotonic()
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the training if any rank was told to, never within an accumulated step."""
        if trainer.global_step == self._step and (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._step = trainer.global_step
        self._steps += 1
        if trainer.world_size == 1 or self._steps >= self._interval:
            self._stop_together(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets several ranks finish a validation, of which they may have unequal numbers of batches."""
        if trainer.state.fn == "fit" and trainer.world_size > 1:
            trainer._signal_connector.received_sigterm = False

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Ends the training within a validation, where there is one rank."""
        if trainer.state.fn == "fit" and trainer.world_size == 1 and not trainer.sanity_checking:
            self._stop_together(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the training of several ranks, if any was told to before or during the validation."""
        if trainer.state.fn == "fit" and trainer.world_size > 1 and not trainer.sanity_checking:
            self._stop_together(trainer)

    def _listen(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # where no signal can be listened to
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
            signal.signal(self._requeue_signal, self._note)
        signal.signal(signal.SIGTERM, self._note)  # Lightning sets back what there was before
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # in the background of a shell
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self._signal:
            raise KeyboardInterrupt  # somebody is in a hurry
        self._signal = self._signal or signal.Signals(number)  # the first: SIGTERM follows on SIGUSR1

    def _stop_together(self, trainer: Trainer) -> None:
        found = self._signal or 0
        if trainer.world_size > 1:
            found = self._found_by_any(trainer, found)
        if not found:
            return
        trainer._signal_connector.received_sigterm = True  # Lightning stops when this batch is counted
        if self.stopped_by:
            return
        self.stopped_by = signal.Signals(found)
        rank_zero_info(f"{self.stopped_by.name}: the training stops after step {trainer.global_step}")
        if found == self._requeue_signal and trainer.is_global_zero:
            atexit.register(_requeue)  # when all is saved: a requeued job is killed

    def _found_by_any(self, trainer: Trainer, found: int) -> int:
        now = time.monotonic()
        in_a_second = self._steps / max(now - self._asked_at, 1e-3)
        interval = max(1, min(int(in_a_second), 2 * self._interval))
        asked = torch.tensor([found, -interval], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        found, interval = asked.tolist()
        self._steps, self._interval, self._asked_at = 0, -interval, now
        return found


def _requeue() -> None:
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"job {job} could not be requeued ({error}): requeue it by hand, it goes on by itself")
