"""The neural cache: a word that followed a similar state is likelier now (Grave et al. 2017)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation.scoring import Method, Step, forward
from lightning_seq.networks.base import IGNORE_INDEX, State, evaluating


@dataclass(frozen=True)
class NeuralCache(Method):
    """Mixes the network's prediction with one from the recent past, without any training.

    The cache gives a word w the share of ``exp(theta h_t . h_i)`` that those of the last ``window`` places i
    hold which were followed by w, h being what goes into the head; then p = (1 - lambda) p_network + lambda
    p_cache (https://arxiv.org/abs/1612.04426). Where there is no past yet the network stands alone.

    Args:
        window: How many places are remembered.
        theta: How much likeness counts; 0 counts words.
        share: The paper's lambda, the cache's share of the probability.
    """

    window: int
    theta: float
    share: float

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"the cache's window is {self.window}: give at least 1")
        if not (self.theta >= 0 and math.isfinite(self.theta)):
            raise InputError(f"the cache's theta is {self.theta}: give 0 or more")
        if not 0 <= self.share < 1:
            raise InputError(f"the cache's lambda is {self.share}: give a share in [0, 1)")

    @property
    def name(self) -> str:
        """What is added to the protocol's name."""
        return f"neural cache, window {self.window}, theta {self.theta:g}, lambda {self.share:g}"

    @contextmanager
    def steps(self, network: nn.Module) -> Iterator[Step]:
        """Gives the step that looks at the cache."""
        head = getattr(network, "head", None)
        if not isinstance(head, nn.Module):
            raise InputError(
                f"{type(network).__name__} has no module `head`, before which the cache finds the hidden "
                "states: call that module head, or leave the cache out"
            )
        memory = _Memory(self, network)
        hook = head.register_forward_pre_hook(memory.see)
        try:
            with evaluating(network):
                yield memory.step
        finally:
            hook.remove()


@dataclass
class _Memory:
    """Hidden states and the words that followed them, of each lane, newest last."""

    settings: NeuralCache
    network: nn.Module
    seen: list[Tensor] = field(default_factory=list)
    keys: Tensor | None = None  # (lanes, window, width)
    words: Tensor | None = None  # (lanes, window), IGNORE_INDEX where there is nothing yet

    def see(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.seen.append(arguments[0])

    def step(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
        self.seen.clear()
        nll, state = forward(self.network, inputs, targets, state)
        if len(self.seen) != 1 or self.seen[0].shape[:2] != targets.shape:
            raise InputError(
                f"{type(self.network).__name__} does not call head(hidden, targets) once a call, with hidden "
                "(batch, time, width), as the cache needs it: leave the cache out"
            )
        hidden = self.seen[0].to(torch.promote_types(self.seen[0].dtype, torch.float32))
        return self._mixed(nll, hidden, targets), state

    def _mixed(self, nll: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
        """Returns the losses of the mixture, and takes the chunk into the cache."""
        window, share, time = self.settings.window, self.settings.share, targets.size(1)
        if self.keys is None or self.words is None:
            self.keys = hidden.new_zeros(len(hidden), window, hidden.size(2))
            self.words = targets.new_full((len(targets), window), IGNORE_INDEX)
        keys, words = torch.cat([self.keys, hidden], 1), torch.cat([self.words, targets], 1)
        age = (
            window
            + torch.arange(time, device=nll.device)[:, None]
            - torch.arange(window + time, device=nll.device)
        )  # (time, window + time): how long ago each place was
        recent = (
            (age >= 1) & (age <= window) & (words != IGNORE_INDEX)[:, None]
        )  # (lanes, time, window + time)
        likeness = self.settings.theta * hidden @ keys.transpose(1, 2)
        likeness = likeness.masked_fill(~recent, -torch.inf)
        hit = likeness.masked_fill(words[:, None] != targets[:, :, None], -torch.inf)
        of_cache = hit.logsumexp(-1) - likeness.logsumexp(-1)  # NaN where nothing is remembered
        mixed = -torch.logaddexp(math.log1p(-share) - nll, _log(share) + of_cache)
        self.keys, self.words = keys[:, -window:], words[:, -window:]
        return torch.where(recent.any(-1), mixed, nll)


def _log(share: float) -> float:
    return math.log(share) if share else -math.inf
