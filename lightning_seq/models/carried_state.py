"""Truncated back-propagation through time: the state that goes on from batch to batch."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from lightning_seq.networks.base import (
    Network,
    State,
    detach,
    finite_lanes,
    has_lanes,
    move,
    reset_lanes,
)


class CarriedState:
    """Keeps the state of each stage, and gives it to the next batch where that one continues the text.

    Training and evaluation have a state each, so that a validation leaves the training's alone. States are no
    buffers: DDP would overwrite them with rank zero's. Where a batch was skipped, as for a loss that is not
    finite, lanes whose state is not finite begin anew.
    """

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._before: State = None  # the training's before its last batch, in case that one is not finished
        self._batch = (0, 0)  # epoch and number of that batch
        self._restored = False  # whether the training's comes from a checkpoint
        self.trained = True  # whether the last batch was trained on, and not skipped
        self._suspect = False  # whether the training's state may be that of a skipped batch

    def clear(self) -> None:
        """Forgets everything."""
        self._states.clear()
        self.trained, self._suspect = True, False

    def forget(self, stage: str) -> None:
        """Forgets the state of ``stage``."""
        self._states.pop(stage, None)

    def before(self, stage: str, batch: dict[str, Tensor], network: nn.Module) -> State:
        """Returns the state to run ``batch`` from: None where the data knows of no text that goes on."""
        if "continues" not in batch:
            return None
        lanes = len(batch["continues"])
        make = getattr(network, "initial_state", None)
        initial = None if make is None else make(lanes)
        state = self._states.get(stage)
        if stage == "train" and self._restored:
            self._restored, self._suspect = False, True
            if not has_lanes(state, lanes):
                rank_zero_info("resume: another batch size or world size, so the carried state begins anew")
                return initial
            if _knows_its_state(network):
                if not _same_shapes(state, initial):
                    rank_zero_info("resume: another network's state, so the carried state begins anew")
                    return initial
                state = _in_precision_of(initial, state)
        if state is None or not (has_lanes(state, lanes) or batch["continues"].any()):
            return initial  # a new text may have another number of lanes
        # Lightning moves batches to the device, but not the state
        state = move(state, batch["continues"].device)
        keep = batch["continues"]
        if stage == "train" and self._suspect and has_lanes(state, lanes):
            keep = keep & finite_lanes(state, lanes, keep.device)
        return reset_lanes(state, keep, initial)

    def after(self, stage: str, batch: dict[str, Tensor], state: State) -> None:
        """Keeps the state that ``batch`` left, cut from the graph."""
        self._states[stage] = detach(state) if "continues" in batch else None

    def begin_batch(self, module: LightningModule) -> None:
        """Remembers the training's state, in case an exception comes before this batch is trained on."""
        self._before, self._batch = self._states.get("train"), _ready_and_processed(module)[0]
        self._suspect, self.trained = not self.trained, False

    def undone(self, module: LightningModule) -> bool:
        """Says whether the last batch was begun and not trained on: a resumed run is given it again."""
        ready, processed = _ready_and_processed(module)
        return self._batch == ready != processed

    def undo(self) -> None:
        """Returns to the state before the last batch, which will be trained on again."""
        self._states["train"] = self._before

    def for_checkpoint(self, module: LightningModule) -> State:
        """Returns the training's state on the CPU, the lanes of all ranks; with several, all must ask."""
        state = self._before if self.undone(module) else self._states.get("train")
        if state is not None and module.trainer.world_size > 1:
            gathered: Any = module.all_gather(state)
            state = tree_map(lambda x: x.flatten(0, 1), gathered)  # (ranks * batch, ...)
        return move(state, "cpu")

    def from_checkpoint(self, state: State, module: LightningModule) -> None:
        """Takes this rank's lanes of a state that a checkpoint holds."""
        ranks, rank = module.trainer.world_size, module.trainer.global_rank
        lanes = tree_map(lambda x: x[len(x) * rank // ranks : len(x) * (rank + 1) // ranks], state)
        self._states["train"] = move(lanes, module.device)
        self._restored = True


def _knows_its_state(network: nn.Module) -> bool:
    """Whether ``initial_state`` is more than the default, which says nothing of what a state looks like."""
    return getattr(type(network), "initial_state", Network.initial_state) is not Network.initial_state


def _same_shapes(state: State, initial: State) -> bool:
    (ours, tree), (theirs, wanted) = tree_flatten(state), tree_flatten(initial)
    return tree == wanted and all(
        getattr(x, "shape", None) == getattr(y, "shape", None) for x, y in zip(ours, theirs, strict=True)
    )


def _in_precision_of(initial: State, state: State) -> State:
    return tree_map(lambda x, y: x.to(y.dtype) if isinstance(x, Tensor) else x, state, initial)


def _ready_and_processed(module: LightningModule) -> tuple[tuple[int, int], tuple[int, int]]:
    loop: Any = module.trainer.fit_loop
    epoch, batches = loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress.current
    return (epoch, batches.ready), (epoch, batches.processed)
