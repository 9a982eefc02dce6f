"""The LightningModule that trains any network to predict the next token."""

import sys
import zlib
from typing import Any

import torch
from lightning.pytorch import LightningModule
from tokenizers import Tokenizer
from torch import Tensor, nn

from lightning_seq import checkpoints, generation, prompts
from lightning_seq.errors import InputError
from lightning_seq.metrics import TextLoss
from lightning_seq.models.carried_state import CarriedState
from lightning_seq.models.randomness import StepRandomness
from lightning_seq.models.sizes import check_sizes
from lightning_seq.models.training_log import TrainingLog
from lightning_seq.models.unfinished_window import gradients_for_checkpoint, restore_gradients
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.heads import negative_log_likelihood
from lightning_seq.optimization import Schedule, adamw, learning_rate_schedule, set_hyperparameters

Batch = dict[str, Tensor]


class LanguageModel(LightningModule):
    """Trains a network to predict the next token, carrying its state along where the data says so.

    A batch is a dict of ``inputs`` and ``targets``, both ``(batch, time)``, and, where lanes of text go on
    from batch to batch, ``continues`` ``(batch,)``: then the state is carried on (truncated back-propagation
    through time), cut from the graph, and reset in the lanes that begin anew.

    Args:
        network: Called as ``network(tokens, state, targets)``, see :mod:`lightning_seq.networks.base`.
        learning_rate: The highest that the schedule reaches.
        weight_decay: Of matrices; biases and gains do not decay.
        betas: AdamW's averaging factors.
        schedule: How the learning rate goes on after the warm-up: ``constant``, or ``cosine`` or ``linear``
            until trainer.max_steps.
        warmup_steps: Steps over which the learning rate rises from near 0.
        final_learning_rate_share: The share of the learning rate that is left at the end.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        final_learning_rate_share: float = 0.1,
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise InputError(f"learning_rate is {learning_rate}: give a number above 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas are {betas}: give two numbers in [0, 1)")
        self.network = network
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, betas
        self.schedule: Schedule = schedule
        self.warmup_steps, self.final_learning_rate_share = warmup_steps, final_learning_rate_share
        self.tokenizer: Tokenizer | None = None
        self._carried = CarriedState()
        self._randomness = StepRandomness()
        self._open_window: dict[str, Tensor] | None = None
        self._training_log = TrainingLog()
        self._evaluation: TextLoss | None = None

    # -- steps ----------------------------------------------------------------------------------------

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits ``(batch, time, vocab)`` of ``tokens`` ``(batch, time)`` without a past."""
        logits: Tensor = self.network(tokens)[0]
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean negative log likelihood of the batch's targets, in nats."""
        self._randomness.before(self.trainer)
        self._carried.begin_batch(self)
        nll, tokens = self._negative_log_likelihood("train", batch), _count_targets(batch)
        self._training_log.add(nll, tokens)
        return nll.sum() / tokens.clamp(min=1)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the batch to the epoch's sums."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the batch to the epoch's sums."""
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Returns the loss of every target in nats, ``(batch, time)``, NaN where nothing is scored."""
        nll = self._negative_log_likelihood("evaluation", batch)
        return nll.masked_fill(batch["targets"] == IGNORE_INDEX, torch.nan)

    def _run(self, stage: str, batch: Batch, targets: Tensor | None) -> Tensor:
        state = self._carried.before(stage, batch, self.network)
        output, state = self.network(batch["inputs"], state, targets)
        self._carried.after(stage, batch, state)
        return output  # type: ignore[no-any-return]

    def _negative_log_likelihood(self, stage: str, batch: Batch) -> Tensor:
        output = self._run(stage, batch, batch["targets"])
        return output if output.dim() == 2 else negative_log_likelihood(output, batch["targets"])

    def _evaluate(self, batch: Batch) -> None:
        if self._evaluation is None:
            raise InputError(
                f"{type(self).__name__} overrides on_validation_epoch_start or on_test_epoch_start and "
                "does not call super(): call it, it starts the sums"
            )
        targets = batch["targets"]
        if self._evaluation.accuracy:
            logits = self._run("evaluation", batch, None)
            self._evaluation.update(negative_log_likelihood(logits, targets), targets, logits.argmax(-1))
        else:
            self._evaluation.update(self._negative_log_likelihood("evaluation", batch), targets)

    # -- what is logged -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Lets this model's hyperparameters win over a checkpoint's optimizer, and starts the clock."""
        if type(self).configure_optimizers is LanguageModel.configure_optimizers:
            optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
            set_hyperparameters(optimizer, schedule, self.learning_rate, self.weight_decay, self.betas)
        if self._open_window is not None:
            restore_gradients(self._open_window, self)
            self._open_window = None
        self._training_log.step = self.global_step
        self._training_log.restart()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs loss and speed, at the trainer's log steps only: each log costs half a millisecond."""
        every, log = self.trainer.log_every_n_steps, self._training_log  # type: ignore[attr-defined]
        if every and self.global_step != log.step and self.global_step % every == 0:
            figures = log.read(self.global_step, self.trainer.world_size)
            self.log_dict(figures, prog_bar=True, sync_dist=True, batch_size=1)
            self._log_consumed()

    def _log_consumed(self) -> None:
        """Logs the hash of what was trained on: a resumed run proves by it that it goes on exactly."""
        consumed = getattr(self._datamodule(), "consumed_hash", None)
        if consumed is not None:
            ranks: Any = self.all_gather(torch.tensor(consumed))
            together = zlib.crc32(ranks.cpu().numpy().tobytes())
            self.log("consumed_hash", float(together >> 8), batch_size=1)  # 24 bits: exact in fp32

    def on_validation_epoch_start(self) -> None:
        """Starts the sums anew."""
        check_sizes(self, self._datamodule())
        characters = getattr(self._datamodule(), "characters_per_token", None)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no fp64
        accuracy = bool(getattr(self._datamodule(), "scores_accuracy", False))
        self._evaluation = TextLoss(characters, dtype, accuracy).to(self.device)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Logs val_loss, val_perplexity and, as the data has them, val_bits_per_character, val_accuracy."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Logs test_loss and so on, as in validation."""
        self._log_evaluation("test")

    def _log_evaluation(self, prefix: str) -> None:
        assert self._evaluation is not None
        for name, value in self._evaluation.compute().items():
            shown = name in ("loss", "accuracy")
            self.log(f"{prefix}_{name}", value, prog_bar=shown, sync_dist=True, batch_size=1)
        self._evaluation = None

    def on_validation_end(self) -> None:
        """Leaves the time of validation out of the tokens per second."""
        self._training_log.restart()

    # -- optimizer ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Returns AdamW and the schedule, stepped at every optimizer step."""
        clipped = bool(self.trainer.gradient_clip_val)
        fused = not (clipped and "mixed" in str(self.trainer.precision))  # Lightning cannot clip for it there
        optimizer = adamw(self, self.learning_rate, self.weight_decay, self.betas, fused)
        schedule = learning_rate_schedule(
            optimizer,
            self.schedule,
            self.warmup_steps,
            self.trainer.max_steps,
            self.final_learning_rate_share,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- data, tokenizer, checkpoint ------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Agrees with the data on the tokenizer: one from a checkpoint wins."""
        self._carried.clear()
        self._agree_on_tokenizer()

    def on_fit_start(self) -> None:
        """Checks that the data fits the network."""
        check_sizes(self, self._datamodule())

    def _datamodule(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _agree_on_tokenizer(self) -> None:
        data = self._datamodule()
        if self.tokenizer is None:
            tokenizer = getattr(data, "tokenizer", None)
            self.tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else None
        elif hasattr(data, "adopt_tokenizer"):
            data.adopt_tokenizer(self.tokenizer.to_str())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds this model's class and tokenizer, and the state it carries, of all ranks' lanes."""
        tokenizer = None if self.tokenizer is None else self.tokenizer.to_str()
        checkpoint[checkpoints.KEY] = checkpoints.describe(self, tokenizer)
        if self.trainer.state.fn == "fit":
            checkpoint[checkpoints.KEY]["state"] = self._carried.for_checkpoint(self)
            checkpoint[checkpoints.KEY]["gradients"] = gradients_for_checkpoint(self)
            checkpoint[checkpoints.KEY]["seed"] = self._randomness.base

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the tokenizer that the weights were trained with: it wins over the data's own."""
        entry = checkpoint.get(checkpoints.KEY, {})
        tokenizer = entry.get("tokenizer")
        if tokenizer is not None:
            self.tokenizer = Tokenizer.from_str(tokenizer)
            if self._trainer is not None:
                self._agree_on_tokenizer()
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._randomness.base = entry.get("seed")
            self._open_window = entry.get("gradients")
            if entry.get("state") is not None:
                self._carried.from_checkpoint(entry["state"], self)

    # -- use ------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Returns ``prompt`` and its continuation.

        Args:
            prompt: Text to go on from; of a model without tokenizer ids, such as "60 62 64".
            max_new_tokens: How many tokens to add.
            temperature: Divides the logits: below 1 safer, above 1 wilder, 0 always the likeliest token.
            top_k: Only the ``top_k`` likeliest tokens take part.
            top_p: Only the likeliest tokens that together hold this share of the probability take part.
            seed: Makes the text repeatable; the global random state is never touched.

        Raises:
            InputError: The prompt has no token, or a word that is none.
        """
        ids = prompts.read(prompt, self.tokenizer, self.hparams.get("vocab_size"))
        tokens = torch.tensor([ids], dtype=torch.long, device=self.device)
        tokens = generation.generate(
            self.network,
            tokens,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        return prompts.written(tokens[0].tolist(), self.tokenizer)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """This object's type.

        The one place where the package's other namespace can be told from ours: its Trainer asks whether this
        is one of its own modules, and its answer, a bare "must be a LightningModule", helps nobody.
        """
        asker = sys._getframe(1).f_globals.get("__name__", "")
        if asker.startswith("pytorch_lightning."):
            raise InputError(
                f"{type(self).__name__} is a module of lightning.pytorch and was handed to "
                "pytorch_lightning: write `import lightning.pytorch as pl`, not"
                " `import pytorch_lightning as pl`"
            )
        return type(self)


def _count_targets(batch: Batch) -> Tensor:
    return (batch["targets"] != IGNORE_INDEX).sum()
