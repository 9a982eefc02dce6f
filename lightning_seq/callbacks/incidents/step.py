"""What goes into one optimizer step, kept until it is made: batches, random states, losses."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_seq.callbacks.gradients.seam import GradientStep
from lightning_seq.callbacks.incidents.buffers import Buffers
from lightning_seq.callbacks.incidents.detector import Step
from lightning_seq.networks.spreading import whole

_MOST_BATCHES = 64  # of a step in manual optimization, which may never come


class StepWindow:
    """The batches that one optimizer step accumulates, and all that is needed to run them again.

    Nothing is copied but the states of random number generators and those buffers that training changes.
    """

    def __init__(self, module: LightningModule) -> None:
        self.batches: list[Any] = []
        self.randomness: list[dict[str, Any]] = []
        self.losses: list[Tensor] = []
        self.complete = True  # whether all batches of the step are here
        self.steps_taken = 0  # in manual optimization by optimizers that came earlier in these batches
        self._buffers = Buffers(module)
        self.state: Any = None  # what a LanguageModel carried on into the first batch

    def begin_batch(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Takes a batch that is about to be trained on."""
        place = batch_idx % trainer.accumulate_grad_batches
        if module.automatic_optimization and place == 0:
            self.clear()
        if not self.batches:
            self.complete = not module.automatic_optimization or place == 0
            self._buffers.remember()
            self.state = getattr(_carried(module), "_states", {}).get("train")
        if len(self.batches) == _MOST_BATCHES and not module.automatic_optimization:
            self.complete = False
            del self.batches[0], self.randomness[0]
        self.batches.append(_own_containers(batch))
        self.randomness.append(random_states(module.device))

    def add_loss(self, loss: Tensor, trainer: Trainer) -> None:
        """Takes the loss of a batch, as it is about to be differentiated."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = None if scaler is None else scaler._get_scale_async()
        loss = whole(loss.detach()).float().clone()
        self.losses.append(loss if scale is None else loss / scale.to(loss))

    def measure(self, trainer: Trainer, step: GradientStep) -> Step:
        """Returns mean loss and norm of the step over all ranks, the same on each. Waits for the device."""
        number = trainer.fit_loop.epoch_loop._batches_that_stepped
        loss = torch.stack(self.losses).mean().to(step.norm) if self.losses else torch.zeros_like(step.norm)
        both = torch.stack([loss, step.norm])
        mean, norm = trainer.strategy.reduce(both, reduce_op="mean").tolist()
        # Lightning divides losses by the number of batches that are accumulated
        return Step(number, mean * trainer.accumulate_grad_batches if self.losses else None, norm)

    def end_step(self) -> None:
        """Takes note that an optimizer is about to make its step."""
        self.losses = []
        self.steps_taken += 1

    def end_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Lets go of the batches of a step that is done."""
        done = self.steps_taken > 0
        if done or (module.automatic_optimization and not trainer.fit_loop._should_accumulate()):
            self.clear()

    def clear(self) -> None:
        """Forgets all batches."""
        self.batches, self.randomness, self.losses, self.steps_taken = [], [], [], 0

    @contextmanager
    def undone(self, trainer: Trainer, module: LightningModule) -> Iterator[None]:
        """Lets counters, buffers and carried state be those before the step, so that they can be saved.

        A checkpoint made here goes on with the first batch of the step.
        """
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        place = progress.current.processed % trainer.accumulate_grad_batches
        earlier = place if module.automatic_optimization else len(self.batches) - 1
        last, progress.is_last_batch = progress.is_last_batch, False
        _move(progress, -earlier)
        try:
            with self._buffers.as_remembered(), _carrying(module, self.state, earlier):
                yield
        finally:
            _move(progress, earlier)
            progress.is_last_batch = last

    def undo(self, module: LightningModule) -> None:
        """Takes back what a step that is left out did to buffers, and to a carried state if that broke."""
        self._buffers.restore()
        states = getattr(_carried(module), "_states", {})
        leaves = [x for x in tree_leaves(states.get("train")) if isinstance(x, Tensor)]
        if not all(bool(x.isfinite().all()) for x in leaves):
            states["train"] = self.state


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns the states of all generators that a step may draw from; nothing waits for the device."""
    states = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": np.random.get_state()}
    if device.type not in ("cpu", "mps", "meta"):
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Sets the generators; that of an accelerator only where it is of the same kind."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys), *rest))
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def _own_containers(batch: Any) -> Any:
    """The same tensors in containers of our own: some modules take values out of theirs."""
    if type(batch) in (list, tuple):
        return type(batch)(_own_containers(each) for each in batch)
    if isinstance(batch, Mapping):
        return {key: _own_containers(value) for key, value in batch.items()}
    return batch


def _move(progress: Any, batches: int) -> None:
    for tracker in (progress.current, progress.total):
        for name in ("ready", "started", "processed", "completed"):
            setattr(tracker, name, getattr(tracker, name) + batches)


def _carried(module: Any) -> Any:
    """What a LanguageModel carries on from batch to batch; None of any other module."""
    return getattr(module, "_carried", None)


@contextmanager
def _carrying(module: Any, state: Any, earlier: int) -> Iterator[None]:
    """Lets a LanguageModel find ``state`` when it saves what the first batch of the step began with.

    It knows what came before the last batch; only what came before ``earlier`` ones has to be told.
    """
    carried = _carried(module)
    if carried is None or not earlier:
        yield
        return
    counted, (epoch, batch) = module._normalization, carried._batch
    kept = carried._before, carried._batch, counted.tokens_before
    carried._before, carried._batch, counted.tokens_before = state, (epoch, batch - earlier), None
    try:
        yield
    finally:
        carried._before, carried._batch, counted.tokens_before = kept
