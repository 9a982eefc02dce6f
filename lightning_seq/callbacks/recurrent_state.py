"""RecurrentStateMonitor: what gates and hidden states of recurrent layers do while they learn."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_seq.callbacks.probe import inputs_of, undisturbed
from lightning_seq.callbacks.recurrent_state_figure import draw_recurrent_states
from lightning_seq.callbacks.step_log import log_at_step
from lightning_seq.errors import InputError
from lightning_seq.figures import log_figure
from lightning_seq.networks.recurrent_measures import summarize
from lightning_seq.networks.recurrent_states import recurrent_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RecurrentStateMonitor(Callback):
    """Shows how long each recurrent layer remembers, which gates are stuck, and which units are dead.

    Works with any LightningModule whose `model(inputs)` runs nn.LSTM, nn.GRU or nn.RNN, and with this
    package's minGRU and minLSTM; training goes on as without it. It runs the model on the same few examples
    every time, each from no past, also where training carries its state from batch to batch. They are the
    first rows of the first validation batch; where every_n_steps asks before any validation, of the first
    training batch. Per layer, `layer0` being the first to run (`layer0_reverse` its backward direction), it
    logs

    - `recurrent/layer0/<gate>_open` and `recurrent/layer0/<gate>_closed`: the share of the gate's values
      above 0.95 and below 0.05. Gates of an LSTM are `forget` (open: the cell keeps what it has), `input`
      and `output`; of a GRU `update` (open: the state is replaced; torch's 1 - z) and `reset`; of minGRU
      `update`; of minLSTM `forget`.
    - `recurrent/layer0/half_life`: tokens after which the forget or update gates have let half of the memory
      of the median unit go, 1,000,000 at most. What a unit gets back through other weights is not counted.
    - `recurrent/layer0/half_life_p90`: the same for the unit that a tenth of the units outlast.
    - `recurrent/layer0/hidden_norm`, `recurrent/layer0/cell_norm` (LSTM): Euclidean norm of the state, the
      mean over tokens. It grows with the square root of the width.
    - `recurrent/layer0/dead_units`: the share of units whose state hardly varies over the second half of the
      examples: a hundredth as much as the mean unit, or a thousandth of the layer's mean absolute value.
    - `recurrent/layer0/saturated`: of a tanh RNN, the share of states beyond ±0.95.
    - `recurrent/layer0/zeros`: of a ReLU RNN, the share of states that are 0.

    `recurrent/states` is a picture of all this over the whole training: drawn at its end and, before, each
    time that the number of measurements has doubled; `figure()` gives it at any time. It begins with the
    weights before the first step, if the trainer's sanity check has brought the examples by then. A model
    without recurrent layers is told of once, and nothing is logged.

    Attributes:
        history: What was measured, oldest first: dicts of what was logged, and `step`, the training step.

    Args:
        every_n_steps: Look every so many training steps. By default at the end of every validation instead.
        n_sequences: How many examples to look at, as far as the first batch has them.
        max_tokens: How much of each example to look at: its first tokens.
    """

    def __init__(self, every_n_steps: int | None = None, n_sequences: int = 4, max_tokens: int = 256) -> None:
        for name, value, least in (
            ("every_n_steps", every_n_steps, 1),
            ("n_sequences", n_sequences, 1),
            ("max_tokens", max_tokens, 2),
        ):
            if value is not None and value < least:
                raise InputError(f"RecurrentStateMonitor got {name}={value}, expected at least {least}")
        self.every_n_steps = every_n_steps
        self.n_sequences = n_sequences
        self.max_tokens = max_tokens
        self.history: list[dict[str, float]] = []
        self._inputs: Tensor | None = None
        self._silent = False
        self._drawn = 0

    def figure(self) -> "Figure":
        """Returns the picture of what was measured so far.

        Raises:
            InputError: Nothing was.
        """
        if not self.history:
            raise InputError(
                "RecurrentStateMonitor has measured nothing yet: train a model with recurrent layers until a "
                "validation has ended, or give every_n_steps"
            )
        return draw_recurrent_states(self.history)

    # -- examples -------------------------------------------------------------------------------------

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first examples that come by."""
        self._keep(batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first examples, where no validation brought any."""
        if self.every_n_steps is not None:
            self._keep(batch)

    def _keep(self, batch: Any) -> None:
        if self._inputs is not None or self._silent:
            return
        inputs = inputs_of(batch)
        if inputs is None or inputs.dim() < 2:
            got = type(batch).__name__ if inputs is None else f"inputs of shape {tuple(inputs.shape)}"
            self._stop(
                "expected batches that are a tensor (batch, time), a tuple that begins with one, or a dict "
                f"with one as 'inputs' or 'input_ids', got {got}"
            )
            return
        self._inputs = inputs[: self.n_sequences, : self.max_tokens].detach().clone()

    # -- looking --------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the weights that training begins with, for the picture alone."""
        if not self.history:
            self._look(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks, logs and draws."""
        steps = self.every_n_steps is not None and trainer.state.fn == "fit"
        if trainer.sanity_checking or steps:
            return
        if numbers := self._look(trainer, pl_module):
            # the rank's own examples: without a collective, which a rank that saw no batch would not reach
            # (sync_dist only keeps Lightning from asking for one)
            pl_module.log_dict(numbers, batch_size=1, sync_dist=True, rank_zero_only=True)
            self._draw(trainer, 2 * self._drawn)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks, logs and draws, every so many steps."""
        if self.every_n_steps is None:
            return
        last = self.history[-1]["step"] if self.history else 0
        if trainer.global_step // self.every_n_steps <= last // self.every_n_steps:
            return
        if numbers := self._look(trainer, pl_module):
            log_at_step(trainer, numbers)
            self._draw(trainer, 2 * self._drawn)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what was not drawn yet."""
        self._draw(trainer, self._drawn + 1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws what was not drawn yet: training may have been stopped by hand."""
        self._draw(trainer, self._drawn + 1)

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Returns what to log, and adds it to the history."""
        if self._silent or self._inputs is None:
            return {}
        name = type(pl_module).__name__
        try:
            with undisturbed(pl_module), trainer.precision_plugin.val_step_context():
                measured = summarize(recurrent_states(pl_module, self._inputs.to(pl_module.device)))
        except Exception as error:  # somebody else's forward: a measurement is not worth a training
            self._stop(f"{name}(inputs) with inputs of shape {tuple(self._inputs.shape)} failed: {error!r}")
            return {}
        if not measured:
            self._silent = True
            rank_zero_info(
                f"RecurrentStateMonitor: {name} runs no nn.LSTM, nn.GRU, nn.RNN, minGRU or minLSTM; "
                "nothing is logged"
            )
            return {}
        numbers = {f"recurrent/{key}": value for key, value in measured.items()}
        if self.history and self.history[-1]["step"] == trainer.global_step:  # validated once more
            self.history.pop()
        self.history.append({"step": trainer.global_step, **numbers})
        return numbers

    def _draw(self, trainer: Trainer, least: int) -> None:
        """Draws if there are that many measurements: a picture has all before it, and costs many probes."""
        if len(self.history) < max(least, 1):
            return
        self._drawn = len(self.history)
        if trainer.is_global_zero and trainer.loggers:
            figure = self.figure()
            for logger in trainer.loggers:
                log_figure(logger, "recurrent/states", figure, int(self.history[-1]["step"]))

    def _stop(self, why: str) -> None:
        self._silent = True
        rank_zero_warn(f"RecurrentStateMonitor sees nothing and logs nothing: {why}")

    # -- checkpoint -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history, as plain numbers."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the history of the checkpoint."""
        self.history = [dict(entry) for entry in state_dict["history"]]
