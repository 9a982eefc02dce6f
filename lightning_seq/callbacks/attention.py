"""AttentionLogger: where the heads of a model look, and how that changes with training."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_seq.callbacks.heads import head_numbers
from lightning_seq.callbacks.heads.example import example_of, text_example, window_of
from lightning_seq.callbacks.heads.look import look, most_telling, view_of
from lightning_seq.callbacks.heads.map_figure import draw_map
from lightning_seq.callbacks.heads.overview_figure import draw_heads
from lightning_seq.callbacks.heads.page import write_page
from lightning_seq.callbacks.heads.training_figure import draw_training
from lightning_seq.callbacks.heads.view import View
from lightning_seq.callbacks.probe import Entry, Example, ModelCall, Probe
from lightning_seq.callbacks.step_log import log_at_step, logging_step
from lightning_seq.errors import InputError
from lightning_seq.figures import forgiving, log_page, loggers_of_text
from lightning_seq.networks.base import check_sizes
from lightning_seq.networks.network_call import NetworkCall

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_KEPT = 256  # entries of the history: more are more than a picture has columns for


class AttentionLogger(Probe):
    """Shows what each attention head looks at, while training keeps its fused kernels.

    Works with any LightningModule that runs attention in PyTorch, compiled or not, however its validation
    step calls its network: scaled_dot_product_attention, nn.MultiheadAttention, FlexAttention, or a softmax
    by hand inside a module whose name speaks of attention. Weights, random numbers and compiled graphs of the
    training stay as they are. It looks at one fixed validation example, so that pictures of different steps
    can be compared. A
    model without attention, such as an RNN, is shown by its saliency: the share of each earlier token in the
    gradient of a prediction. Where ranks share layers (tensor parallelism) it sees the first rank's heads.

    Of each head it logs `attention/<measure>/layer0_head0` and so on, and of all heads the mean as
    `attention/<measure>`, with `_min` and `_max`:

    - `entropy`: how evenly a token spreads its attention, from 0 (on one token) to 1 (the same on all that it
      may see);
    - `max_probability`: the largest share that a token gives to one token;
    - `previous_token`, `first_token`: the share on the token just before, and on the first one;
    - `induction`: in random tokens that are said twice, the share on what followed the same token the first
      time (Olsson et al. 2022, https://arxiv.org/abs/2209.11895);
    - `distance`: how far back it looks, in tokens;
    - `max_logit`: the largest score before the softmax;
    - `sink`: where there are keys that are no tokens, such as gpt-oss's attention sinks, the share on them;
      the other measures, and maps, are of the attention among tokens.

    `attention/induction_heads` and its like for previous_token and first_token are the share of heads above
    `head_threshold`. Saliency is logged as `saliency/<measure>`. A layer whose entropy collapses and a logit
    that grows too large are warned about, once for each layer, in the terminal and as an alert of
    Weights & Biases.

    Pictures: `attention/heads` (every head), `attention/map` (one head, with its tokens) and
    `attention/training` (each head's measures over the training so far): at the first look, each time that
    there were three times as many, and when training ends. `attention/page` is an interactive page, one at
    each look: an HTML file in `figures/` of the run, or in Weights & Biases.

    Attributes:
        history: What was measured at each look, oldest first: dicts of what was logged, and `step`. Beyond
            256 looks every second one is dropped.
        view: What was seen last: maps, measures and tokens, as numpy arrays and text; None before.

    Args:
        every_n_steps: Look after so many optimizer steps; by default in every validation.
        n_sequences: How many sequences the measures are averaged over, as far as the first batch has them;
            maps are of the first.
        max_tokens: How much of each sequence to look at: its first tokens. Maps show 256 at most.
        layers: Numbers of the layers to log and show (default: all).
        heads: Numbers of the heads of each layer to log and show (default: all).
        text: A text to look at, in place of a validation example.
        saliency: Whether to show the saliency of the whole model (default: where it has no attention).
        page: Whether to write the interactive page.
        head_threshold: The score from which on a head counts as one of previous tokens, of the first token,
            or of induction.
        warn_entropy_below: Warn when the mean entropy of a layer's heads falls below this.
        warn_logit_above: Warn when a logit grows above this.
        log_text: Whether what shows tokens, `attention/map` and `attention/page`, goes to every logger; else
            it stays in `figures/` of the run.
        call: How to run the model on a batch, ``call(module, batch)`` (default: as its own validation step
            calls its network, or else ``module(inputs)``).
    """

    with_text = frozenset({"attention/map", "attention/page"})

    def __init__(
        self,
        every_n_steps: int | None = None,
        n_sequences: int = 1,
        max_tokens: int = 64,
        layers: list[int] | None = None,
        heads: list[int] | None = None,
        text: str | None = None,
        saliency: bool | None = None,
        page: bool = True,
        head_threshold: float = 0.5,
        warn_entropy_below: float | None = 0.01,
        warn_logit_above: float | None = 100.0,
        log_text: bool = True,
        call: ModelCall | None = None,
    ) -> None:
        check_sizes(n_sequences=n_sequences)
        check_sizes(2, max_tokens=max_tokens)
        for name, chosen in (("layers", layers), ("heads", heads)):
            if chosen is not None and (not chosen or min(chosen) < 0):
                raise InputError(
                    f"{name} is {chosen}: give numbers from 0 on, such as [0, 1], or leave it out"
                )
        super().__init__(every_n_steps, call, n_sequences=n_sequences, max_tokens=max_tokens, text=text)
        self.n_sequences, self.max_tokens, self.text = n_sequences, max_tokens, text
        self.layers, self.heads = layers, heads
        self.saliency, self.write_pages = saliency, page
        self.head_threshold = head_threshold
        self.warn_entropy_below, self.warn_logit_above = warn_entropy_below, warn_logit_above
        self.log_text = log_text

    def reset(self) -> None:
        """Forgets what was seen."""
        super().reset()
        self.view: View | None = None
        self._alarmed: set[str] = set()
        self._told = False

    # -- looking --------------------------------------------------------------------------------------

    def take(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Example:
        """Returns the first sequences of the batch, or the text that was given."""
        if self.text is None:
            return example_of(batch, self.n_sequences, self.max_tokens)
        vocab_size = pl_module.hparams.get("vocab_size")
        return text_example(self.text, _tokenizer(trainer, pl_module), vocab_size, self.max_tokens)

    def cut(self, call: NetworkCall, batch: Any, example: Example) -> NetworkCall:
        """Returns the call for the same tokens; what the network reads is what is shown."""
        if self.text is not None:
            return call.with_inputs(example["inputs"].to(call.inputs.device))
        part = call.cut(slice(self.n_sequences), *window_of(batch, self.n_sequences, self.max_tokens))
        example["inputs"] = part.inputs
        for name in {"valid", "attention_mask"} & set(example):
            if example[name].shape != part.inputs.shape[:2]:
                del example[name]
        return part

    def look(self, trainer: Trainer, pl_module: LightningModule, example: Example) -> Entry:
        """Returns every measure of every head, and keeps the maps as `view`."""
        name = type(pl_module).__name__
        looked = look(pl_module, example, self.layers, self.heads, self.saliency, self.network_call)
        if looked.unseen and not self._told:
            self._told = True
            rank_zero_warn(
                f"AttentionLogger cannot see the attention of {', '.join(looked.unseen)} in {name}: it takes "
                "no softmax of queries with keys, or runs outside PyTorch's own functions; "
                "scaled_dot_product_attention shows it"
            )
        if not looked.layers:
            return self._nothing_there(f"{name} runs no attention that PyTorch shows")
        self.view = view_of(f"step {trainer.global_step:,}", example, looked, _tokenizer(trainer, pl_module))
        if len(self.history) >= _MOST_KEPT:
            del self.history[1::2]
        return head_numbers.summary(looked.layers, self.head_threshold) | head_numbers.of_heads(looked.layers)

    def numbers(self, entry: Entry) -> dict[str, float]:
        """Returns what is said of all heads; that of each goes past Lightning's log, which is slow."""
        chosen = super().numbers(entry)
        return {key: value for key, value in chosen.items() if not head_numbers.is_of_head(key)}

    def show(self, trainer: Trainer, entry: Entry) -> None:
        """Logs the numbers of each head and the page, and raises alarms."""
        heads = {key: value for key, value in entry.items() if head_numbers.is_of_head(key)}
        if heads:
            log_at_step(trainer, heads)
        self._alarm(trainer)
        if self.write_pages and trainer.is_global_zero and trainer.loggers:
            html = self.page()
            for logger in loggers_of_text(trainer, self.log_text):
                log_page(logger, "attention/page", html, logging_step(trainer))

    def _alarm(self, trainer: Trainer) -> None:
        for place, text in head_numbers.alarms(
            self._seen().layers, self.warn_entropy_below, self.warn_logit_above
        ):
            if place in self._alarmed:
                continue
            self._alarmed.add(place)
            rank_zero_warn(f"step {trainer.global_step:,}: {text}")
            for logger in trainer.loggers if trainer.is_global_zero else ():
                if isinstance(logger, WandbLogger):
                    with forgiving(logger, "an alert"):
                        logger.experiment.alert(f"Attention: {place}", text, level="WARN")

    # -- showing --------------------------------------------------------------------------------------

    def pictures(self) -> dict[str, "Image"]:
        """Returns the pictures of the last look and of the training so far."""
        pictures = {"attention/training": self.training_figure()}
        if self.view is not None:  # a resumed training may end before it looks
            pictures |= {"attention/heads": self.figure(), "attention/map": self.map_figure()}
        return pictures

    def figure(self, measure: str = "entropy") -> "Image":
        """Draws every head of the last look.

        Args:
            measure: The number above each.

        Raises:
            InputError: There was no look yet.
        """
        return draw_heads(self._seen(), measure)

    def map_figure(self, layer: int | None = None, head: int | None = None) -> "Image":
        """Draws the map of one head, with its tokens.

        Args:
            layer: Index into `view.layers` (default: that of the head with the largest induction score, or
                the smallest entropy where none was measured).
            head: Index into its heads.

        Raises:
            InputError: There was no look yet.
        """
        view = self._seen()
        if layer is None or head is None:
            layer, head = most_telling(view)
        return draw_map(view, layer, head)

    def training_figure(self) -> "Image":
        """Draws the measures of every head over the training so far.

        Raises:
            InputError: There was no look yet.
        """
        if not self.history:
            self._seen()
        return draw_training(self.history)

    def page(self) -> str:
        """Returns the interactive page of the last look: HTML that needs no network.

        Raises:
            InputError: There was no look yet.
        """
        view = self._seen()
        return write_page([view], f"Attention, {view.name}")

    def summary(self) -> str:
        """What was seen, in one line."""
        return head_numbers.sentence(self.history[-1]) if self.history else "none was seen"

    def _seen(self) -> View:
        if self.view is None:
            raise InputError(
                "AttentionLogger has seen nothing yet: give it to a Trainer that validates, or give "
                "every_n_steps"
            )
        return self.view


def _tokenizer(trainer: Trainer, pl_module: LightningModule) -> Any:
    for owner in (pl_module, getattr(trainer, "datamodule", None)):
        if (tokenizer := getattr(owner, "tokenizer", None)) is not None:
            return tokenizer
    return None
