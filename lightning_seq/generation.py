"""Sampling from a network, token by token, without ever running over the prefix twice."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import evaluating
from lightning_seq.networks.outputs import check_shape, output_and_state


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises an :class:`InputError` for settings that no distribution can be sampled with."""
    if not temperature >= 0:  # NaN is neither
        raise InputError(f"temperature is {temperature}: give 0 (always the likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}: give the number of tokens to choose from, at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}: give a share of the probability, above 0 and at most 1")


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one token from each row of logits.

    Args:
        logits: ``(batch, vocab)``.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Only the ``top_k`` likeliest tokens take part.
        top_p: Only the likeliest tokens that together hold this share of the probability take part (nucleus
            sampling, Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).
        generator: Source of randomness, on the logits' device.

    Returns:
        Ids, ``(batch,)``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_k is not None:
        kept = probabilities.topk(min(top_k, probabilities.size(-1))).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < kept, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p is not None:
        ordered, order = probabilities.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the token that crosses the share stays
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


def stream(
    network: nn.Module,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    suppress_tokens: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Yields ``max_new_tokens`` times the next token of every row, ``(batch,)``.

    The network reads the prompt once and then one token a step, from its own state (recurrent state or
    key/value cache). A network that keeps no state is run over its last ``context_length`` tokens instead;
    one whose positions count from the first token begins anew from half of them when it has no more.

    Args:
        network: Keeps the contract of :mod:`lightning_seq.networks.base`.
        tokens: The prompt, ``(batch, time)``, at least one token; what exceeds the network's context is cut
            off at its beginning.
        max_new_tokens: How many to draw.
        temperature: See :func:`sample`.
        top_k: See :func:`sample`.
        top_p: See :func:`sample`.
        seed: Makes the draw repeatable; the global random state is never touched.
        suppress_tokens: Ids that are never drawn.
    """
    drawn = _draw(network, tokens, max_new_tokens, temperature, top_k, top_p, seed, suppress_tokens)
    while True:
        with evaluating(network):  # what is done between two tokens may be training
            token = next(drawn, None)
        if token is None:
            return
        yield token


def _draw(
    network: nn.Module,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    suppress_tokens: Sequence[int] = (),
) -> Iterator[Tensor]:
    check_sampling(temperature, top_k, top_p)
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens is {max_new_tokens}: give 0 or more")
    if seed is not None and not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}: give a whole number from 0 to {2**64 - 1}")
    if tokens.size(1) == 0:
        raise InputError("the prompt has no token: give at least one")
    generator = torch.Generator(tokens.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    suppressed = torch.tensor(suppress_tokens, dtype=torch.long, device=tokens.device)
    reader = _Reader(network, tokens, max_new_tokens)
    for i in range(max_new_tokens):
        logits = reader.read()
        if i == 0 and not logits.amax().isfinite():  # asked once: on a GPU it waits
            raise InputError("the network's logits are not finite: its weights have diverged, take others")
        if suppress_tokens:
            logits = logits.index_fill(-1, suppressed, -torch.inf)
        drawn = sample(logits, temperature, top_k, top_p, generator)
        reader.append(drawn)
        yield drawn


class _Reader:
    """Lets a network read on, token by token, within the past that it can use."""

    def __init__(self, network: nn.Module, tokens: Tensor, max_new_tokens: int) -> None:
        self._network = network
        total = tokens.size(1) + max_new_tokens
        self._context: int = getattr(network, "context_length", None) or total
        self._absolute: bool = getattr(network, "absolute_positions", False)
        self._tokens = self._next = tokens[:, -self._context :]
        total = self._next.size(1) + max_new_tokens
        self._read, self._room = 0, min(self._context, total)
        self._whole = self._room if self._absolute else total  # of what is read before it begins anew
        self._state = self._begin()

    def _begin(self) -> Any:
        read = getattr(self._network, "reading_state", None)
        if callable(read) and (state := read(self._whole)) is not None:
            return state
        make = getattr(self._network, "initial_state", None)
        return make(len(self._tokens), self._room) if callable(make) else None

    def read(self) -> Tensor:
        """Returns the logits of the token to come, ``(batch, vocab)``."""
        logits, self._state = output_and_state(self._network, self._network(self._next, self._state))
        if self._read == 0:
            check_shape(self._network, logits, (self._next.size(0), self._next.size(1)))
        self._read += self._next.size(1)
        return logits[:, -1]  # type: ignore[no-any-return]

    def append(self, drawn: Tensor) -> None:
        """Takes ``drawn``, ``(batch,)``, as what is to be read next."""
        self._next = drawn[:, None]
        if self._state is None or self._absolute:
            self._tokens = torch.cat([self._tokens, self._next], 1)[:, -self._context :]
        if self._state is None:
            self._next = self._tokens
        elif self._absolute and self._read == self._context:  # no position is left: begin anew from half
            self._next, self._read = self._tokens[:, -max(1, self._context // 2) :], 0
            self._state = self._begin()


def generate(network: nn.Module, tokens: Tensor, max_new_tokens: int, **sampling: object) -> Tensor:
    """Returns the prompt and ``max_new_tokens`` more, ``(batch, time + max_new_tokens)``.

    Args:
        network: See :func:`stream`.
        tokens: See :func:`stream`.
        max_new_tokens: See :func:`stream`.
        **sampling: temperature, top_k, top_p, seed and suppress_tokens, see :func:`stream`.
    """
    with evaluating(network):
        drawn = list(_draw(network, tokens, max_new_tokens, **sampling))  # type: ignore[arg-type]
    return torch.cat([tokens, *(ids[:, None] for ids in drawn)], 1)
