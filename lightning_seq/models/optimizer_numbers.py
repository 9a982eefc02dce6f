"""The numbers by which a checkpoint's optimizer states name parameters."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_seq import checkpoints


def number_by_place(checkpoint: dict[str, Any], entry: dict[str, Any], module: LightningModule) -> None:
    """Numbers parameters by their place in the model, not in the optimizer's groups.

    torch goes by the order alone when it loads; FSDP2 takes the numbers for places in the model, as
    those that it writes are.
    """
    trainer = module.trainer
    if isinstance(trainer.strategy, ModelParallelStrategy):  # a distributed checkpoint goes by names
        entry[checkpoints.PARAMETERS] = [name for name, _ in module.named_parameters()]
        return
    places = {parameter: place for place, parameter in enumerate(module.parameters())}
    states = checkpoint.get("optimizer_states", [])  # none where only weights are saved
    for i, (saved, optimizer) in enumerate(zip(states, trainer.optimizers, strict=False)):
        groups = zip(saved["param_groups"], optimizer.param_groups, strict=True)
        pairs = [pair for group, ours in groups for pair in zip(group["params"], ours["params"], strict=True)]
        states[i] = checkpoints.renumbered(saved, {number: places[p] for number, p in pairs})
