"""torch.compile for the network alone, in place, and without ever compiling it for another shape."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX, takes_document_ids
from lightning_seq.networks.outputs import output_and_state
from lightning_seq.networks.spreading import is_spread, repeated


class Compilation:
    """Runs a network, compiled or not.

    Compiled in place, so that names in checkpoints stay as they are. Shorter batches are padded to the length
    of the others: training, evaluation and logits make three graphs, and past eight torch gives up silently.

    Args:
        network: See :mod:`lightning_seq.networks.base`.
        wanted: Whether to compile it.
    """

    def __init__(self, network: nn.Module, wanted: bool) -> None:
        if wanted and not getattr(network, "compiles", True):
            raise InputError(
                f"compile is True, and {type(network).__name__} runs on fused recurrent kernels, which "
                "torch.compile leaves as they are: leave compile out"
            )
        self._network = [network]  # in a list: it is the model's submodule, not this object's
        self._wanted, self._begun = wanted, False
        self._length: int | None = None
        self.takes_document_ids = takes_document_ids(network)

    def begin(self, data: Any) -> None:
        """Compiles the network, once, for batches of ``data``."""
        if not self._wanted or self._begun:
            return
        if getattr(data, "tokens_per_batch", None) is not None:
            raise InputError(
                f"compile is True and data.tokens_per_batch {data.tokens_per_batch}, which makes batches of "
                "many shapes, each to be compiled: give data.batch_size instead, or leave compile out"
            )
        self._begun = True
        self._length = getattr(data, "context_length", None)
        network = self._network[0]
        # FSDP2 gathers weights between blocks, where a graph of all of them would break
        for part in list(repeated(network)) if is_spread(network) else [network]:
            part.compile()

    def run(self, batch: dict[str, Tensor], state: Any, targets: Tensor | None) -> tuple[Tensor, Any]:
        """Returns what the network makes of the batch: output and state."""
        tokens, time = batch["inputs"], batch["inputs"].size(1)
        documents = {name: batch[name] for name in ("document_ids",) if name in batch}
        missing = self._length - time if self._begun and self._length and "continues" not in batch else 0
        if missing > 0:
            tokens = F.pad(tokens, (0, missing))
            targets = None if targets is None else F.pad(targets, (0, missing), value=IGNORE_INDEX)
            documents = {name: F.pad(ids, (0, missing), value=-1) for name, ids in documents.items()}
        network = self._network[0]
        output, state = output_and_state(network, network(tokens, state, targets, **documents))
        padded = missing > 0 and isinstance(output, Tensor) and output.dim() > 1
        return output[:, :time] if padded else output, state
