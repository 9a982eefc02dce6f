"""What attention heads do, in numbers, computed block by block: no whole map need exist."""

from collections.abc import Iterator
from math import inf, nan

import torch
from torch import Tensor

from lightning_seq.errors import InputError
from lightning_seq.networks.attention_capture import AttentionCall, AttentionRows
from lightning_seq.networks.base import check_sizes

# A block of fewer queries where there are many heads or keys: 8 MiB of fp32.
_BLOCK_NUMBERS = 2**21
# Farther below the largest score than any that there is.
_FAR = 1e30


def measure_heads(call: AttentionCall, valid: Tensor | None = None, block: int = 128) -> dict[str, Tensor]:
    """Measures each head.

    Shares are among tokens: what a query takes from attention sinks is left out, except in ``sink``. Means
    are over the queries that count: those that see at least two tokens and are no padding. Where there
    are fewer queries than keys, as with a cache, the queries are the last tokens.

    Args:
        call: Any call of attention.
        valid: Which queries are no padding, bool, (sequences, queries) (default: all).
        block: The most queries to compute at a time.

    Returns:
        By name a number for each head, (heads,), fp32, on the device; NaN where no query counts.

        - ``entropy``: of what a query takes from the keys, over the logarithm of the visible length: 0 all
          from one key, 1 the same from each.
        - ``max_probability``: the largest share.
        - ``previous_token``: the share of the token before the query's.
        - ``first_token``: the share of the first token; under left padding of the first that is none.
        - ``distance``: from the query to what it looks at, in tokens.
        - ``max_logit``: the largest score of a query that is no padding, left out where there are no scores.
        - ``sink``: the share of keys that are no tokens, left out where there are none.

    Raises:
        InputError: ``valid`` has another shape, or ``block`` is below 1.
    """
    check_sizes(block=block)
    expected = (call.sequences, call.queries)
    if valid is not None and valid.shape != expected:
        raise InputError(
            f"valid has shape {tuple(valid.shape)}, and the call has (sequences, queries) {expected}: give "
            "one bool for each query that was seen"
        )
    valid = None if valid is None else valid.bool()
    sums: dict[str, Tensor] = {}
    for start, rows in _blocks(call, block):
        for name, value in _sums(call, rows, start, valid).items():
            add = torch.maximum if name == "top" else torch.add
            sums[name] = add(sums[name], value) if name in sums else value
    return _means(call, sums, valid)


def induction_score(call: AttentionCall, period: int) -> Tensor:
    """How much each head looks at what followed the same token before.

    The prefix matching of Olsson et al. 2022 (https://arxiv.org/abs/2209.11895): on the tokens of
    :func:`repeated_tokens`, the mean share that a query in the second copy takes from the token after the
    same token in the first one.

    Args:
        call: The attention over ``2 * period`` tokens.
        period: The number of tokens that are said twice.

    Returns:
        A number for each head, (heads,).

    Raises:
        InputError: There is another number of queries, or there are fewer keys than queries.
    """
    shift = call.keys - call.extra_keys - call.queries
    if period < 1 or call.queries != 2 * period or shift < 0:
        raise InputError(
            f"got {call.queries} queries of {call.keys} keys and period {period}: give the attention over "
            "2 x period tokens, as repeated_tokens makes them"
        )
    total = torch.zeros((), dtype=torch.float32)
    for start, rows in _blocks(call, 128, period):
        share = rows.probabilities.diagonal(start + shift - period + 1, -2, -1)
        total = total.to(share.device) + share.sum((0, 2))
    return total / (call.sequences * period)


def repeated_tokens(vocab_size: int, period: int, sequences: int = 4, seed: int = 0) -> Tensor:
    """Draws random tokens that are said twice, for :func:`induction_score`.

    Args:
        vocab_size: Number of different tokens.
        period: How many are drawn, without repeats where the vocabulary allows it.
        sequences: How many sequences.
        seed: Of the draw; PyTorch's own random numbers stay as they are.

    Returns:
        int64, (sequences, 2 * period).
    """
    check_sizes(vocab_size=vocab_size, period=period, sequences=sequences)
    generator = torch.Generator().manual_seed(seed)
    if vocab_size < period:
        once = torch.randint(vocab_size, (sequences, period), generator=generator)
    else:
        drawn = [torch.randperm(vocab_size, generator=generator)[:period] for _ in range(sequences)]
        once = torch.stack(drawn)
    return once.repeat(1, 2)


def attention_maps(call: AttentionCall, tokens: int) -> Tensor:
    """Returns the maps of the first sequence, cut to its first tokens.

    Args:
        call: Any call of attention.
        tokens: How many queries and keys to return at most. Shares are of all keys that are tokens.

    Returns:
        (heads, queries, keys), fp32.
    """
    return call.token_rows(0, tokens).probabilities[0, :, :, :tokens].clone()


def _blocks(call: AttentionCall, block: int, start: int = 0) -> Iterator[tuple[int, AttentionRows]]:
    """Yields the queries from ``start`` on, at most ``block`` at a time, and the first one's number."""
    block = max(1, min(block, _BLOCK_NUMBERS // max(1, call.sequences * call.heads * call.keys)))
    for first in range(start, call.queries, block):
        yield first, call.token_rows(first, min(first + block, call.queries))


def _sums(call: AttentionCall, rows: AttentionRows, start: int, valid: Tensor | None) -> dict[str, Tensor]:
    """Sums over sequences and queries of a block, by head, and their largest scores.

    ``column`` is by key, (sequences, heads, keys), and so is ``top``, the largest score that a key has.
    """
    stop = start + rows.probabilities.size(2)
    counts = rows.visible >= 2  # (sequences, heads, queries)
    if valid is not None:
        counts = counts & valid[:, None, start:stop]
    # not multiplied: a query that does not count may be NaN
    shares = torch.where(counts[..., None], rows.probabilities, 0.0)
    largest = shares.amax(-1)
    entropy = _entropy(shares, largest, rows.scores) / rows.visible.clamp(min=2).log()
    tokens = call.keys - call.extra_keys
    shift = start + max(0, tokens - call.queries)  # which token the first of these queries is
    away = _distances(shift, stop - start, tokens, shares.device)
    sums = {
        "count": counts.sum((0, 2)),
        "entropy": entropy.masked_fill(~counts, 0.0).sum((0, 2)),
        "max_probability": largest.sum((0, 2)),
        "previous_token": shares.diagonal(shift - 1, -2, -1).sum((0, 2)),
        "distance": (shares.flatten(2) @ away.flatten()).sum(0),
        "column": shares.sum(2),
    }
    if call.extra_keys:
        sinks = call.rows(start, stop).probabilities[..., tokens:].sum(-1)
        sums["sink"] = sinks.masked_fill(~counts, 0.0).sum((0, 2))
    if rows.scores is not None:
        padding = None if valid is None else ~valid[:, None, start:stop, None]
        sums["top"] = (rows.scores if padding is None else rows.scores.masked_fill(padding, -inf)).amax(2)
    return sums


def _entropy(shares: Tensor, largest: Tensor, scores: Tensor | None) -> Tensor:
    """The entropy of each query in nats, by its scores where there are some: a logarithm for each is slow."""
    if scores is None:
        alone: Tensor = torch.special.entr(shares).sum(-1)
        return alone
    # -log p = (largest score - score) - log(largest p); the bound keeps 0 times infinity away
    below = scores.amax(-1, keepdim=True).sub(scores).clamp_(max=_FAR)
    entropy: Tensor = below.mul_(shares).sum(-1) - largest.log()
    return entropy


def _distances(first: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """From each of ``queries`` tokens, the first of which is the number ``first``, to each key."""
    places = torch.arange(max(first + queries, keys), device=device, dtype=torch.float32)
    away: Tensor = places[:keys] - places[first : first + queries, None]
    return away.abs_()


def _means(call: AttentionCall, sums: dict[str, Tensor], valid: Tensor | None) -> dict[str, Tensor]:
    first = _first_keys(call, sums, valid)[:, None, None].expand(-1, call.heads, 1)
    sums["first_token"] = sums["column"].gather(2, first).sum((0, 2))
    names = ("entropy", "max_probability", "previous_token", "first_token", "distance")
    means = {name: sums[name] / sums["count"] for name in (*names, "sink") if name in sums}
    means["entropy"] = means["entropy"].clamp(0.0, 1.0)  # rounding leaves 1.0000001
    if "top" in sums:
        logit = sums["top"].amax((0, 2))
        means["max_logit"] = logit.masked_fill(logit == -inf, nan)
    return means


def _first_keys(call: AttentionCall, sums: dict[str, Tensor], valid: Tensor | None) -> Tensor:
    """Which key is the first token of each sequence: the first that is no padding or that anyone may see."""
    tokens = call.keys - call.extra_keys
    if valid is not None and call.queries == tokens:
        seen = valid
    elif "top" in sums:
        seen = sums["top"].amax(1) != -inf
    else:  # maps alone do not tell
        return torch.zeros(call.sequences, dtype=torch.long, device=sums["column"].device)
    return seen.int().argmax(-1)
