"""GradientClippingMonitor: how large gradients are, what clipping makes of them, and whether it helps."""

import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_seq.callbacks.gradients.advice import advise, limit
from lightning_seq.callbacks.gradients.clipping_figure import draw_clipping, drawable
from lightning_seq.callbacks.gradients.groups import GroupBy, check_group_by, group_names, sums_by_group
from lightning_seq.callbacks.gradients.ledger import ClippingLedger, Row
from lightning_seq.callbacks.gradients.out_of_sight import out_of_sight
from lightning_seq.callbacks.gradients.seam import GradientSeam, GradientStep, watched
from lightning_seq.callbacks.gradients.update_sizes import UpdateSizes
from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.callbacks.step_log import log_at_step, logging_step
from lightning_seq.errors import InputError
from lightning_seq.figures import log_figure, log_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PENDING = 1000  # steps that wait to be read off the device


class GradientClippingMonitor(ResetOnFit):
    """Logs the norm of the gradient and what clipping makes of it, and says whether the clip value is good.

    Works with any LightningModule: clipped by norm, by value, by AutoClip or ZClip, by a
    configure_gradient_clipping of its own, or not at all; optimized automatically or manually. The norm is
    that of the whole gradient that the optimizer is about to use: accumulated, unscaled, over all ranks. At
    every `trainer.log_every_n_steps` it logs, of the last step unless it says so,

    - `grad/norm` and `grad/norm_clipped`: before and after clipping;
    - `grad/clip_threshold`, and `grad/clip_coefficient`: what the gradient was multiplied with;
    - `grad/clipped_share`, `grad/clipped_share_recent`: the share of clipped steps, of all and the last 100;
    - `grad/nonfinite_steps`: how many gradients held a NaN or an infinity, so far;
    - `grad/norm/GROUP`: the norm before clipping of a group of parameters, such as a layer;
    - `grad/update_ratio` and `grad/update_ratio/GROUP`: how far the step moved the weights, over their size;
      of large parameters on a sample of 1,024 elements. About 0.001 is usual.

    Without clipping the keys that speak of it are left out; with several optimizers the keys of each begin
    with `grad/optimizer0` and so on. `grad/clipping` is a picture of all of it, logged with the advice.

    Clipping by hand with torch, in manual optimization or in a hook such as on_after_backward, is out of
    sight: norms are then those after it, and the advice says so.

    Every step counts, and none waits for the device but those that log. Trained weights are the same with
    and without it. Where an engine clips out of sight (FSDP1) it says so and logs nothing; of DeepSpeed it
    logs the engine's own norm.

    Args:
        group_by: `layer`, `parameter`, a function from a parameter's name to its group's, or null for none.
        update_ratio: Whether to log how far steps move the weights.
        advise_after: The step that brings the first advice and picture; the last come when training ends.

    Attributes:
        history: What was logged, a dict with `step` for every log step.
        ledgers: Counts and norms, of each optimizer; kept in checkpoints.
    """

    def __init__(
        self, group_by: GroupBy = "layer", update_ratio: bool = True, advise_after: int | None = 200
    ) -> None:
        check_group_by(group_by)
        if advise_after is not None and advise_after < 1:
            raise InputError(f"got advise_after={advise_after}, expected a step, 1 or more, or None")
        self.group_by, self.update_ratio, self.advise_after = group_by, update_ratio, advise_after
        self._seam: GradientSeam | None = None
        self._trainer: Trainer | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets all steps."""
        self.history: list[dict[str, float]] = []
        self.ledgers: list[ClippingLedger] = [ClippingLedger()]
        self._groups: dict[int, str] = {}  # of parameters, by their ids
        self._pending: list[GradientStep] = []
        self._last: dict[int, tuple[Row, dict[str, float]]] = {}  # read, and not logged yet
        self._updates: dict[int, UpdateSizes] = {}
        self._warned = self._advised = False
        self._advised_at = 0
        self._step: int | None = None  # where the numbers of the last step are logged

    @property
    def state_key(self) -> str:
        """One for each way of grouping: a trainer may have several of these."""
        return self._generate_state_key(group_by=getattr(self.group_by, "__qualname__", self.group_by))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins afresh, and opens the seam."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._trainer = trainer
        self._seam = GradientSeam.of(trainer)
        if self._seam is not None:
            self._seam.listen(self._see)
        elif not hasattr(trainer.strategy, "deepspeed_engine"):
            self._warn_once(f"{type(trainer.precision_plugin).__name__} clips gradients in its own way")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns how many optimizers there are."""
        missing = len(trainer.optimizers) - len(self.ledgers)
        self.ledgers += [ClippingLedger() for _ in range(missing)]
        for ledger in self.ledgers:
            ledger.manual = not pl_module.automatic_optimization
            ledger.out_of_sight = out_of_sight(trainer, pl_module)

    def _see(self, step: GradientStep) -> None:
        """Takes note, and reads nothing: that would wait for the device."""
        assert self._trainer is not None
        if not watched(self, self._trainer):
            return
        self._pending.append(step)
        if self.group_by is not None and any(id(each) not in self._groups for each in step.parameters):
            # only here are those of the module sure to be the optimizer's: FSDP2 puts others in their place
            names = group_names(self._trainer.lightning_module, self.group_by)
            self._groups = {id(each): "other" for each in step.parameters} | names | self._groups
        if self.update_ratio and _is_log_step(self._trainer):
            self._updates[self._index(step)] = UpdateSizes(step.parameters)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs at log steps."""
        if trainer.fit_loop._should_accumulate():
            return  # the step is yet to come
        self._step = logging_step(trainer)
        if engine := getattr(trainer.strategy, "deepspeed_engine", None):
            self._log_norm_of(engine, trainer)
        elif (self._pending or self._last) and _is_log_step(trainer):
            self._log(trainer)
            self._advise_in_time(trainer)
        elif len(self._pending) >= _MOST_PENDING:
            self._read()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the last advice."""
        self._read()
        if self._advised_at != self.ledgers[0].steps:
            self._advise(trainer)

    # -- reading and logging ---------------------------------------------------------------------------

    def _index(self, step: GradientStep) -> int:
        assert self._trainer is not None
        return next(i for i, each in enumerate(self._trainer.optimizers) if each is step.optimizer)

    def _read(self) -> None:
        """Enters what is pending into the ledgers, and keeps each optimizer's last row and squares."""
        pending, self._pending = self._pending, []
        for step, values in zip(pending, _numbers(pending), strict=True):
            index = self._index(step)
            row = Row(*values[:3])
            names = [self._groups.get(id(parameter), "other") for parameter in step.parameters]
            squares = sums_by_group(names, (value**2 for value in values[3:])) if self._groups else {}
            self.ledgers[index].algorithm = step.algorithm
            self.ledgers[index].add(row, squares)
            self._last[index] = row, squares

    def _log(self, trainer: Trainer) -> None:
        metrics: dict[str, float] = {}
        several = len(trainer.optimizers) > 1
        self._read()
        last, self._last = self._last, {}
        for index, (row, squares) in last.items():
            found = _metrics(row, squares, self.ledgers[index])
            if index in self._updates:
                found |= self._update_ratios(self._updates.pop(index), trainer)
            prefix = f"grad/optimizer{index}" if several else "grad"
            metrics |= {f"{prefix}/{key}": value for key, value in found.items()}
        self._updates.clear()
        self._send(metrics, trainer)

    def _send(self, metrics: dict[str, float], trainer: Trainer) -> None:
        self.history.append({"step": logging_step(trainer), **metrics})
        log_at_step(trainer, metrics)

    def _update_ratios(self, updates: UpdateSizes, trainer: Trainer) -> dict[str, float]:
        squares = updates.squares()  # (parameters, 2)
        if updates.sharded:
            weights = torch.tensor(updates.weights(trainer.world_size)).to(squares)
            squares = trainer.strategy.reduce(squares * weights[:, None], reduce_op="sum")
        moved, sizes = squares.T.tolist()
        ratios = {"update_ratio": _ratio(sum(moved), sum(sizes))}
        if self._groups:
            names = [self._groups.get(id(parameter), "other") for parameter in updates.parameters]
            by_group = zip(
                sums_by_group(names, moved).items(), sums_by_group(names, sizes).values(), strict=True
            )
            ratios |= {f"update_ratio/{name}": _ratio(change, size) for (name, change), size in by_group}
        return ratios

    def _log_norm_of(self, engine: Any, trainer: Trainer) -> None:
        """Takes DeepSpeed's word: its gradients are out of sight."""
        norm = engine.get_global_grad_norm()
        if norm is not None and _is_log_step(trainer):
            ledger, limit = self.ledgers[0], trainer.gradient_clip_val  # which Lightning hands to the engine
            ledger.algorithm = "norm" if limit else None
            row = Row(float(norm), min(float(norm), limit or math.inf), float(limit or math.nan))
            ledger.add(row, {})
            metrics = _metrics(row, {}, ledger)
            self._send({f"grad/{key}": value for key, value in metrics.items()}, trainer)

    # -- advice ----------------------------------------------------------------------------------------

    def advice(self) -> str:
        """What to make of the clip value, in one line for each optimizer."""
        self._read()
        found = [(index, advise(ledger)) for index, ledger in enumerate(self.ledgers)]
        several = len(self.ledgers) > 1
        lines = [f"optimizer {i}: {each}" if several else str(each) for i, each in found if each is not None]
        return "\n".join(lines) or "no gradient norm was seen"

    def figure(self) -> "Figure":
        """Draws the norms' distribution against the threshold, the norms over time, and who causes them."""
        self._read()
        return draw_clipping(self.ledgers)

    def _advise_in_time(self, trainer: Trainer) -> None:
        due = self.advise_after is not None and self.ledgers[0].steps >= self.advise_after
        if due and not self._advised:
            self._advised = True
            self._advise(trainer)

    def _advise(self, trainer: Trainer) -> None:
        if not any(ledger.rows for ledger in self.ledgers):
            return
        self._advised_at = self.ledgers[0].steps
        rank_zero_info(f"GradientClippingMonitor: {self.advice()}")
        if trainer.is_global_zero and trainer.loggers and any(map(drawable, self.ledgers)):
            figure = self.figure()
            step = logging_step(trainer) if self._step is None else self._step
            for logger in trainer.loggers:
                log_figure(logger, "grad/clipping", figure, step)
                log_line(logger, "grad/advice", self.advice(), step)

    def summary(self) -> str:
        """What happened, in one short line."""
        self._read()
        ledger = self.ledgers[0]
        if not ledger.rows:
            return "no gradient norm was seen"
        end = f"gradient norm {ledger.rows[-1].norm:.3g} at the end"
        if ledger.algorithm is None:
            seen = " seen" if ledger.manual or ledger.out_of_sight else ""
            return f"{end}, no clipping{seen} in {ledger.steps:,} steps"
        return f"{end}, {ledger.clipped_share:.0%} of {ledger.steps:,} steps clipped at {limit(ledger)}"

    # -- the end, and checkpoints ----------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the seam."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the seam, for Lightning tears nothing down then."""
        self._leave()

    def _leave(self) -> None:
        if self._seam is not None:
            self._read()
            self._seam.leave(self._see)
            self._seam = self._trainer = None
            self._last.clear()

    def state_dict(self) -> dict[str, Any]:
        """The ledgers."""
        self._read()
        return {"ledgers": [ledger.state_dict() for ledger in self.ledgers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting where the checkpoint stopped."""
        self._pending.clear()
        self._last.clear()
        self.ledgers = [ClippingLedger() for _ in state_dict["ledgers"]]
        for ledger, state in zip(self.ledgers, state_dict["ledgers"], strict=True):
            ledger.load_state_dict(state)

    def _warn_once(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"GradientClippingMonitor cannot see gradient norms and logs none: {why}")


def _numbers(steps: list[GradientStep]) -> list[list[float]]:
    """Moves the steps off the device at once: norms, clipped norms, thresholds, parameters' norms."""
    if not steps:
        return []
    device = steps[0].norm.device
    parts = []
    for step in steps:
        threshold = torch.as_tensor(math.nan if step.threshold is None else step.threshold)
        few = [step.norm, step.norm_clipped, threshold.to(step.norm)]
        parts.append(torch.cat([torch.stack(few), step.norms]).to(device))
    numbers = iter(torch.cat(parts).tolist())
    return [[next(numbers) for _ in part] for part in parts]


def _metrics(row: Row, squares: dict[str, float], ledger: ClippingLedger) -> dict[str, float]:
    metrics = {"norm": row.norm, "nonfinite_steps": float(ledger.nonfinite)}
    if ledger.algorithm is not None:
        metrics |= {
            "norm_clipped": row.norm_clipped,
            "clip_coefficient": row.norm_clipped / row.norm if row.norm else 1.0,
            "clipped_share": ledger.clipped_share,
            "clipped_share_recent": ledger.clipped_share_recent,
        }
        if not math.isnan(row.threshold):
            metrics["clip_threshold"] = row.threshold
    return metrics | {f"norm/{group}": math.sqrt(square) for group, square in squares.items()}


def _ratio(change: float, size: float) -> float:
    return math.sqrt(change / size) if size else math.nan


def _is_log_step(trainer: Trainer) -> bool:
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0
