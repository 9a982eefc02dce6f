"""The contract every network keeps, and what a state is.

A network is called as ``network(tokens, state=None, targets=None)`` and returns ``(output, state)``:

- ``tokens``: int64, ``(batch, time)``, of any length.
- ``state``: what the network knows of the tokens before; None means no past.
- ``output``: logits ``(batch, time, vocab)`` or, where ``targets`` are given,

  - in evaluation the negative log likelihood in nats of each target, ``(batch, time)``: exactly 0 where the
    target is :data:`IGNORE_INDEX`;
  - in training the loss, summed over the targets that are not ignored, penalties included: one number, since
    losses of single tokens would take all logits, or computing them twice.

  A network of a user's may ignore ``targets``; who calls it tells the three by their dimensions, and refuses
  an output that is none of them.

A network whose ``forward`` has an argument ``document_ids``, ``(batch, time)``, is given the batch's, where
documents are packed into one window: it keeps them apart. A batch with ``document_ids`` is refused where the
network has no such argument.

A state is a pytree (tensors in tuples, lists or dicts) in which every tensor has the batch first. Recurrent
states and key/value caches are both states, so that training, evaluation and generation are written once.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.networks.spreading import give_back, is_spread

State: TypeAlias = Any

IGNORE_INDEX = -100
"""Target that is not scored: torch's own default."""


class Network(nn.Module):
    """A network that keeps the contract of this module; any ``nn.Module`` that does may take its place.

    Attributes:
        context_length: The longest past that the network can use, in tokens; None where there is no bound.
        compiles: Whether torch.compile makes it faster.
        absolute_positions: Whether no more than ``context_length`` tokens may follow an initial state.
    """

    context_length: int | None = None
    compiles: bool = True
    absolute_positions: bool = False

    def forward(
        self, tokens: Tensor, state: State = None, targets: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Runs over ``tokens`` from ``state`` on.

        Args:
            tokens: Ids, ``(batch, time)``.
            state: The state that an earlier call returned, or None for no past.
            targets: The ids to predict, ``(batch, time)``.

        Returns:
            Logits ``(batch, time, vocab)``, or with ``targets`` their negative log likelihoods
            ``(batch, time)``, in training the sum of their losses; and the state after the last token.
        """
        raise TypeError(f"{type(self).__name__} has no forward(tokens, state=None, targets=None): write one")

    def initial_state(self, batch_size: int, length: int | None = None) -> State:
        """Returns the state before the first token, which makes the network carry its past.

        Args:
            batch_size: Number of sequences.
            length: The longest past to keep, in tokens, where a state grows with it (default: the
                network's ``context_length``).
        """
        return None


def takes_document_ids(network: nn.Module) -> bool:
    """Returns whether ``network`` keeps documents apart that are packed into one window."""
    plain = getattr(network, "_orig_mod", network)  # what torch.compile wrapped
    return "document_ids" in inspect.signature(plain.forward).parameters


def check_dropout(dropout: float, name: str = "dropout") -> None:
    """Raises an :class:`InputError` unless ``dropout`` is the probability of something."""
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"{name} is {dropout}, and a probability in [0, 1) is expected")


def check_sizes(least: int = 1, **sizes: float) -> None:
    """Raises an :class:`InputError` unless all ``sizes``, given by name, are at least ``least``."""
    for name, size in sizes.items():
        if not size >= least:  # NaN is neither
            raise InputError(f"{name} is {size}: give {least} or more")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises an :class:`InputError` unless ``value`` is one of ``choices``, a Literal."""
    allowed = get_args(choices)
    if value not in allowed:
        raise InputError(
            f"{name} is {value!r}{did_you_mean(str(value), allowed)}; it must be one of {list(allowed)}"
        )


def detach(state: State) -> State:
    """Returns ``state`` cut from the graph, so that gradients end here."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)


def move(state: State, device: torch.device | str) -> State:
    """Returns ``state`` on ``device``."""
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, state)


def has_lanes(state: State, lanes: int) -> bool:
    """Says whether every tensor of ``state`` has ``lanes`` rows."""
    return all(len(x) == lanes for x in tree_leaves(state) if isinstance(x, Tensor))


def finite_lanes(state: State, lanes: int, device: torch.device) -> Tensor:
    """Returns in which lanes all numbers of ``state`` are finite, bool, ``(lanes,)``."""
    finite = torch.ones(lanes, dtype=torch.bool, device=device)
    for x in tree_leaves(state):
        if isinstance(x, Tensor):
            finite = finite & x.isfinite().reshape(lanes, -1).all(1)
    return finite


def gather_lanes(state: State, index: Tensor) -> State:
    """Returns the rows ``index`` of every tensor of ``state``."""
    return tree_map(lambda x: x[index] if isinstance(x, Tensor) else x, state)


def reset_lanes(state: State, keep: Tensor, initial: State = None) -> State:
    """Returns ``state`` where ``keep``, and ``initial`` (zeros if None) in the other lanes.

    Args:
        state: The state of a batch.
        keep: bool, ``(batch,)``.
        initial: The state before the first token, as ``network.initial_state`` gives it.
    """

    def choose(x: Any, fresh: Any = 0) -> Any:
        if not isinstance(x, Tensor):
            return x
        if len(x) != len(keep):
            raise InputError(
                f"a batch of {len(keep)} lanes cannot continue one of {len(x)}: give batches of "
                "one size, or no `continues`"
            )
        return torch.where(keep.view(-1, *[1] * (x.dim() - 1)), x, fresh)

    return tree_map(choose, state) if initial is None else tree_map(choose, state, initial)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Runs ``module`` as at evaluation: no dropout, no gradients, no compiled graphs.

    Every submodule gets its own mode back, so that a probe in the middle of training changes nothing.
    """
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        # weights that were gathered in inference mode cannot be trained on
        without_gradients = torch.no_grad() if is_spread(module) else torch.inference_mode()
        with without_gradients, torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for m, training in modes:
            m.training = training
        give_back(module)
