"""TimeGradientMonitor: how far back in time gradients reach, and how training changes that."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from lightning_seq.callbacks.probe import Entry, Example, ModelCall, Probe
from lightning_seq.callbacks.time_gradient_example import example_of
from lightning_seq.callbacks.time_gradient_figure import draw_training, factor
from lightning_seq.errors import InputError
from lightning_seq.networks.base import check_sizes
from lightning_seq.networks.embedded_inputs import find_embedding
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.time_gradient import FEWEST_TOKENS, time_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TimeGradientMonitor(Probe):
    """Measures how far back the gradient of a loss reaches, and draws how that changes with training.

    It takes a few sequences of the validation data, the same ones all the time, and the loss of one token in
    each: how large is its gradient at the input one token earlier, two, three and so on? Where it vanishes
    nothing can be learnt about what lies farther back, and where it explodes training breaks.

    Works with any LightningModule whose network gives logits `(batch, time, vocab)` and has an nn.Embedding,
    however its validation step calls it; weights, gradients and random numbers of the training stay as they
    are. It logs

    - `time_gradient/decay_per_step`: the factor of one more token, 1 where nothing is lost;
    - `time_gradient/half_life`: tokens until half of the gradient at lag 1 is left;
    - `time_gradient/horizon`: tokens beyond which less than 1% of it is left;
    - `time_gradient/curves`: one picture with a curve for each measurement so far, drawn at the first,
      each time that there are three times as many, and when training ends.

    A half-life or horizon beyond what is looked at is logged as its length, so that there is always a number:
    read that one as "at least". In `history` it is infinite.

    Args:
        every_n_steps: Measure after so many optimizer steps; by default in every validation.
        n_sequences: How many sequences to average over.
        max_lag: How many tokens to look back at most.
        at: Name of the submodule that embeds the inputs (default: the first nn.Embedding of the model).
        exact: Whether to take the gradient at the states of nn.RNN, nn.GRU and nn.LSTM, which is what
            textbooks speak of, in place of the inputs. Lags are then spaced by their logarithm.
        call: How to run the model on a batch, ``call(module, batch)``, which returns logits (default: as its
            own validation step calls its network, or else ``module(inputs)``).
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        n_sequences: int = 8,
        max_lag: int = 128,
        at: str | None = None,
        exact: bool = False,
        call: ModelCall | None = None,
    ) -> None:
        check_sizes(n_sequences=n_sequences)
        check_sizes(FEWEST_TOKENS - 1, max_lag=max_lag)
        super().__init__(every_n_steps, call, n_sequences=n_sequences, max_lag=max_lag)
        self.n_sequences, self.max_lag = n_sequences, max_lag
        self.at, self.exact = at, exact

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses the name of a submodule that is none."""
        if self.at:
            find_embedding(pl_module, self.at)

    def take(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Example:
        """Returns the first sequences of a batch, and what follows each."""
        example = example_of(batch, self.n_sequences, self.max_lag)
        if example is None:
            raise InputError(
                f"expected batches with `inputs` (batch, time) of {FEWEST_TOKENS} or more ids, got "
                f"{type(batch).__name__}"
            )
        return {"inputs": example.inputs, "targets": example.targets}

    def cut(self, call: NetworkCall, batch: Any, example: Example) -> NetworkCall:
        """Returns the call for the same sequences, up to the token whose loss is looked at."""
        found = example_of(batch, self.n_sequences, self.max_lag)
        assert found is not None  # since `take` has found it
        part = call.cut(found.rows, *found.window)
        if part.inputs.shape != example["inputs"].shape:
            raise InputError(
                f"the network reads inputs of shape {tuple(call.inputs.shape)}, which are not those of the "
                "batch: give call=, a function (module, batch)"
            )
        example["inputs"] = part.inputs
        return part

    def look(self, trainer: Trainer, pl_module: LightningModule, example: Example) -> Entry:
        """Returns the gradient at every lag, and what it decays by."""
        sequences = example["inputs"], example["targets"]
        found = time_gradient(pl_module, *sequences, self.at, self.exact, self.network_call)
        return dict(vars(found))

    def numbers(self, entry: Entry) -> dict[str, float]:
        """Returns decay, half-life and horizon, the latter two as far as was looked."""
        reach = float(entry["lags"][-1])
        return {
            "time_gradient/decay_per_step": entry["decay_per_step"],
            "time_gradient/half_life": min(entry["half_life"], reach),
            "time_gradient/horizon": min(entry["horizon"], reach),
        }

    def pictures(self) -> dict[str, "Figure"]:
        """Returns the picture of all curves."""
        return {"time_gradient/curves": self.figure()}

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
