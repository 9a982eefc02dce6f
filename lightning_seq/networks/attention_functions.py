"""How each kind of attention that PyTorch runs gets its scores, for any block of queries.

One function for each kind. Each takes how many sequences to look at and what the attention itself was given,
and returns :class:`Scores`, or None where there is nothing to see. Nothing large is computed until a block is
asked for; then in fp32, whatever the attention ran in.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant

# Many models mask by adding a large negative number that is not infinite: this and below is a mask.
_MASK = -1e4
# The same after the score was added, which may be above 0.
_MASKED_SCORE = -5e3


class Scores(NamedTuple):
    """What one call of attention takes the softmax of.

    Attributes:
        shape: Sequences, heads, queries and keys.
        block: Given the first query and the one after the last, their scores, (sequences, heads, queries of
            the block, keys), fp32, -inf where a query may not see a key.
        extra_keys: How many keys at the end are no tokens.
    """

    shape: tuple[int, int, int, int]
    block: Callable[[int, int], Tensor]
    extra_keys: int = 0


def scaled_dot_product(
    sequences: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Scores | None:
    """The scores of ``F.scaled_dot_product_attention``."""
    if query.is_nested or key.is_nested:
        return None
    diagonal = 0 if is_causal else None
    if isinstance(attn_mask, CausalBias):  # a mask that holds no numbers
        lower_right = attn_mask.variant == CausalVariant.LOWER_RIGHT
        diagonal = attn_mask.seq_len_kv - attn_mask.seq_len_q if lower_right else 0
        attn_mask = None
    if enable_gqa:
        query, key = query[:sequences], key[:sequences]
        key = key.repeat_interleave(query.size(-3) // key.size(-3), dim=-3)
    masks = [] if attn_mask is None else [attn_mask]
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    return _dot_products(sequences, query, key, scale, masks, diagonal)


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def multi_head(sequences: int, *args: Any, **kwargs: Any) -> Scores | None:
    """The scores of ``F.multi_head_attention_forward``, which projects its inputs itself."""
    call = _MULTI_HEAD.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    if given["query"].is_nested:
        return None
    heads = given["num_heads"]
    query, key = _projected(sequences, given)
    tokens = key.size(0)
    if (bias := given["bias_k"]) is not None:
        key = torch.cat([key, bias.float().expand(1, key.size(1), -1)])
    query, key = _split_heads(query, heads), _split_heads(key, heads)
    if (static := given["static_k"]) is not None:
        key = static[: len(query) * heads].float().unflatten(0, (-1, heads))
        tokens = key.size(-2)
    if given["add_zero_attn"]:
        key = F.pad(key, (0, 0, 0, 1))
    padding, diagonal = given["key_padding_mask"], None
    masks = []
    if given["is_causal"] and padding is None and not given["need_weights"]:
        diagonal = 0  # then the hint is taken for the mask, as PyTorch does
    elif (mask := given["attn_mask"]) is not None:
        # in this function, unlike in the other one, True means that a key must not be seen
        mask = mask if mask.dim() == 2 else mask[: len(query) * heads].unflatten(0, (-1, heads))
        masks.append(~mask if mask.dtype == torch.bool else mask)
    if padding is not None:
        padding = (padding if padding.dim() == 2 else padding[None])[: len(query), None, None]
        masks.append(~padding if padding.dtype == torch.bool else padding)
    scale = 1 / math.sqrt(query.size(-1))
    return _dot_products(sequences, query, key, scale, masks, diagonal, key.size(-2) - tokens)


def flex(
    sequences: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: Any = None,
    score_buffers: Sequence[Any] = (),
    mask_buffers: Sequence[Any] = (),
) -> Scores:
    """The scores of the operator behind FlexAttention."""
    from torch.nn.attention.flex_attention import create_mask  # it runs such functions over all indices

    query, key = query[:sequences].float() * scale, key[:sequences].float()
    key = key.repeat_interleave(query.size(1) // key.size(1), dim=1).transpose(-2, -1)
    mask_mod: Callable[..., Tensor] = block_mask[-1]

    def block(start: int, stop: int) -> Tensor:
        scores = query[:, :, start:stop] @ key

        def modified(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            score = score_mod(scores[b, h, q, k], b, h, q + start, k, *score_buffers)
            return torch.where(mask_mod(b, h, q + start, k, *mask_buffers), score, -math.inf)

        sequences, heads, queries, keys = scores.shape
        return _unmasked(create_mask(modified, sequences, heads, queries, keys, scores.device))

    return Scores((*query.shape[:3], key.size(-1)), block)


def softmax(
    sequences: int, heads: int, input: Tensor, dim: int | None = None, *_: Any, out: Any = None, **__: Any
) -> Scores | None:
    """The scores that a module took the softmax of itself.

    Args:
        sequences: How many to look at.
        heads: How many the module has, for scores (sequences * heads, queries, keys); or else 1.
        input: (sequences, heads, queries, keys), or with three dimensions, of which the last two are equal.
        dim: Only the last one is of keys.
        out: May have taken the place of the scores.
        _: What does not matter.
        __: What does not matter.
    """
    square = input.dim() == 3 and input.size(-2) == input.size(-1)
    if out is not None or input.is_nested or not (input.dim() == 4 or square):
        return None
    if dim not in (-1, input.dim() - 1):
        return None
    if square:
        heads = heads if len(input) % heads == 0 else 1
        input = input.reshape(-1, heads, *input.shape[1:])
    input = input[:sequences]
    shape = (input.size(0), input.size(1), input.size(2), input.size(3))
    return Scores(shape, lambda start, stop: _unmasked(input[:, :, start:stop].float()))


def with_sinks(scores: Scores, before: int, after: int) -> Scores:
    """Returns the scores with the first and the last keys, which are no tokens, behind the others."""
    keys = scores.shape[-1]

    def block(start: int, stop: int) -> Tensor:
        whole = scores.block(start, stop)
        tokens = whole[..., before : keys - after]
        return torch.cat([tokens, whole[..., :before], whole[..., keys - after :]], dim=-1)

    return Scores(scores.shape, block, before + after)


def _dot_products(
    sequences: int,
    query: Tensor,
    key: Tensor,
    scale: float,
    masks: Sequence[Tensor],
    diagonal: int | None,
    extra_keys: int = 0,
) -> Scores:
    """The scores of queries (..., queries, width) and keys (..., keys, width).

    Masks are True for what is seen or are added, and broadcast to (..., queries, keys); query i sees the keys
    up to i + ``diagonal``; the ``extra_keys`` at the end are under no mask.
    """
    leads = [x.shape[:-2] for x in (query, key, *masks)]
    lead: torch.Size = torch.broadcast_shapes(*leads)  # type: ignore[no-untyped-call]
    queries, keys = query.size(-2), key.size(-2)
    size = (queries, keys - extra_keys)
    seen = [mask.expand(*lead, *size)[slice(sequences) if lead else ...] for mask in masks]
    query = _first(query, sequences, lead).float() * scale
    key = _first(key, sequences, lead).float().transpose(-2, -1)
    shape = (min(sequences, lead[0]) if lead else 1, math.prod(lead[1:]), queries, keys)

    def block(start: int, stop: int) -> Tensor:
        scores = query[..., start:stop, :] @ key
        for mask in seen:
            scores = _masked(scores, mask[..., start:stop, :], extra_keys)
        if diagonal is not None:
            last = torch.arange(start, stop, device=scores.device)[:, None] + diagonal
            scores.masked_fill_(torch.arange(keys, device=scores.device) > last, -math.inf)
        return scores.reshape(*shape[:2], -1, keys)

    return Scores(shape, block, extra_keys)


def _first(x: Tensor, sequences: int, lead: torch.Size) -> Tensor:
    x = x.expand(*lead, *x.shape[-2:])
    return x[:sequences] if lead else x


def _masked(scores: Tensor, mask: Tensor, extra_keys: int) -> Tensor:
    if mask.dtype == torch.bool:
        return scores.masked_fill(F.pad(~mask, (0, extra_keys)), -math.inf)
    mask = F.pad(mask.float(), (0, extra_keys))
    return (scores + mask).masked_fill(mask <= _MASK, -math.inf)


def _unmasked(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores <= _MASKED_SCORE, -math.inf)


def _projected(sequences: int, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Queries and keys after their linear layers, (time, sequences, width), fp32."""
    weights = [given["q_proj_weight"], given["k_proj_weight"]]
    if not given["use_separate_proj_weight"]:
        weights = given["in_proj_weight"].chunk(3)[:2]
    biases = [None, None] if given["in_proj_bias"] is None else given["in_proj_bias"].float().chunk(3)[:2]
    query, key = (
        F.linear((x if x.dim() == 3 else x[:, None])[:, :sequences].float(), weight.float(), bias)
        for x, weight, bias in zip((given["query"], given["key"]), weights, biases, strict=True)
    )
    return query, key


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(time, sequences, width) -> (sequences, heads, time, width / heads)."""
    time, sequences, _ = x.shape
    return x.reshape(time, sequences, heads, -1).permute(1, 2, 0, 3)
