"""What watches a step that is run again, on every rank, and ends the training before anything moves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_seq.callbacks.gradients.seam import GradientSeam, GradientStep
from lightning_seq.callbacks.incidents import files
from lightning_seq.callbacks.incidents.step import StepWindow, restore_random_states
from lightning_seq.callbacks.incidents.watch import by_layer, name_all
from lightning_seq.cli.replay_rows import worst_rows


class Done(Exception):  # noqa: N818  (no error)
    """All is seen."""


class Probe(Callback):
    """Sets modes and random numbers as they were, takes losses and gradients, and stops.

    Args:
        directory: Of the incident.
        evaluating: Names of the submodules that were in evaluation mode.
        folder: Where each rank leaves what it has found.
    """

    def __init__(self, directory: Path, evaluating: list[str], folder: Path) -> None:
        self._directory, self._evaluating, self._folder = directory, set(evaluating), folder
        self._broken: list[str] = []
        self._hooks: list[Any] = []
        self._randomness: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Opens the seam."""
        self._trainer, self._module = trainer, pl_module
        seam = GradientSeam.of(trainer)
        assert seam is not None  # else nothing was recorded
        seam.listen(self._see)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Forgets where the loaders of the training stood: the batches are here."""
        checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watches what every submodule returns."""
        self._randomness = files.read_batches(self._directory, trainer.global_rank)["randomness"]
        self._window = StepWindow(pl_module)
        self._weights = [name for name, p in pl_module.named_parameters() if not _finite(p)]
        parts = [(name, part) for name, part in pl_module.named_modules() if part is not pl_module]
        self._hooks = [part.register_forward_hook(self._hook(name)) for name, part in parts]

    def _hook(self, name: str) -> Any:
        def look(part: nn.Module, inputs: Any, output: Any) -> None:
            if not self._broken and not _finite(output):
                self._broken.append(f"{name} ({type(part).__name__})")

        return look

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets modes and random numbers."""
        for name, part in pl_module.named_modules():
            part.training = name not in self._evaluating
        self._window.begin_batch(trainer, pl_module, batch, batch_idx)
        restore_random_states(self._randomness[len(self._window.batches) - 1], pl_module.device)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Takes the loss."""
        self._window.add_loss(loss, trainer)

    def _see(self, step: GradientStep) -> None:
        found = self._window.measure(self._trainer, step)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        self._unhook()
        content = {
            "loss": found.loss,
            "norm": found.norm,
            "layers": by_layer(name_all(step.parameters, names), step.norms.tolist()),
            "broken": next(iter(self._broken), None),
            "weights": self._weights,
            "rows": worst_rows(self._trainer, self._module, self._window),
        }
        torch.save(content, self._path(self._trainer.global_rank))
        self._trainer.strategy.barrier("replay")  # before one rank's end ends the others
        raise Done

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the module as it was."""
        self._unhook()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _path(self, rank: int) -> Path:
        return self._folder / f"{rank}.pt"

    def has_found(self, ranks: int) -> bool:
        """Says whether every rank has seen the step."""
        return all(self._path(rank).exists() for rank in range(ranks))

    def found(self, ranks: int) -> list[dict[str, Any]]:
        """Returns what every rank has seen."""
        return [torch.load(self._path(rank), weights_only=True) for rank in range(ranks)]


def _finite(output: Any) -> bool:
    tensors = (x for x in tree_leaves(output) if isinstance(x, Tensor))
    return all(bool(x.isfinite().all()) for x in tensors)


def saved_batches(directory: Path, report: dict[str, Any], trainer: Trainer) -> "_Saved":
    """Returns a loader of the batches of an incident, of the length that the trained one had."""
    length, last = report["batches_per_epoch"], report["last_of_epoch"]
    if length == float("inf"):
        return _Saved(directory, trainer, last)
    return _Counted(directory, trainer, last, int(length))


class _Saved:
    def __init__(self, directory: Path, trainer: Trainer, last: bool) -> None:
        self._directory, self._trainer, self._last = directory, trainer, last

    def __iter__(self) -> Iterator[Any]:
        batches = files.read_batches(self._directory, self._trainer.global_rank)["batches"]
        yield from batches
        if not self._last:
            yield batches[-1]  # so that the one before it is not the last


class _Counted(_Saved):
    def __init__(self, directory: Path, trainer: Trainer, last: bool, length: int) -> None:
        super().__init__(directory, trainer, last)
        self._length = length

    def __len__(self) -> int:
        return self._length
