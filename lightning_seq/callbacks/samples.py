"""SampleLogger: what the model writes, beside what its loss says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tokenizers import Tokenizer

from lightning_seq.callbacks.probe import inputs_of, is_first, undisturbed
from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.callbacks.step_log import logging_step
from lightning_seq.errors import InputError
from lightning_seq.figures import forgiving, loggers_of_text
from lightning_seq.generation import check_sampling
from lightning_seq.metrics import of_first_loader
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.prompts import read, unknown_token, written

EXAMPLE_TOKENS = 8
_MOST_KEPT = 128


class SampleLogger(ResetOnFit):
    """Lets the model continue a prompt in every validation, and keeps what it writes.

    The text is appended to samples.txt in the run directory, under a line with the step and the validation
    loss, and goes to Weights & Biases and TensorBoard where they log. The seed is the same every time, so
    that samples differ by what the model has learnt and not by chance.

    Args:
        prompt: The text to continue, or ids where the model has no tokenizer. A newline, the default, is in
            nearly every corpus and lets the model begin a paragraph of its own. Where the prompt is nothing
            that the model reads, as a newline is not for ids, it continues the beginning of the first
            validation example; of a task its question, and it adds no more than is asked for.
        max_new_tokens: How many tokens to add.
        temperature: Below 1 the model keeps to what it finds likely, above 1 it dares more; 0 always takes
            the likeliest token.
        top_k: Choose among this many likeliest tokens only. All by default.
        top_p: Choose among the likeliest tokens that together have this probability. All by default.
        seed: Seed of the sampling; training draws from its own random numbers.
        log_text: Whether the text goes to Weights & Biases and TensorBoard, too.

    Attributes:
        samples: Step, loss and text of each sample, oldest first. Beyond 128 every second one is dropped.
    """

    def __init__(
        self,
        prompt: str = "\n",
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        log_text: bool = True,
    ) -> None:
        if max_new_tokens < 1:
            raise InputError(f"SampleLogger got max_new_tokens={max_new_tokens}, expected at least 1")
        check_sampling(temperature, top_k, top_p)
        self.prompt = prompt
        self.options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        self.log_text = log_text
        self.reset()

    def reset(self) -> None:
        """Forgets the samples, and the example."""
        self.last = ""
        self.samples: list[tuple[int, float | None, str]] = []
        self._sampled: str | None = None  # in the validation that runs
        self._example: list[int] = []
        self._asked: int | None = None
        self._prompt = ""  # from the validation data, where the model cannot read the one that was given

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins afresh, and refuses a model that cannot write."""
        super().setup(trainer, pl_module, stage)
        if stage in ("fit", "validate") and not callable(getattr(pl_module, "generate", None)):
            name = type(pl_module).__name__
            raise InputError(
                f"SampleLogger got {name}, which has no generate(); expected a model that continues text: "
                f"remove SampleLogger from trainer.callbacks or give {name} generate(prompt, ...) -> str"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tries the prompt once, so that what is wrong with it shows before the training."""
        if _reads(pl_module, self.prompt):
            self._sample(pl_module, max_new_tokens=1)

    def _sample(self, pl_module: LightningModule, **changes: Any) -> str:
        model: Any = pl_module
        with undisturbed(pl_module):
            return str(model.generate(self._prompt or self.prompt, **self.options | changes))

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the beginning of the first example that comes by, for a prompt that cannot be read."""
        inputs = None if self._example else inputs_of(batch)
        if inputs is not None:
            length, self._asked = _question(batch)
            self._example = inputs[:1].flatten()[:length].tolist()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Samples after the first batch: between batches the weights are those that are validated."""
        if trainer.sanity_checking or not is_first(batch_idx, dataloader_idx):
            return
        if not self._prompt and not _reads(pl_module, self.prompt):
            self._take_example(pl_module)
        most, asked = self.options["max_new_tokens"], self._asked if self._prompt else None
        try:  # on every rank, though one writes: the forward of a sharded model waits for all ranks
            new_tokens = most if asked is None else min(most, asked)
            self._sampled = self._sample(pl_module, max_new_tokens=new_tokens)
        except InputError as error:  # weights that diverged: the training's own business
            rank_zero_warn(f"SampleLogger writes nothing at step {trainer.global_step}: {error}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what was sampled, beside the loss."""
        text, self._sampled = self._sampled, None
        if text is None:
            return
        self.last = text
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        loss = of_first_loader(trainer.callback_metrics, "val_loss")
        if len(self.samples) >= _MOST_KEPT:
            del self.samples[1::2]
        self.samples.append((trainer.global_step, None if loss is None else float(loss), self.last))
        for logger in loggers_of_text(trainer, self.log_text):
            with forgiving(logger, "a sample"):
                _log_text(logger, self.samples, logging_step(trainer))
        self._append(trainer)

    def _take_example(self, pl_module: LightningModule) -> None:
        model: Any = pl_module
        text = written(self._example, model.tokenizer)
        rank_zero_info(
            f"SampleLogger: {type(pl_module).__name__} cannot read the prompt {self.prompt!r}; samples go on "
            f"from the validation data: {text}"
        )
        self._prompt = text

    def state_dict(self) -> dict[str, Any]:
        """The samples so far."""
        return {"samples": [list(sample) for sample in self.samples]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with them."""
        self.samples = [(step, loss, text) for step, loss, text in state_dict["samples"]]

    def _append(self, trainer: Trainer) -> None:
        # not trainer.log_dir, which is a collective
        folders = (logger.log_dir for logger in trainer.loggers)
        folder = Path(next(filter(None, folders), trainer.default_root_dir))
        folder.mkdir(parents=True, exist_ok=True)
        step, loss, _ = self.samples[-1]
        heading = f"step {step:,}" + ("" if loss is None else f", val_loss {loss:.3f}")
        with (folder / "samples.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"=== {heading} ===\n{self.last}\n\n")


def _question(batch: Any) -> tuple[int, int | None]:
    """Returns how many tokens the first example gives before it asks for some, and how many it asks for."""
    targets = batch.get("targets") if isinstance(batch, dict) else None
    scored = [] if targets is None else (targets[0] != IGNORE_INDEX).nonzero().flatten().tolist()
    return (scored[0] + 1, len(scored)) if scored and scored[0] > 0 else (EXAMPLE_TOKENS, None)


def _reads(pl_module: Any, prompt: str) -> bool:
    """Says whether a prompt has tokens, as far as the model's way to read it is known."""
    tokenizer = getattr(pl_module, "tokenizer", ...)
    if not isinstance(tokenizer, Tokenizer | None):
        return True
    unknown = None if tokenizer is None else unknown_token(tokenizer)
    try:
        ids = read(prompt, tokenizer, pl_module.hparams.get("vocab_size"))
    except InputError:
        return False
    return any(unknown is None or i != unknown.id for i in ids)


def _log_text(logger: Logger, samples: Sequence[tuple[int, float | None, str]], step: int) -> None:
    text = samples[-1][-1]
    if isinstance(logger, WandbLogger):  # the whole table, which so grows from sample to sample
        rows = [list(sample) for sample in samples]
        logger.log_table("samples", columns=["step", "val_loss", "text"], data=rows, step=step)
    elif isinstance(logger, TensorBoardLogger):
        # TensorBoard reads Markdown: indented, the text keeps its lines
        logger.experiment.add_text("samples", "".join(f"    {line}\n" for line in text.splitlines()), step)
