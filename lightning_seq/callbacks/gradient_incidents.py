"""GradientIncidentRecorder: a black box, which keeps what a step was made of when it goes wrong."""

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_seq import checkpoints
from lightning_seq.callbacks.gradients.groups import parameter_names
from lightning_seq.callbacks.gradients.seam import GradientSeam, GradientStep, watched
from lightning_seq.callbacks.incidents import writing
from lightning_seq.callbacks.incidents.detector import SpikeDetector, Step, Verdict
from lightning_seq.callbacks.incidents.figure import Incident, draw_calm, draw_incident
from lightning_seq.callbacks.incidents.step import StepWindow
from lightning_seq.callbacks.incidents.watch import Watch, name_all
from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.callbacks.step_log import log_at_step
from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.figures import log_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Then = Literal["continue", "skip", "stop"]

_SKIPPED_IN_A_ROW = 10
_DONE = {
    "continue": "the step was made all the same",
    "skip": "the step was left out",
    "stop": "the training stops, and this step was left out",
}


class _Training(NamedTuple):
    """What is under way."""

    trainer: Trainer
    module: LightningModule
    window: StepWindow


class GradientIncidentRecorder(ResetOnFit):
    """Saves what a training step was made of when its loss or gradient is not finite, or jumps.

    A black box: into `incidents/step-000123` of the run directory go the batches of the step (as tensors, and
    as ids and text to be read), the states of random number generators, the norm of every parameter's
    gradient, losses and norms of the steps before, a picture, and a checkpoint of all as it was before the
    step. `lightning-seq replay DIRECTORY` runs the step again and shows where it went wrong, and a training
    goes on from before it, say with a lower learning rate, by `--ckpt_path DIRECTORY/checkpoint.ckpt`.

    An incident is a loss or gradient norm that is NaN or infinite, or one far above those of the last steps.
    Several such steps in a row are one incident, whose first step is saved; ten spikes in a row are a new
    level, to which the recorder gets used. Under 16-mixed precision an infinite gradient is the business of
    the loss scaling, which skips the step, until its scale is down at 1.

    Works with any LightningModule and under DDP and FSDP2: all ranks decide alike. It must know loss and norm
    before the optimizer moves the weights, so every step waits for the device: on a GPU the processor cannot
    queue the next step meanwhile, which costs most where steps are short. Besides, a step takes about half a
    millisecond longer, and its batches stay in memory until it is made. Trained weights are the same with and
    without it, as long as no step is left out.

    Args:
        then: What becomes of such a step: `continue` makes it all the same; `skip` leaves it out, so that it
            changes neither weights nor the optimizer's state; `stop` leaves it out and ends the training.
        threshold: How far above the last steps is too far, in multiples of how far they usually are from
            their median. A lower one finds smaller spikes, and sooner or later some that are none.
        window: How many of the last steps are compared with.
        warmup_steps: First steps that teach what is usual; only what is not finite is an incident there.
        max_incidents: How many are saved in a run directory; each is as large as a checkpoint.

    Attributes:
        history: The incidents, a dict with `step`, `loss`, `norm`, `loss_limit`, `norm_limit` and `steps`
            (how many in a row) for each.
        directories: Where those that were saved are.
    """

    def __init__(
        self,
        then: Then = "continue",
        threshold: float = 10.0,
        window: int = 100,
        warmup_steps: int = 20,
        max_incidents: int = 5,
    ) -> None:
        if then not in get_args(Then):
            hint = did_you_mean(str(then), get_args(Then))
            raise InputError(f"got then={then!r}{hint}, expected one of {', '.join(get_args(Then))}")
        if max_incidents < 0:
            raise InputError(f"got max_incidents={max_incidents}, expected 0 or more")
        self.then, self.max_incidents = then, max_incidents
        self._settings: dict[str, Any] = {
            "threshold": threshold,
            "window": window,
            "warmup_steps": warmup_steps,
        }
        self._seam: GradientSeam | None = None
        self._training: _Training | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets all steps and incidents."""
        self._detector = SpikeDetector(**self._settings)
        self._watches = [Watch(self._detector)]  # of each optimizer
        self.history: list[dict[str, float]] = []
        self.directories: list[str] = []
        self._incidents: list[Incident] = []  # of this process: of those before a resume there is the history
        self._to_log: list[Incident] = []
        self._saving = self._quiet = False
        self._names: dict[int, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins afresh, and opens the seam."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._seam = GradientSeam.of(trainer)
        if self._seam is not None:
            self._seam.listen(self._see, last=True)  # it may take the gradients away
        else:
            plugin = type(trainer.precision_plugin).__name__
            rank_zero_warn(
                f"GradientIncidentRecorder records nothing: {plugin} clips gradients in its own way"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns how many optimizers there are."""
        missing = len(trainer.optimizers) - len(self._watches)
        self._watches += [Watch(SpikeDetector(**self._settings)) for _ in range(missing)]
        if self._seam is not None:
            self._training = _Training(trainer, pl_module, StepWindow(pl_module))

    # -- a step ----------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Holds on to the batch and to the states of random number generators."""
        if self._training is not None:
            self._training.window.begin_batch(trainer, pl_module, batch, batch_idx)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Takes the loss."""
        if self._training is not None:
            self._training.window.add_loss(loss, trainer)

    def _see(self, step: GradientStep) -> None:
        """Decides, between clipping and optimizer."""
        if self._training is None or not watched(self, self._training.trainer):
            return
        trainer, _, window = self._training
        index = next(i for i, each in enumerate(trainer.optimizers) if each is step.optimizer)
        watch, found = self._watches[index], window.measure(trainer, step)
        verdict = watch.detector.judge(found, loss_alone=_is_overflow(found, trainer))
        if verdict.reasons:
            self._meet(self._training, index, step, found, verdict)
        watch.add(step, found, bool(verdict.reasons))
        window.end_step()

    def _meet(
        self, training: _Training, index: int, step: GradientStep, found: Step, verdict: Verdict
    ) -> None:
        """Saves the incident, if it is a new one, and does as ``then`` says."""
        watch = self._watches[index]
        self._names |= parameter_names(training.module)
        if watch.in_a_row:
            self.history[watch.entry]["steps"] += 1
        else:
            norms = dict(zip(name_all(step.parameters, self._names), step.norms.tolist(), strict=True))
            before, layers = list(watch.detector.steps), watch.layers(norms, self._names)
            watch.incident = Incident(found, *verdict, before=before, layers=layers, optimizer=index)
            watch.entry = len(self.history)
            self._save(training, watch.incident, norms)
        if self.then == "skip" and watch.in_a_row == _SKIPPED_IN_A_ROW:
            rank_zero_warn(
                f"GradientIncidentRecorder has left out {watch.in_a_row + 1} steps in a row, and nothing is "
                "learnt: go on from an incident's checkpoint with a lower learning rate, or look at the data"
            )
        if self.then != "continue":
            _drop_gradients(step, training.trainer)
            training.window.undo(training.module)
        if self.then == "stop":
            training.trainer.should_stop = True

    def _save(self, training: _Training, incident: Incident, norms: dict[str, float]) -> None:
        more = {"then": self.then, **self._settings, "parameters": norms}
        self._saving = True
        try:
            problem = writing.save(*training, incident, self.max_incidents, more)
        finally:
            self._saving = False
        loss = math.nan if incident.step.loss is None else incident.step.loss
        limits = {"loss_limit": incident.loss_limit, "norm_limit": incident.norm_limit}
        entry = {"step": float(incident.step.step), "loss": loss, "norm": incident.step.norm, **limits}
        self.history.append({**entry, "steps": 1.0})
        self._incidents.append(incident)
        self._to_log.append(incident)
        if incident.directory:
            self.directories.append(incident.directory)
        self._tell(incident, problem)

    def _tell(self, incident: Incident, problem: str) -> None:
        if problem and self._quiet:
            return
        self._quiet = bool(problem)
        where = f"to run it again: lightning-seq replay {incident.directory}"
        if problem:
            where = f"nothing is saved, and later incidents are only counted: {problem}"
        what = f"step {incident.step.step}: {'; '.join(incident.reasons)}; {_DONE[self.then]}"
        rank_zero_warn(f"GradientIncidentRecorder: {what}; {where}")

    # -- logging and pictures --------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs an incident, and lets go of the batches of a step that is done."""
        if self._training is not None:
            self._training.window.end_batch(trainer, pl_module)
        to_log, self._to_log = self._to_log, []
        for incident in to_log:
            self._log(trainer, incident)

    def _log(self, trainer: Trainer, incident: Incident) -> None:
        """Logs numbers and picture."""
        metrics = {"incidents/count": float(len(self.history)), "incidents/norm": incident.step.norm}
        if incident.step.loss is not None:
            metrics["incidents/loss"] = incident.step.loss
        log_at_step(trainer, metrics, incident.step.step)
        if trainer.is_global_zero and trainer.loggers:
            figure = draw_incident(incident)
            for logger in trainer.loggers:
                log_figure(logger, "incident", figure, incident.step.step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the pictures of the incidents again, with what came after."""
        for incident in self._incidents:
            writing.redraw(incident)

    def figure(self) -> "Figure":
        """Draws the last incident, or the last steps where there was none.

        Raises:
            InputError: No step was seen.
        """
        if self._incidents:
            return draw_incident(self._incidents[-1])
        steps = list(self._detector.steps)
        if not steps:
            raise InputError("got a recorder that has seen no gradient, expected one after training steps")
        return draw_calm(steps, self._detector.limits())

    def summary(self) -> str:
        """What happened, in one short line."""
        if not self.history:
            return "no loss or gradient stood out"
        first = f"the first at step {int(self.history[0]['step']):,}"
        count = f"{len(self.history):,} incident{'s' if len(self.history) > 1 else ''}"
        return f"{count}, {first}" + (f": {self.directories[0]}" if self.directories else "")

    # -- the end, and checkpoints ----------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the seam."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the seam, for Lightning tears nothing down then."""
        self._leave()

    def _leave(self) -> None:
        if self._seam is not None:
            self._seam.leave(self._see)
            self._seam = self._training = None
            for watch in self._watches:
                watch.forget()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lets the checkpoint of an incident say which class wrote it, whosever that is."""
        if self._saving:
            checkpoint.setdefault(checkpoints.KEY, checkpoints.describe(pl_module, None))

    def state_dict(self) -> dict[str, Any]:
        """The last steps and the history: plain numbers."""
        return {"watches": [watch.state_dict() for watch in self._watches], "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the checkpoint stopped."""
        self.history = [dict(entry) for entry in state_dict["history"]]
        missing = len(state_dict["watches"]) - len(self._watches)
        self._watches += [Watch(SpikeDetector(**self._settings)) for _ in range(missing)]
        for watch, state in zip(self._watches, state_dict["watches"], strict=False):
            watch.load_state_dict(state)


def _is_overflow(found: Step, trainer: Trainer) -> bool:
    """Says whether the loss scaling of half precision is at work: it leaves the step out, and scales less."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler is not None and not math.isfinite(found.norm) and scaler.get_scale() > 1


def _drop_gradients(step: GradientStep, trainer: Trainer) -> None:
    """Leaves the optimizer nothing to do: parameters without a gradient keep their values and their state."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and getattr(step.optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(step.optimizer)  # looks for infinities, while there is something to look at
    for group in step.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
