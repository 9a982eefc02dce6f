"""RecurrentStateMonitor: what gates and hidden states of recurrent layers do while they learn."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from lightning_seq.callbacks.probe import Entry, Example, ModelCall, Probe, sequences_of
from lightning_seq.callbacks.recurrent_state_figure import draw_recurrent_states
from lightning_seq.errors import InputError
from lightning_seq.networks.base import check_sizes
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.recurrent_measures import summarize
from lightning_seq.networks.recurrent_states import recurrent_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RecurrentStateMonitor(Probe):
    """Shows how long each recurrent layer remembers, which gates are stuck, and which units are dead.

    Works with any LightningModule that runs nn.LSTM, nn.GRU or nn.RNN, however its validation step calls it,
    and with this package's minGRU and minLSTM; training goes on as without it. It runs the model on the same
    few examples every time, each from no past, also where training carries its state from batch to batch.
    They are the first rows of the first validation batch; where every_n_steps asks before any validation, of
    the first training batch. Per layer, `layer0` being the first to run (`layer0_reverse` its backward
    direction), it logs

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
    time that there are three times as many measurements; `figure()` gives it at any time. It begins with the
    weights before the first step, if the trainer's sanity check has brought the examples by then. A model
    without recurrent layers is told of once, and nothing is logged.

    Attributes:
        history: What was measured, oldest first: dicts of what was logged, and `step`, the training step.

    Args:
        every_n_steps: Look every so many training steps. By default in every validation instead.
        n_sequences: How many examples to look at, as far as the first batch has them.
        max_tokens: How much of each example to look at: its first tokens.
        call: How to run the model on a batch, ``call(module, batch)`` (default: as its own validation step
            calls its network, or else ``module(inputs)``).
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        n_sequences: int = 4,
        max_tokens: int = 256,
        call: ModelCall | None = None,
    ) -> None:
        check_sizes(n_sequences=n_sequences)
        check_sizes(2, max_tokens=max_tokens)
        super().__init__(every_n_steps, call, n_sequences=n_sequences, max_tokens=max_tokens)
        self.n_sequences, self.max_tokens = n_sequences, max_tokens

    def take(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Example:
        """Returns the beginnings of the first examples of a batch."""
        return {"inputs": sequences_of(batch)[: self.n_sequences, : self.max_tokens].detach().clone()}

    def cut(self, call: NetworkCall, batch: Any, example: Example) -> NetworkCall:
        """Returns the call for the beginnings of the first examples."""
        return call.cut(slice(self.n_sequences), 0, self.max_tokens)

    def look(self, trainer: Trainer, pl_module: LightningModule, example: Example) -> Entry:
        """Returns what the gates and states of each layer do."""
        measured = summarize(recurrent_states(pl_module, example["inputs"], call=self.network_call))
        if not measured:
            name = type(pl_module).__name__
            return self._nothing_there(f"{name} runs no nn.LSTM, nn.GRU, nn.RNN, minGRU or minLSTM")
        return {f"recurrent/{key}": value for key, value in measured.items()}

    def pictures(self) -> dict[str, "Figure"]:
        """Returns the picture of all that was measured."""
        return {"recurrent/states": self.figure()}

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
