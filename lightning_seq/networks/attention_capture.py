"""See the attention of any PyTorch module while its fused kernels stay the ones that compute.

Fused attention returns no weights. Within `capture_attention` every call of
`F.scaled_dot_product_attention` and of `F.multi_head_attention_forward` is computed as always, and its
probabilities are computed once more beside it, in fp32 and for a few sequences only.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Many models mask by adding a large negative number that is not infinite: this and below is a mask.
_MASKED = -1e4


@dataclass(frozen=True)
class AttentionCall:
    """One call of attention, as one module made it.

    Attributes:
        module: Dotted name of the calling module inside the captured one, empty for the captured one itself.
        probabilities: What each query takes from each key, (sequences, heads, queries, keys), fp32. A query
            that may see no key has zeros.
        visible: How many keys each query may see, (sequences, heads, queries).
    """

    module: str
    probabilities: Tensor
    visible: Tensor


@contextmanager
def capture_attention(
    module: nn.Module, max_sequences: int = 1, reduce: Callable[[AttentionCall], Any] | None = None
) -> Iterator[list[Any]]:
    """Collects the attention of the forward passes of `module` that run inside this context.

    Compiled modules run eagerly meanwhile, and are not compiled anew afterwards.

    Args:
        module: Any module. What it computes does not change.
        max_sequences: Of each batch, the first sequences to look at.
        reduce: Called with each `AttentionCall` as soon as it is made; what it returns is kept in its place,
            so that the whole maps of a large model need not be.

    Yields:
        The list that grows by one entry per call of attention, in the order of the calls.
    """
    calls: list[Any] = []
    running: list[str] = [""]

    def keep(probabilities: Tensor, visible: Tensor) -> None:
        call = AttentionCall(running[-1], probabilities, visible)
        calls.append(call if reduce is None else reduce(call))

    with ExitStack() as stack:
        # eagerly, or the hooks of a compiled module would never fire, or make it compile anew
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, child in module.named_modules():
            _name_while_running(child, name.replace("_orig_mod", "").strip("."), running, stack)
        stack.enter_context(_AttentionMode(keep, max_sequences))
        yield calls


def head_entropy(probabilities: Tensor, visible: Tensor | None = None) -> Tensor:
    """How evenly each head spreads its attention: 0 is all on one key, 1 is the same on every visible key.

    Args:
        probabilities: (sequences, heads, queries, keys).
        visible: How many keys each query may see, (sequences, heads, queries); by default those that got any
            probability.

    Returns:
        Per head the entropy over the logarithm of the visible length, averaged over the queries that see at
        least two keys; 0 where no query does. (heads,)
    """
    if visible is None:
        visible = (probabilities > 0).sum(-1)
    counted = visible >= 2
    entropy = torch.special.entr(probabilities).sum(-1) / visible.clamp(min=2).log()
    mean: Tensor = (entropy * counted).sum((0, 2)) / counted.sum((0, 2)).clamp(min=1)
    return mean.clamp(0.0, 1.0)  # rounding leaves 1.0000001


def _name_while_running(module: nn.Module, name: str, running: list[str], stack: ExitStack) -> None:
    """Keeps `name` on top of `running` during the module's forward, until `stack` closes."""

    def enter(_module: nn.Module, _args: Any) -> None:
        running.append(name)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        running.pop()

    stack.callback(module.register_forward_pre_hook(enter).remove)
    stack.callback(module.register_forward_hook(leave, always_call=True).remove)


class _AttentionMode(TorchFunctionMode):
    """Sees the two functions that all of PyTorch's own attention goes through."""

    def __init__(self, keep: Callable[[Tensor, Tensor], None], max_sequences: int) -> None:
        super().__init__()
        self._keep = keep
        self._max_sequences = max_sequences

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        probe = _PROBES.get(func)
        if probe is not None:
            query = args[0] if args else kwargs["query"]
            if not query.is_nested:
                # fp32 means fp32: autocast would turn the products back into half precision
                with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
                    self._keep(*probe(self._max_sequences, *args, **kwargs))
        return func(*args, **kwargs)


def _scaled_dot_product(
    max_sequences: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `F.scaled_dot_product_attention` multiplies the values with, and what each query may see."""
    if (materialize := getattr(attn_mask, "_materialize", None)) is not None:
        attn_mask = materialize(query.device)  # torch.nn.attention.bias: a mask that holds no numbers
    if query.dim() > 2:
        if attn_mask is not None and attn_mask.dim() == query.dim():
            attn_mask = attn_mask[:max_sequences]
        query, key = query[:max_sequences], key[:max_sequences]
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), dim=-3)
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query.float() @ key.float().transpose(-2, -1)) * scale
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    if is_causal:
        allowed = allowed.tril()
    if attn_mask is not None:
        allowed = allowed & ~_forbidden(attn_mask)
        scores = scores if attn_mask.dtype == torch.bool else scores + attn_mask.float()
    allowed = allowed.expand(scores.shape)
    probabilities = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)
    return _four_dimensions(probabilities), _four_dimensions(allowed).sum(-1)


def _multi_head(max_sequences: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The same of `F.multi_head_attention_forward`, which gives its weights when it is asked for them."""
    call = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments
    call |= {"need_weights": True, "average_attn_weights": False, "dropout_p": 0.0, "training": False}
    if call["query"].dim() == 3:
        for name, count in _batched(call, max_sequences):
            call[name] = call[name][:count] if name in _BATCH_FIRST else call[name][:, :count]
    for name, value in call.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            call[name] = value.float()
    weights = F.multi_head_attention_forward(**call)[1]
    assert weights is not None  # need_weights=True
    weights = weights.nan_to_num(0.0)
    weights = weights if weights.dim() == 4 else weights[None]
    return weights, _multi_head_visible(call, weights)


_BATCH_FIRST = ("key_padding_mask", "attn_mask", "static_k", "static_v")


def _batched(call: dict[str, Any], max_sequences: int) -> Iterator[tuple[str, int]]:
    """Which arguments of a batched call have a batch dimension, and how much of it to keep."""
    yield from ((name, max_sequences) for name in ("query", "key", "value"))
    if call.get("key_padding_mask") is not None:
        yield "key_padding_mask", max_sequences
    for name in ("attn_mask", "static_k", "static_v"):
        if call.get(name) is not None and call[name].dim() == 3:
            yield name, max_sequences * call["num_heads"]


def _multi_head_visible(call: dict[str, Any], weights: Tensor) -> Tensor:
    sequences, heads, queries, _ = weights.shape
    static = call.get("static_k")
    keys = call["key"].size(0) if static is None else static.size(1)
    allowed = torch.ones(sequences, heads, queries, keys, dtype=torch.bool, device=weights.device)
    if (mask := call.get("attn_mask")) is not None:
        # in this function, unlike in the other one, True means that a key must not be seen
        forbidden = mask if mask.dtype == torch.bool else _forbidden(mask)
        if mask.dim() == 3:
            forbidden = forbidden.reshape(sequences, heads, queries, keys)
        allowed = allowed & ~forbidden
    if (padding := call.get("key_padding_mask")) is not None:
        forbidden = padding if padding.dtype == torch.bool else _forbidden(padding)
        allowed = allowed & ~forbidden.reshape(sequences, 1, 1, keys)
    visible: Tensor = allowed.sum(-1) + (weights.size(-1) - keys)  # learnt and zero keys are always seen
    return visible


def _forbidden(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask <= _MASKED


def _four_dimensions(maps: Tensor) -> Tensor:
    if maps.dim() > 4:
        return maps.flatten(1, -3)
    return maps[None, None] if maps.dim() == 2 else maps[:, None] if maps.dim() == 3 else maps


_PROBES: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    F.scaled_dot_product_attention: _scaled_dot_product,
    F.multi_head_attention_forward: _multi_head,
}
