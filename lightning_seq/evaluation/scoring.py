"""The loss of every token of a text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation.protocols import Blocks, Protocol
from lightning_seq.networks.base import IGNORE_INDEX, State, evaluating
from lightning_seq.networks.losses import negative_log_likelihood
from lightning_seq.networks.outputs import check_shape, check_values, output_and_state

Step: TypeAlias = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]
"""From inputs, targets ``(rows, time)`` and a state to the loss of each target and the next state."""

TOKENS_FROM_START = 20
"""Targets of each piece that :func:`initial_state_loss` scores: the length of a short prompt."""
_TOKENS_SCORED_FROM_START = 100_000


class Method(ABC):
    """What goes on beside the network while a stream is scored."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is added to the protocol's name."""

    @abstractmethod
    def steps(self, network: nn.Module) -> AbstractContextManager[Step]:
        """Gives the step that is taken at each piece, and cleans up behind it."""


def score(
    network: nn.Module,
    tokens: Tensor,
    protocol: Protocol,
    batch_size: int = 32,
    method: Method | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Returns the negative log likelihood, in nats, of every token of a text but the first.

    Args:
        network: Keeps the contract of :mod:`lightning_seq.networks.base`, on the device to use; its weights,
            its mode and its gradients are left alone.
        tokens: int64, ``(length,)``, at least two.
        protocol: Which past each token is predicted from.
        batch_size: Rows that are run at once where rows are independent; it does not change the result.
        method: Dynamic evaluation or a neural cache, over a stream.
        progress: Called with the number of targets that were just scored.

    Returns:
        fp64 on the CPU, ``(length - 1,)``: sum first, divide then.

    Raises:
        InputError: Network, text, protocol and method do not fit one another.
    """
    targets = _check(tokens, batch_size)
    protocol.check(network, targets)
    state = protocol.initial_state(network)
    if method is not None and state is None:
        raise InputError(
            f'{method.name} goes along with a text, and "{protocol.name}" does not: take "stream"'
        )
    tokens, device = tokens.cpu(), _device(network)
    carried, parts = state is not None, list[tuple[Tensor, Tensor, Tensor]]()
    with _plain(network) if method is None else method.steps(network) as step:
        for places, scored in protocol.pieces(targets, batch_size):
            inputs = tokens[places].to(device)
            wanted = tokens[places + 1].masked_fill(~scored, IGNORE_INDEX).to(device)
            nll, state = step(inputs, wanted, state if carried else None)
            if not parts:
                check_values(network, nll, wanted)
            parts.append((places[scored], scored, nll.detach()))
            if progress is not None:
                progress(int(scored.sum()))
    losses = torch.full((targets,), torch.nan, dtype=torch.float64)
    for where, scored, nll in parts:  # only now, so that a GPU need not wait
        losses[where] = nll.cpu().double()[scored]
    return losses


def initial_state_loss(network: nn.Module, tokens: Tensor, batch_size: int = 32) -> float:
    """Returns the mean loss of the first 20 tokens that the network reads from its initial state, in nats.

    A network that carried its state through all of its training, and so never learned to start, has a low
    loss within a stream and still continues a prompt badly. This loss shows it: the text is cut into pieces
    of 20 targets, and each is read without a past. Of a long text the first 100,000 tokens are read.

    Args:
        network: As in :func:`score`.
        tokens: int64, ``(length,)``, at least two.
        batch_size: Pieces that are run at once; it does not change the result.
    """
    bound = getattr(network, "context_length", None) or TOKENS_FROM_START
    pieces = Blocks(min(TOKENS_FROM_START, bound))
    return float(score(network, tokens[:_TOKENS_SCORED_FROM_START], pieces, batch_size).mean())


def forward(network: nn.Module, inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
    """Returns the loss of each target ``(rows, time)``, 0 where it is ignored, and the next state."""
    output, state = output_and_state(network, network(inputs, state, targets))
    check_shape(network, output, (inputs.size(0), inputs.size(1)), targets)
    return (negative_log_likelihood(output, targets) if output.dim() == 3 else output), state


@contextmanager
def _plain(network: nn.Module) -> Iterator[Step]:
    with evaluating(network):
        yield partial(forward, network)


def _check(tokens: Tensor, batch_size: int) -> int:
    if tokens.dim() != 1 or len(tokens) < 2:
        raise InputError(f"the text is {tuple(tokens.shape)} tokens: give one row of at least 2")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    return len(tokens) - 1


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
