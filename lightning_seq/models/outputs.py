"""The check, once in each way in which a network is called, that it returns what can be scored."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.models.compilation import Compilation
from lightning_seq.networks.base import IGNORE_INDEX, evaluating
from lightning_seq.networks.losses import negative_log_likelihood
from lightning_seq.networks.outputs import check_shape, check_values

_ROWS = 4  # that the summed loss of a batch is estimated from
_FEWEST_TARGETS = 64  # from which on a sum and a mean cannot be taken for one another


class OutputCheck:
    """Checks the first output of a network in training, in evaluation and without targets.

    Args:
        network: See :mod:`lightning_seq.networks.base`.
        compilation: What runs it.
    """

    def __init__(self, network: nn.Module, compilation: Compilation) -> None:
        self._network, self._compilation = [network], compilation  # in a list: it is no submodule of this
        self._done: set[tuple[bool, bool]] = set()

    def clear(self) -> None:
        """Checks the next outputs again."""
        self._done.clear()

    def check(self, output: Any, batch: dict[str, Tensor], targets: Tensor | None) -> None:
        """Refuses an output that cannot be scored.

        Raises:
            InputError: Its shape or its values are not what the contract says.
        """
        network = self._network[0]
        way = (network.training, targets is None)
        if way in self._done:
            return
        rows, time = batch["inputs"].shape[:2]
        check_shape(network, output, (rows, time), targets)
        check_values(network, output, batch["targets"])
        own = type(network).__module__.startswith(f"{__package__.partition('.')[0]}.")
        if network.training and targets is not None and output.numel() == 1 and not own:
            self._check_sum(float(output.detach()), batch, targets)
        self._done.add(way)

    def _check_sum(self, loss: float, batch: dict[str, Tensor], targets: Tensor) -> None:
        """Refuses a mean loss: a step would divide it by the number of targets once more."""
        network, count = self._network[0], int((targets != IGNORE_INDEX).sum())
        few: dict[str, Tensor] = {"inputs": batch["inputs"][:_ROWS], "targets": batch["targets"][:_ROWS]}
        if "document_ids" in batch:
            few["document_ids"] = batch["document_ids"][:_ROWS]
        scored = int((few["targets"] != IGNORE_INDEX).sum())
        if count < _FEWEST_TARGETS or not scored:
            return
        try:
            with evaluating(network), torch.no_grad():
                logits, _ = self._compilation.run(few, None, None)
            mean = float(negative_log_likelihood(logits, few["targets"]).sum()) / scored
        except Exception as error:  # a network that cannot be called so can still be trained
            rank_zero_warn(
                f"{type(network).__name__} gives no logits without targets ({error!r}), so it is not known "
                "whether its training loss is summed over the targets, as it must be"
            )
            return
        if abs(loss) < mean * count**0.5:  # nearer to the mean than to the sum, by orders of magnitude
            raise InputError(
                f"{type(network).__name__} returned a training loss of {loss:.4g} for {count} targets, of a "
                f"mean loss of about {mean:.4g} each: return the sum over the targets, or logits"
            )
