"""Look at a model in the middle of its training and leave no trace."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.callbacks.step_log import log_at_step, logging_step
from lightning_seq.errors import InputError
from lightning_seq.figures import log_figure, loggers_of_text
from lightning_seq.networks.base import check_sizes, evaluating
from lightning_seq.networks.network_call import NetworkCall, captured_call

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Example = dict[str, Tensor]
ModelCall = Callable[[LightningModule, Any], Any]
Entry = dict[str, Any]


class Probe(ResetOnFit):
    """Looks at the same example again and again: the base of the callbacks that do.

    A subclass says what it keeps of a batch (`take`), what it finds in a model (`look`), which of that is
    logged (`numbers`) and what is drawn of all of it (`pictures`). When to look, the example, random numbers,
    failures and checkpoints are written here, once.

    Attributes:
        history: What was found, oldest first: each with `step`, the training step.
        log_text: Whether pictures with text may go to loggers that send them away.
        with_text: The keys of those pictures.

    Args:
        every_n_steps: Look after so many optimizer steps; None: in every validation, at the weights that are
            validated.
        call: How to run the model on a batch: ``call(module, batch)``, which returns what the model does
            (default: as its own validation step calls its network).
        **sizes: What the example depends on. A checkpoint's example is used again only if they are the same.
    """

    log_text = True
    with_text: frozenset[str] = frozenset()

    def __init__(self, every_n_steps: int | None, call: ModelCall | None = None, **sizes: Any) -> None:
        check_sizes(every_n_steps=1 if every_n_steps is None else every_n_steps)
        self.every_n_steps, self.call = every_n_steps, call
        self._sizes = sizes
        self.reset()

    def reset(self) -> None:
        """Forgets what was found, and the example."""
        self.history: list[Entry] = []
        self._example: Example | None = None
        self.network_call: NetworkCall | None = None  # None: the model is called with the inputs alone
        self._looks = self._drawn = 0  # looks so far, and when the last pictures were drawn
        self._stopped = self._warned = False
        self._looked_at: int | None = None  # where the numbers of the last look are logged
        self._found: Entry = {}  # in the validation that runs

    @abstractmethod
    def take(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Example:
        """Returns what to look at, of a batch or other than that: tensors by name, copies.

        Raises:
            InputError: It has nothing of the kind, and no other batch will.
        """

    def cut(self, call: NetworkCall, batch: Any, example: Example) -> NetworkCall:
        """Returns the part of a call that is of the sequences and tokens of ``example``.

        Raises:
            InputError: There is none.
        """
        return call.cut()

    @abstractmethod
    def look(self, trainer: Trainer, pl_module: LightningModule, example: Example) -> Entry:
        """Returns what is found of the model, to be kept in `history`; empty where nothing is.

        Args:
            trainer: The trainer.
            pl_module: The model, in evaluation mode; random numbers may be drawn.
            example: What `take` gave, on the model's device.

        Raises:
            InputError: Nothing can be found of these weights; those of the next time may do.
        """

    def numbers(self, entry: Entry) -> dict[str, float]:
        """Returns what to log of an entry of `history`."""
        return {key: value for key, value in entry.items() if key != "step"}

    def show(self, trainer: Trainer, entry: Entry) -> None:
        """Shows, on every rank, what was just found and logged, beyond the pictures that come in time."""

    @abstractmethod
    def pictures(self) -> Mapping[str, "Figure | Image"]:
        """Returns, by the key that they are logged under, the pictures of all that was found so far."""

    # -- when -----------------------------------------------------------------------------------------

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first example that comes by."""
        self._keep(trainer, pl_module, batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first example, where no validation came before the first look."""
        if self.every_n_steps is not None:
            self._keep(trainer, pl_module, batch)

    def _keep(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if self._example is not None or self._stopped:
            return
        try:
            call = call_of(type(self).__name__, pl_module, batch, self.call)
            known = batch if call is None else with_sequences(batch, call)
            example = self.take(trainer, pl_module, known)
            self.network_call = None if call is None else self.cut(call, known, example)
            self._example = example
        except InputError as error:
            self._stop(f"{error}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the weights that training begins with, for the pictures alone."""
        if not self.history:
            self._look(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Looks after the first batch: between batches the weights are those that are validated.

        At the end of the validation they may already be those of the training again, if another callback
        averages weights.
        """
        steps = self.every_n_steps is not None and trainer.state.fn == "fit"
        if is_first(batch_idx, dataloader_idx) and not trainer.sanity_checking and not steps:
            self._found = self._look(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs and draws what was found of the validated weights."""
        entry, self._found = self._found, {}
        if entry:
            self._log(trainer, pl_module, self.numbers(entry))
            self._show(trainer, entry)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks, logs and draws, every so many steps."""
        if self.every_n_steps is None:
            return
        last = self.history[-1]["step"] if self.history else 0
        if trainer.global_step // self.every_n_steps <= last // self.every_n_steps:
            return
        if entry := self._look(trainer, pl_module):
            log_at_step(trainer, self.numbers(entry))
            self._show(trainer, entry)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws what was not drawn yet."""
        self._show(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws what was not drawn yet: training may have been stopped by hand."""
        self._show(trainer)

    # -- what -----------------------------------------------------------------------------------------

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> Entry:
        if self._example is None or self._stopped:
            return {}
        example = {name: x.to(pl_module.device) for name, x in self._example.items()}
        if self.network_call is not None:
            call = replace(self.network_call, function=self.call)
            self.network_call = call.to(pl_module.device)
        try:
            with undisturbed(pl_module), trainer.precision_plugin.val_step_context():
                entry = self.look(trainer, pl_module, example)
        except InputError as error:  # such as weights that diverged
            self._warn(f"logs nothing: {error}")
            return {}
        except Exception as error:  # somebody else's forward: a look is not worth a training
            first = next(iter(example.values()))
            self._stop(
                f"{type(pl_module).__name__} with inputs of shape {tuple(first.shape)} failed: {error!r}"
            )
            return {}
        if not entry:
            return {}
        if self.history and self.history[-1]["step"] == trainer.global_step:  # validated once more
            self.history.pop()
        else:
            self._looks += 1
        self._looked_at = logging_step(trainer)
        self.history.append({"step": trainer.global_step, **entry})
        return self.history[-1]

    def _log(self, trainer: Trainer, pl_module: LightningModule, numbers: dict[str, float]) -> None:
        """Logs at a validation; `Trainer.validate` returns what the module logs, a millisecond each."""
        if trainer.state.fn == "fit":
            log_at_step(trainer, numbers)
        else:
            # the rank's own example: without a collective, which a rank that saw no batch would not reach
            # (sync_dist only keeps Lightning from asking for one)
            pl_module.log_dict(numbers, batch_size=1, sync_dist=True, rank_zero_only=True)

    def _show(self, trainer: Trainer, entry: Entry | None = None) -> None:
        """Shows what was just found, and draws if it is time to; without an entry what was not drawn yet."""
        try:
            if entry is not None:
                self.show(trainer, entry)
            self._draw(trainer, self._drawn + 1 if entry is None else 3 * self._drawn)
        except Exception as error:  # a picture is not worth a training, either
            self._warn(f"cannot show what it found: {error!r}")

    def _draw(self, trainer: Trainer, least: int) -> None:
        """Draws if there were that many looks: a picture has all before it, and costs several of them."""
        if self._looks < max(least, 1) or not trainer.is_global_zero:
            return
        self._drawn = self._looks
        if not trainer.loggers:
            return
        step = logging_step(trainer) if self._looked_at is None else self._looked_at
        for key, picture in self.pictures().items():
            for logger in loggers_of_text(trainer, self.log_text or key not in self.with_text):
                log_figure(logger, key, picture, step)

    def _stop(self, why: str) -> None:
        self._stopped = True
        self._warn(f"logs nothing: {why}")

    def _nothing_there(self, why: str) -> Entry:
        """Looks no more, since the model has nothing of the kind, which is no mistake."""
        self._stopped = True
        rank_zero_info(f"{type(self).__name__} logs nothing: {why}")
        return {}

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"{type(self).__name__} {what}")

    # -- checkpoint -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was found, and the example, as plain numbers."""
        example = None
        if self._example is not None:
            example = {name: x.tolist() for name, x in self._example.items()}
        history = [dict(entry) for entry in self.history]
        call = None if self.network_call is None else self.network_call.to_plain()
        if call is None and self.network_call is not None:  # then another example is taken at resume
            example = None
        return {"history": history, "example": example, "call": call, "sizes": self._sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the history, and with the example unless another one is asked for."""
        self.history = [dict(entry) for entry in state_dict["history"]]
        self._looks = len(self.history)
        if state_dict["example"] is not None and state_dict["sizes"] == self._sizes:
            self._example = {name: torch.tensor(x) for name, x in state_dict["example"].items()}
            plain = state_dict.get("call")
            self.network_call = None if plain is None else NetworkCall.from_plain(plain)


def is_first(batch_idx: int, dataloader_idx: int) -> bool:
    """Says whether a batch is the first of a validation."""
    return batch_idx == 0 and dataloader_idx == 0


@contextmanager
def undisturbed(module: LightningModule) -> Iterator[None]:
    """Evaluation as :func:`~lightning_seq.networks.base.evaluating`; random numbers and states come back.

    A state is what a module keeps in a buffer, or in an attribute that holds tensors or None.
    """
    # the CPU's generator is always kept; MPS cannot be, and neither dropout nor sampling draws from it here
    kind = module.device.type
    devices = [] if kind in ("cpu", "mps", "meta") else [module.device]
    with (
        torch.random.fork_rng(devices, device_type=kind if devices else "cuda"),
        evaluating(module),
        _restoring_state(module),
    ):
        yield


@contextmanager
def _restoring_state(module: LightningModule) -> Iterator[None]:
    """Gives every submodule back the buffers, and the attributes that hold tensors or None, that it had."""
    buffers = [
        (m, name, x, x.clone()) for m in module.modules() for name, x in m._buffers.items() if x is not None
    ]
    attributes = [
        (vars(m), {name: x for name, x in vars(m).items() if x is None or _holds_tensors(x)})
        for m in module.modules()
    ]
    try:
        yield
    finally:
        for m, name, buffer, values in buffers:
            m._buffers[name] = buffer
            if not torch.equal(buffer, values):
                buffer.copy_(values)
        for now, before in attributes:
            now.update({name: x for name, x in before.items() if now.get(name, x) is not x})


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return bool(value) and all(_holds_tensors(x) for x in value)
    return isinstance(value, Tensor)


def call_of(
    who: str, module: LightningModule, batch: Any, call: ModelCall | None = None
) -> NetworkCall | None:
    """Returns how a model runs on a batch: as ``call``, its ``forward_arguments`` or its step says.

    Args:
        who: Who asks, for what is said.
        module: The model.
        batch: A batch on its device.
        call: See :class:`Probe`.

    Returns:
        The call; None where it cannot be told, which is said, and the model has a ``forward`` to be called by
        the inputs alone.

    Raises:
        InputError: It cannot be told, and there is no ``forward``.
    """
    name = type(module).__name__
    try:
        with undisturbed(module), isolate_rng(include_cuda=False):
            return _call_of(module, batch, call)
    except Exception as error:  # somebody else's step
        why = f"{error}" if isinstance(error, InputError) else repr(error)
    advice = f"how {name} calls its network cannot be repeated, as {why}: give call=, a function"
    advice += " (module, batch)"
    if call is not None or not is_overridden("forward", module):
        raise InputError(advice)
    rank_zero_info(f"{who} calls {name}(inputs); {advice}, where it needs more than its inputs")
    return None


def _call_of(module: LightningModule, batch: Any, call: ModelCall | None) -> NetworkCall:
    if call is not None:
        return NetworkCall("", (batch,), {}, function=call).cut()
    if (arguments := getattr(module, "forward_arguments", None)) is not None:
        return NetworkCall("", (), arguments(batch)).cut()
    step = module.validation_step if is_overridden("validation_step", module) else module.training_step
    if step == module.training_step and not module.automatic_optimization:
        raise InputError("it has no validation_step, and its training_step steps the optimizer itself")
    parameters = inspect.signature(step).parameters.values()
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    indices = [0] if many else [0 for each in parameters if each.kind is not each.VAR_KEYWORD][1:]
    return captured_call(module, lambda copied: step(copied, *indices), batch)  # of batch and loader


def with_sequences(batch: Any, call: NetworkCall) -> Any:
    """Returns the batch, as a mapping with what the network reads if it is of another kind or has lengths."""
    lengths, inputs = call.lengths(), call.inputs
    known = inputs_of(batch)
    if lengths is None and known is not None and known.dim() >= 2:
        return batch
    if lengths is None:
        return {"inputs": inputs}
    mask = torch.arange(inputs.size(1), device=inputs.device) < lengths.to(inputs.device)[:, None]
    found = dict(batch) if isinstance(batch, Mapping) else {}
    return {**found, "inputs": inputs, "attention_mask": mask.long()}


def sequences_of(batch: Any) -> Tensor:
    """Returns the inputs of a batch, ``(batch, time, ...)``.

    Raises:
        InputError: The batch is of another kind, or its sequences are empty.
    """
    inputs = inputs_of(batch)
    if inputs is None or inputs.dim() < 2 or inputs.size(1) < 1:
        got = type(batch).__name__ if inputs is None else f"inputs of shape {tuple(inputs.shape)}"
        raise InputError(
            "expected batches that are a tensor (batch, time), a tuple that begins with one, or a dict with "
            f"one as 'inputs' or 'input_ids', got {got}"
        )
    return inputs


def inputs_of(batch: Any) -> Tensor | None:
    """Returns the inputs of a batch of any usual kind, a row an example, or None of another kind."""
    if isinstance(batch, Mapping):
        batch = next((batch[key] for key in ("inputs", "input_ids") if key in batch), None)
    elif isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    return batch if isinstance(batch, Tensor) and batch.dim() >= 1 else None
