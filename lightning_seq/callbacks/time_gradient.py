"""TimeGradientMonitor: how far back in time gradients reach, and how training changes that."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_seq.callbacks.probe import undisturbed
from lightning_seq.callbacks.step_log import log_at_step
from lightning_seq.callbacks.time_gradient_example import Example, example_of
from lightning_seq.callbacks.time_gradient_figure import draw_training, factor
from lightning_seq.errors import InputError
from lightning_seq.figures import log_figure
from lightning_seq.networks.base import check_sizes
from lightning_seq.networks.gradient_decay import TimeGradient
from lightning_seq.networks.time_gradient import FEWEST_TOKENS, find_embedding, time_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TimeGradientMonitor(Callback):
    """Measures how far back the gradient of a loss reaches, and draws how that changes with training.

    It takes a few sequences of the validation data, the same ones all the time, and the loss of one token in
    each: how large is its gradient at the input one token earlier, two, three and so on? Where it vanishes
    nothing can be learnt about what lies farther back, and where it explodes training breaks.

    Works with any LightningModule whose `model(tokens)` gives logits `(batch, time, vocab)` and that has an
    nn.Embedding; weights, gradients and random numbers of the training stay as they are. It logs

    - `time_gradient/decay_per_step`: the factor of one more token, 1 where nothing is lost;
    - `time_gradient/half_life`: tokens until half of the gradient at lag 1 is left;
    - `time_gradient/horizon`: tokens beyond which less than 1% of it is left;
    - `time_gradient/curves`: one picture with a curve for each measurement so far, drawn after the first,
      second, fourth, eighth and so on, and when training ends.

    A half-life or horizon beyond what is looked at is logged as its length, so that there is always a number:
    read that one as "at least". In `history` it is infinite.

    Args:
        every_n_steps: Measure after so many optimizer steps, a multiple of trainer.log_every_n_steps; by
            default at the end of every validation.
        n_sequences: How many sequences to average over.
        max_lag: How many tokens to look back at most.
        at: Name of the submodule that embeds the inputs (default: the first nn.Embedding of the model).
        exact: Whether to take the gradient at the states of nn.RNN, nn.GRU and nn.LSTM, which is what
            textbooks speak of, in place of the inputs. Lags are then spaced by their logarithm.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        n_sequences: int = 8,
        max_lag: int = 128,
        at: str | None = None,
        exact: bool = False,
    ) -> None:
        check_sizes(n_sequences=n_sequences, every_n_steps=1 if every_n_steps is None else every_n_steps)
        check_sizes(FEWEST_TOKENS - 1, max_lag=max_lag)
        self.every_n_steps = every_n_steps
        self.n_sequences, self.max_lag = n_sequences, max_lag
        self.at, self.exact = at, exact
        self.history: list[dict[str, Any]] = []
        self._example: Example | None = None
        self._drawn = 0
        self._stopped = self._warned = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses the name of a submodule that is none."""
        if self.at:
            find_embedding(pl_module, self.at)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first sequences that come by."""
        self._keep(batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first sequences, where no validation came before the first measurement."""
        if self.every_n_steps is not None:
            self._keep(batch)

    def _keep(self, batch: Any) -> None:
        if self._example is not None or self._stopped:
            return
        self._example = example_of(batch, self.n_sequences, self.max_lag)
        if self._example is None:
            self._stop(
                f"expected batches with `inputs` (batch, time) of {FEWEST_TOKENS} or more ids, got "
                f"{type(batch).__name__}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the weights that training begins with, for the picture alone."""
        if self._example is not None and not self.history:
            self._measure(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, logs and draws."""
        steps = self.every_n_steps is not None and trainer.state.fn == "fit"
        if trainer.sanity_checking or steps:
            return
        if found := self._measure(trainer, pl_module):
            # the rank's own sequences: without a collective, for which sync_dist keeps Lightning from asking
            pl_module.log_dict(_metrics(found), batch_size=1, sync_dist=True, rank_zero_only=True)
            self._draw_in_time(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures, logs and draws, where it is to do so after a number of steps."""
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or not step:
            return
        if self.history and self.history[-1]["step"] == step:  # it accumulates
            return
        if found := self._measure(trainer, pl_module):
            log_at_step(trainer, _metrics(found))
            self._draw_in_time(trainer)

    def _draw_in_time(self, trainer: Trainer) -> None:
        if len(self.history) >= 2 * self._drawn:  # each has all that was in the last, and costs ten probes
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what was not drawn yet."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws what was not drawn yet: training may have been stopped by hand."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or self._drawn == len(self.history):
            return
        self._drawn = len(self.history)
        if not trainer.loggers:
            return
        figure = self.figure()
        for logger in trainer.loggers:
            log_figure(logger, "time_gradient/curves", figure, self.history[-1]["step"])

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> TimeGradient | None:
        if self._example is None or self._stopped:
            return None
        try:
            with undisturbed(pl_module), trainer.precision_plugin.val_step_context():
                inputs, targets = (each.to(pl_module.device) for each in self._example)
                found = time_gradient(pl_module, inputs, targets, self.at, self.exact)
        except InputError as error:  # such as weights that diverged: those of the next time may do
            self._warn(f"{error}")
            return None
        except Exception as error:  # somebody else's forward: a picture is not worth a training
            name = type(pl_module).__name__
            self._stop(
                f"{name}(tokens) with tokens of shape {tuple(self._example.inputs.shape)} failed: {error!r}"
            )
            return None
        if self.history and self.history[-1]["step"] == trainer.global_step:
            self.history.pop()
        self.history.append({"step": trainer.global_step, **vars(found)})
        return found

    def figure(self) -> "Figure":
        """Draws a curve for each measurement so far.

        Raises:
            InputError: There is none.
        """
        if not self.history:
            raise InputError(
                "TimeGradientMonitor has measured nothing yet: give it to a Trainer that validates, or give "
                "every_n_steps"
            )
        return draw_training(self.history, "state" if self.exact else "input")

    def summary(self) -> str:
        """What was measured, in one line."""
        if not self.history:
            return "no gradient through time was measured"
        last = self.history[-1]
        reach = last["lags"][-1]
        far = f"1% is left after {last['horizon']:.0f}" if last["horizon"] < reach else f"over 1% at {reach}"
        return f"{factor(last['decay_per_step'])} per token, {far} tokens"

    def state_dict(self) -> dict[str, Any]:
        """The measurements and the sequences, as plain numbers."""
        example = None if self._example is None else [each.tolist() for each in self._example]
        sizes = [self.n_sequences, self.max_lag]
        return {"history": list(self.history), "example": example, "sizes": sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the picture, and with its sequences unless others are asked for."""
        self.history = list(state_dict["history"])
        example = state_dict["example"]
        if example is not None and state_dict["sizes"] == [self.n_sequences, self.max_lag]:
            self._example = Example(*map(torch.tensor, example))

    def _stop(self, why: str) -> None:
        self._stopped = True
        self._warn(why)

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"TimeGradientMonitor logs nothing: {why}")


def _metrics(found: TimeGradient) -> dict[str, float]:
    reach = float(found.lags[-1])
    return {
        "time_gradient/decay_per_step": found.decay_per_step,
        "time_gradient/half_life": min(found.half_life, reach),
        "time_gradient/horizon": min(found.horizon, reach),
    }
