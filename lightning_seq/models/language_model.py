"""The LightningModule that trains any network to predict the next token."""

import inspect
import sys
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel

from lightning_seq import checkpoints, generation, prompts
from lightning_seq.errors import InputError
from lightning_seq.metrics import TextLoss
from lightning_seq.models.averaged_weights import put_into_checkpoint, show_mean, take_from_checkpoint
from lightning_seq.models.carried_state import CarriedState
from lightning_seq.models.compilation import Compilation
from lightning_seq.models.evaluation_sums import EvaluationSums, check_monitors
from lightning_seq.models.optimizer_numbers import number_by_place
from lightning_seq.models.outputs import OutputCheck
from lightning_seq.models.randomness import StepRandomness
from lightning_seq.models.sizes import check_batch, check_documents, check_sizes
from lightning_seq.models.token_normalization import TokenNormalization, on_backward
from lightning_seq.models.training_log import TrainingLog
from lightning_seq.models.training_settings import resumed_settings
from lightning_seq.models.unfinished_window import (
    gradients_for_checkpoint,
    restore_gradients,
    window_is_open,
)
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.losses import negative_log_likelihood
from lightning_seq.networks.spreading import is_spread, spread, sum_partial_gradients
from lightning_seq.optimization import (
    NTASGD,
    LearningRateSchedule,
    OptimizerName,
    Schedule,
    build_optimizer,
    check_options,
    check_schedule,
    set_hyperparameters,
)

Batch = dict[str, Tensor]


class LanguageModel(LightningModule):
    """Trains a network to predict the next token, carrying its state along where the data says so.

    A batch is a dict of ``inputs`` and ``targets``, both ``(batch, time)``, and, where lanes of text go on
    from batch to batch, ``continues`` ``(batch,)``: then the state is carried on (truncated back-propagation
    through time), cut from the graph, and reset in the lanes that begin anew.

    The loss is the mean over all tokens of an optimizer step: of all batches that it accumulates and of all
    ranks.

    Args:
        network: Called as ``network(tokens, state, targets)``, see :mod:`lightning_seq.networks.base`.
        optimizer: ``adamw``; ``sgd``; ``nt_asgd``, SGD whose weights are averaged once validation stops
            improving (AWD-LSTM); or ``muon``, for hidden matrices, with AdamW for the rest.
        learning_rate: The highest that the schedule reaches.
        weight_decay: Of matrices; biases and gains do not decay.
        betas: AdamW's averaging factors.
        momentum: Of sgd (default: 0) or muon (default: 0.95).
        non_monotone_interval: Of nt_asgd: validations that may pass without a new best (default: 5).
        schedule: How the learning rate goes on after the warm-up: ``constant``; ``cosine`` or ``linear``
            until trainer.max_steps; ``wsd``, constant and then linear over the last decay_steps;
            ``inverse_sqrt``; ``step``, multiplied by decay_factor at regular steps; or ``plateau``,
            multiplied by it when a validation brings no new best.
        warmup_steps: Steps over which the learning rate rises from near 0.
        final_learning_rate_share: The share of the learning rate that cosine, linear and wsd leave at the end
            (default: 0.1).
        decay_steps: Length of wsd's fall, in steps (default: a tenth of trainer.max_steps).
        decay_start: First step that schedule step reduces (default: decay_interval after the warm-up).
        decay_interval: Steps between two reductions of schedule step.
        decay_factor: What a reduction leaves (default: 0.5 for step, 0.25 for plateau).
        patience: Validations without a new best that plateau bears (default: 0).
        compile: Whether torch.compile makes the network faster for training and validation. Recurrent
            networks refuse it: it leaves their fused kernels as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerName = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float | None = None,
        non_monotone_interval: int | None = None,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        final_learning_rate_share: float | None = None,
        decay_steps: int | None = None,
        decay_start: int | None = None,
        decay_interval: int | None = None,
        decay_factor: float | None = None,
        patience: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._optimizer_options: dict[str, Any] = {
            "name": optimizer,
            "betas": betas,
            "momentum": momentum,
            "non_monotone_interval": non_monotone_interval,
        }
        self._schedule_options: dict[str, Any] = {
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "final_learning_rate_share": final_learning_rate_share,
            "decay_steps": decay_steps,
            "decay_start": decay_start,
            "decay_interval": decay_interval,
            "decay_factor": decay_factor,
            "patience": patience,
        }
        self._made_with = self._settings()
        check_options(learning_rate, weight_decay, **self._optimizer_options)
        given = {name: value for name, value in self._schedule_options.items() if value is not None}
        check_schedule(given.pop("schedule"), given.pop("warmup_steps"), given)
        self.tokenizer: Tokenizer | None = None
        self.training_record: dict[str, Any] | None = None  # of the text that the weights were trained on
        self._carried = CarriedState()
        self._compilation = Compilation(network, compile)
        self._output_check = OutputCheck(network, self._compilation)
        self._normalization = TokenNormalization()
        self._randomness = StepRandomness()
        self._open_window: dict[str, Any] | None = None
        self._training_log = TrainingLog()
        self._evaluation: EvaluationSums | None = None

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Saves the arguments of the model's own class, as Lightning does, and not those of its bases.

        Else a subclass that fixes an argument of its base could not be loaded: it would be given it twice.
        """
        frame = frame or sys._getframe(1)
        while (outer := frame.f_back) and outer.f_code.co_name == "__init__":
            if outer.f_locals.get("self") is not self:
                break
            frame = outer
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)

    # -- steps ----------------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Returns logits ``(batch, time, vocab)`` of ``tokens`` ``(batch, time)`` without a past."""
        documents = {} if document_ids is None else {"document_ids": document_ids}
        logits: Tensor = self.network(tokens, **documents)[0]
        return logits

    def forward_arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the arguments of :meth:`forward` for a batch, which monitors call it with."""
        arguments = {"tokens": batch["inputs"]}
        if self._compilation.takes_document_ids and "document_ids" in batch:
            arguments["document_ids"] = batch["document_ids"]
        return arguments

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean loss of the batch's targets, with the gradient of its share in the step.

        A subclass may return None in its place, to skip the batch: it then counts neither in the step nor in
        ``train_loss``. Lightning refuses that on several ranks.
        """
        check_batch(self, batch)
        self._randomness.before(self.trainer)
        self._carried.begin_batch(self)
        self._normalization.begin_batch()
        output, tokens = self._run("train", batch, batch["targets"]), _count_targets(batch)
        loss = (negative_log_likelihood(output, batch["targets"]) if output.dim() == 3 else output).sum()
        if not isinstance(extra := self._extra_loss(batch), int | float) or extra:
            loss = loss + tokens * extra
        mean = self._normalization.loss(loss, tokens, self)
        on_backward(mean, partial(self._trained, loss.detach(), tokens))
        return mean

    def _trained(self, loss: Tensor, tokens: Tensor) -> None:
        """Notes that the last batch was not skipped."""
        self._training_log.add(loss, tokens)
        self._carried.trained = True

    def extra_loss(self, batch: Batch) -> Tensor | float:
        """Returns what to add to the training loss per token of ``batch``: 0, unless a subclass has more.

        The place for losses of your own: what is added here weighs as it should when batches are accumulated
        or spread over ranks, which what is added in ``training_step`` does not.
        """
        return 0.0

    def _extra_loss(self, batch: Batch) -> Tensor | float:
        extra = self.extra_loss(batch)
        if isinstance(extra, int | float) or (isinstance(extra, Tensor) and extra.numel() == 1):
            return extra
        got = f"a tensor {tuple(extra.shape)}" if isinstance(extra, Tensor) else repr(extra)
        raise InputError(
            f"extra_loss of {type(self).__name__} returned {got}: return one number, per token of the batch"
        )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the batch to the sums of its loader."""
        self._evaluate(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds the batch to the sums of its loader."""
        self._evaluate(batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Returns the loss of every target in nats, ``(batch, time)``, NaN where nothing is scored."""
        check_batch(self, batch)
        nll = self._negative_log_likelihood("evaluation", batch)
        return nll.masked_fill(batch["targets"] == IGNORE_INDEX, torch.nan)

    def _run(self, stage: str, batch: Batch, targets: Tensor | None) -> Tensor:
        state = self._carried.before(stage, batch, self.network)
        output, state = self._compilation.run(batch, state, targets)
        self._output_check.check(output, batch, targets)
        self._carried.after(stage, batch, state)
        return output

    def _negative_log_likelihood(self, stage: str, batch: Batch) -> Tensor:
        output = self._run(stage, batch, batch["targets"])
        return output if output.dim() == 2 else negative_log_likelihood(output, batch["targets"])

    def _evaluate(self, batch: Batch, batch_idx: int, dataloader_idx: int) -> None:
        if self._evaluation is None:
            raise InputError(
                f"{type(self).__name__} overrides on_validation_epoch_start or on_test_epoch_start and "
                "does not call super(): call it, it starts the sums"
            )
        check_batch(self, batch)
        if batch_idx == 0:  # of another loader
            self._carried.forget("evaluation")
        targets, loss = batch["targets"], self._evaluation.losses[dataloader_idx]
        if loss.accuracy:
            logits = self._run("evaluation", batch, None)
            loss.update(negative_log_likelihood(logits, targets), targets, logits.argmax(-1))
        else:
            loss.update(self._negative_log_likelihood("evaluation", batch), targets)
        self._evaluation.end_batch(batch_idx, dataloader_idx)

    # -- what is logged -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Lets this model's hyperparameters win over a checkpoint's optimizer, and starts the clock."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        ours = type(self).configure_optimizers is LanguageModel.configure_optimizers
        if ours and isinstance(schedule, LearningRateSchedule):  # a learning rate finder has its own
            betas, momentum = self._optimizer_options["betas"], self._optimizer_options["momentum"]
            set_hyperparameters(optimizer, schedule, self.learning_rate, self.weight_decay, betas, momentum)
        named = (self._optimizer_options["name"], self._schedule_options["schedule"])
        check_monitors(self.trainer, [name for name in named if ours and name in ("nt_asgd", "plateau")])
        if not window_is_open(self):
            self._normalization.tokens = None
        if self._open_window is not None:
            restore_gradients(self._open_window, self, self._normalization)
            self._open_window = None
        self._training_log.step = self.global_step
        self._training_log.restart()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs loss and speed, at the trainer's log steps only: each log costs half a millisecond."""
        every, log = self.trainer.log_every_n_steps, self._training_log  # type: ignore[attr-defined]
        if every and self.global_step != log.step and self.global_step % every == 0:
            self.log_dict(log.read(self.trainer), prog_bar=True, batch_size=1)  # the same on all ranks
            self._log_consumed()

    def _log_consumed(self) -> None:
        """Logs the hash of what was trained on: a resumed run proves by it that it goes on exactly."""
        consumed = getattr(self._datamodule(), "consumed_hash", None)
        if consumed is not None:
            ranks: Any = self.all_gather(torch.tensor(consumed))
            together = zlib.crc32(ranks.cpu().numpy().tobytes())
            self.log("consumed_hash", float(together >> 8), batch_size=1)  # 24 bits: exact in fp32

    def on_validation_epoch_start(self) -> None:
        """Starts the sums of each loader anew."""
        self._begin_evaluation("val")

    def on_test_epoch_start(self) -> None:
        """Starts the sums of each loader anew."""
        self._begin_evaluation("test")

    def _begin_evaluation(self, prefix: str) -> None:
        self._check_data()
        characters = getattr(self._datamodule(), "characters_per_token", None)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no fp64
        accuracy = bool(getattr(self._datamodule(), "scores_accuracy", False))
        unknown = getattr(self._datamodule(), "unknown_token", None)
        unknown_id = None if unknown is None else unknown.id
        self._evaluation = EvaluationSums(
            self, prefix, lambda: TextLoss(characters, dtype, accuracy, unknown_id).to(self.device)
        )

    def on_validation_epoch_end(self) -> None:
        """Logs val_loss, val_perplexity and, where known, val_bits_per_character and others of TextLoss."""
        self._end_evaluation()

    def on_test_epoch_end(self) -> None:
        """Logs test_loss and so on, as in validation."""
        self._end_evaluation()

    def _end_evaluation(self) -> None:
        assert self._evaluation is not None
        loss, self._evaluation = self._evaluation.end(), None
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            for each in [*self.trainer.optimizers, *schedules]:
                if isinstance(each, NTASGD | LearningRateSchedule):
                    each.validated(loss)

    def on_validation_start(self) -> None:
        """Puts NT-ASGD's mean of the weights in their place; outside of a training, says what is scored."""
        show_mean(self, True)
        if self.trainer.state.fn == "validate":
            self._report_scored("validation")

    def on_test_start(self) -> None:
        """Says which text is scored."""
        self._report_scored("test")

    def on_predict_start(self) -> None:
        """Says which text is scored."""
        self._report_scored("test")

    def _report_scored(self, split: str) -> None:
        report = getattr(self._datamodule(), "report_scored", None)
        if report is not None:
            report(split, self.training_record)

    def on_validation_end(self) -> None:
        """Puts the weights back, and leaves the time of validation out of the tokens per second."""
        show_mean(self, False)
        self._training_log.restart()

    def on_fit_end(self) -> None:
        """Leaves NT-ASGD's mean as the weights."""
        show_mean(self, True)

    # -- optimizer ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and its schedule, stepped at every optimizer step."""
        clipped = bool(self.trainer.gradient_clip_val)
        fused = not (clipped and "mixed" in str(self.trainer.precision))  # Lightning cannot clip for it there
        optimizer = build_optimizer(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=fused,
            **self._optimizer_options,
        )
        warmup_steps, max_steps = self._schedule_options["warmup_steps"], self.trainer.max_steps
        if 0 < max_steps < warmup_steps:
            reached = f"{max_steps / (warmup_steps + 1):.0%} of {self.learning_rate}"
            rank_zero_info(
                f"warmup_steps is {warmup_steps} and trainer.max_steps {max_steps}: the learning rate only "
                f"rises, to {reached}; lower warmup_steps, or train longer"
            )
        schedule = LearningRateSchedule(optimizer, max_steps=self.trainer.max_steps, **self._schedule_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_model(self) -> None:
        """Spreads the network over the mesh of a ModelParallelStrategy (FSDP2, tensor parallel), once."""
        mesh = self._device_mesh
        if mesh is not None and not is_spread(self.network):
            device = self.trainer.strategy.root_device
            spread(self.network, mesh["data_parallel"], mesh["tensor_parallel"], device)
            # weights that were gathered in inference mode cannot be trained on
            validation: Any = self.trainer.fit_loop.epoch_loop.val_loop
            validation.inference_mode = False

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Runs backward, also through a loss whose logits are spread over ranks."""
        mesh = self._device_mesh
        parallel = mesh is not None and mesh["tensor_parallel"].size() > 1
        with loss_parallel() if parallel else nullcontext():
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradient by the tokens of the step: a subclass that overrides this calls super()."""
        sum_partial_gradients(p for group in optimizer.param_groups for p in group["params"])
        self._normalization.divide(optimizer, self.trainer)

    # -- data, tokenizer, checkpoint ------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Agrees with the data on the tokenizer, a checkpoint's first, and forgets an earlier training."""
        self._output_check.clear()
        self._carried.forget("evaluation")
        if stage == "fit":
            self._randomness.begin(self.trainer)
            if not self._has_trained:
                self._carried.clear()
            elif self._carried.undone(self):  # an exception ended this trainer's fit, and it fits again
                self._carried.undo()
                self._normalization.tokens = self._normalization.tokens_before
        self._agree_on_tokenizer()

    @property
    def _has_trained(self) -> bool:
        """Whether the trainer has trained on a batch, which stays so while it validates or tests."""
        return bool(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)

    def _settings(self) -> dict[str, Any]:
        """Returns what the optimizer and its schedule are made from, by the names of the arguments."""
        values = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        options = {**self._optimizer_options, **self._schedule_options}
        return {**values, **{name: value for name, value in options.items() if name != "name"}}

    def on_fit_start(self) -> None:
        """Checks that the data fits the network, and compiles that."""
        if self.trainer.accumulate_grad_batches < 1:
            raise InputError(
                f"trainer.accumulate_grad_batches is {self.trainer.accumulate_grad_batches}: give 1 or more"
            )
        self._check_data()
        record = getattr(self._datamodule(), "training_record", None)
        self.training_record = None if record is None else record()
        self._compilation.begin(self._datamodule())

    def _check_data(self) -> None:
        check_sizes(self, self._datamodule())
        check_documents(self.network, self._datamodule())

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
        entry = checkpoint[checkpoints.KEY] = checkpoints.describe(self, tokenizer)
        entry["training_record"] = self.training_record
        if self.trainer.state.fn == "fit" or self._has_trained:
            entry["state"] = self._carried.for_checkpoint(self)
            entry["gradients"] = self._open_window or self._gradients_for_checkpoint()
            entry["seed"] = self._randomness.base
            entry["settings"] = {"made": self._made_with, "used": self._settings()}
            put_into_checkpoint(checkpoint, entry, self)
            number_by_place(checkpoint, entry, self)

    def _gradients_for_checkpoint(self) -> dict[str, Tensor] | None:
        counted, undone = self._normalization, self._carried.undone(self)
        if undone and self._carried.trained and window_is_open(self):
            rank_zero_warn(
                "this checkpoint does not resume exactly: it is saved between the backward pass of a batch "
                "and the end of its step, and with accumulate_grad_batches the gradient of that batch counts "
                "twice; save in on_train_batch_end, or later"
            )
        return gradients_for_checkpoint(self, counted.tokens_before if undone else counted.tokens)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the tokenizer that the weights were trained with: it wins over the data's own."""
        entry = checkpoint.get(checkpoints.KEY, {})
        tokenizer = entry.get("tokenizer")
        if tokenizer is not None:
            self.tokenizer = Tokenizer.from_str(tokenizer)
            if self._trainer is not None:
                self._agree_on_tokenizer()
        if self._trainer is None or self.trainer.state.fn != "fit":  # a training has a record of its own
            self.training_record = entry.get("training_record")
        else:
            self._randomness.base = entry.get("seed")
            if "settings" in entry:
                self._resume_settings(entry["settings"])
            self._open_window, self._normalization.tokens = entry.get("gradients"), None
            take_from_checkpoint(checkpoint, entry)
            self._carried.clear()
            if entry.get("state") is not None:
                self._carried.from_checkpoint(entry["state"], self)

    def _resume_settings(self, saved: dict[str, dict[str, Any]]) -> None:
        """Takes the optimizer's settings that a checkpoint was trained with, where no others are given."""
        parameters = inspect.signature(LanguageModel.__init__).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        for name, value in resumed_settings(self._settings(), defaults, self.hparams, saved).items():
            if name in self._optimizer_options:
                self._optimizer_options[name] = value
            else:
                setattr(self, name, value)

    # -- use ------------------------------------------------------------------------------------------

    @property
    def suppressed_tokens(self) -> tuple[int, ...]:
        """Ids that are never sampled: the unknown token, unless the training text is known to have some."""
        unknown = None if self.tokenizer is None else prompts.unknown_token(self.tokenizer)
        trained = (self.training_record or {}).get("unknown_tokens", 0)
        return () if unknown is None or trained else (unknown.id,)

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
        prompts.report_unknown(prompt, self.tokenizer)
        tokens = torch.tensor([ids], dtype=torch.long, device=self.device)
        tokens = generation.generate(
            self.network,
            tokens,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            suppress_tokens=self.suppressed_tokens,
        )
        return prompts.written(tokens[0].tolist(), self.tokenizer)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; the hook that Lightning notes, 46 times a step, without all that modules do."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

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
