"""What a training takes of a device's memory and of the disk, and whether that much is there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from lightning_seq.cli.doctor import memory
from lightning_seq.cli.doctor.building import Complain
from lightning_seq.cli.doctor.optimizer_state import state_size
from lightning_seq.cli.doctor.report import Section, size
from lightning_seq.cli.doctor.sizes import free_space
from lightning_seq.models import LanguageModel


def step_of(trainer: Trainer, data: Any, vocab_size: int) -> memory.Step | None:
    """Returns the batch that a device computes at a time, or None where the data does not say."""
    rows, time = getattr(data, "batch_size", None), getattr(data, "context_length", None)
    if rows is None or time is None:
        return None
    if (budget := getattr(data, "tokens_per_batch", None)) is not None:
        rows = max(1, budget // time)
    contiguous = getattr(data, "batching", None) == "contiguous"
    return memory.Step(
        rows,
        time,
        vocab_size,
        carried=contiguous,
        separate_documents=getattr(data, "batching", None) == "blocks" and bool(data.separate_documents),
        precision=str(trainer.precision),
        accumulates=trainer.accumulate_grad_batches > 1,
    )


class Budget:
    """The bytes of a training, for each device.

    Args:
        trainer: What trains.
        model: What is trained.
        optimizers: Its optimizers; they are of no use afterwards.
    """

    def __init__(self, trainer: Trainer, model: Any, optimizers: list[Any]) -> None:
        self.trainer, self.model = trainer, model
        tensors = [*set(model.parameters()), *set(model.buffers())]
        self.weights = sum(each.numel() * each.element_size() for each in tensors)
        trained = [p for p in set(model.parameters()) if p.requires_grad]
        self.gradients = sum(p.numel() * p.element_size() for p in trained)
        self.state = sum(map(state_size, optimizers))
        self.measured: memory.Measured | None = None
        self.failure = ""

    def measure(self, mode: Any, step: memory.Step | None, rebuild: Callable[[], Any]) -> None:
        """Runs a step without content, if it is known what one is.

        Where that fails, a step of one row is run with content: a network may well ask what its tensors hold.

        Args:
            mode: In which the model was built without content; None if it could not be.
            step: A training step; None if it is not known what one is.
            rebuild: Builds the model with content.

        Raises:
            Exception: The network cannot run a training step.
        """
        if not isinstance(self.model, LanguageModel) or step is None:
            self.failure = "its steps are its own: not measured"
            return
        network = self.model.network
        try:
            if mode is not None:
                self.measured = memory.measure(network, mode, step)
                return
            self.failure = "not measured: the model cannot be built without content"
        except Exception as error:
            self.failure = f"not measured ({type(error).__name__})"
            network = rebuild().network
        memory.run_one_row(network, step)

    def section(self, config: Any, complain: Complain) -> Section:
        """Returns the sizes, and complains of what there is no room for."""
        section = Section("memory")
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer state": self.state}
        if isinstance(self.trainer.strategy, DDPStrategy):
            parts["ddp buckets"] = self.gradients
        if (found := self.measured) is not None:
            parts["activations"] = found.activations
            parts["logits and others"] = found.workspace
        for name, count in parts.items():
            section.add(name, count, size(count))
        if self.failure:
            section.add("activations", None, self.failure)
        total = sum(parts.values())
        there = _device_memory(self.trainer)
        section.add(
            "total",
            total,
            f"{size(total)} on each device ({self.trainer.world_size} x {_device(self.trainer)})",
        )
        if there is not None:
            section.add("device has", there, size(there))
        if found is not None:
            section.add("flops per token", found.flops_per_token, f"{found.flops_per_token:.3g}")
        section.add("assumed", self._assumed(), None)
        if there is not None and total > there:
            complain(
                f"a step takes about {size(total)} and the device has {size(there)}: lower data.batch_size "
                "and raise trainer.accumulate_grad_batches, or take a smaller model or a larger device"
            )
        self._add_disk(section, config, complain)
        return section

    def _assumed(self) -> str:
        text = "a second step, uncompiled, with the CPU's kernels; without Python and libraries"
        if type(self.trainer.strategy).__name__ in (
            "FSDPStrategy",
            "ModelParallelStrategy",
            "DeepSpeedStrategy",
        ):
            text += "; all on each device, where the strategy would share them out"
        return text

    def _add_disk(self, section: Section, config: Any, complain: Complain) -> None:
        kept = 0 if config.trainer.enable_checkpointing is False else 2  # best.ckpt and last.ckpt
        needed, where = kept * (self.weights + self.state), Path(config.run_dir or "runs")
        free = free_space(where)
        section.add("checkpoints", needed, f"{size(needed)} in {where}; {size(free)} free")
        if needed > free:
            complain(
                f"checkpoints take {size(needed)} and {where.absolute()} has {size(free)} free: give another "
                "run_dir"
            )


def _device(trainer: Trainer) -> str:
    return trainer.strategy.root_device.type


def _device_memory(trainer: Trainer) -> int | None:
    """Returns the bytes of a device; the processes on a CPU share what it has."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // max(1, trainer.num_devices)
    return None
