"""See the attention of any PyTorch module while its fused kernels stay the ones that compute.

Fused attention returns no weights. Within `capture_attention` every attention is computed as always, and its
scores are computed once more beside it: in fp32, for a few sequences only, and block by block, so that whole
maps of large models need not exist.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_seq.networks.attention_functions import (
    Scores,
    flex,
    multi_head,
    scaled_dot_product,
    softmax,
    with_sinks,
)
from lightning_seq.networks.attention_modules import RunningModules, number_of_heads
from lightning_seq.networks.attention_origins import Origins


class AttentionRows(NamedTuple):
    """How some queries of a call attend.

    Attributes:
        probabilities: What each query takes from each key, (sequences, heads, queries, keys), fp32; zeros for
            a query that may see no key.
        visible: How many keys each query may see, (sequences, heads, queries).
        scores: What the softmax was taken of, shaped as the probabilities, fp32; -inf where a query may not
            see a key. None where there are none.
    """

    probabilities: Tensor
    visible: Tensor
    scores: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of attention, as one module made it.

    Attributes:
        module: Dotted name of the calling module inside the captured one, empty for the captured one itself.
        sequences: How many sequences are seen.
        heads: Heads of queries.
        queries: Queries of a sequence.
        keys: Keys of a sequence.
        extra_keys: How many of the keys, put last here, are no tokens but attention sinks: a learnt key or
            one of zeros, as ``nn.MultiheadAttention`` can add, or learnt scores, as gpt-oss has.
    """

    module: str
    sequences: int
    heads: int
    queries: int
    keys: int
    extra_keys: int
    _rows: Callable[[int, int], AttentionRows] = field(repr=False)

    @classmethod
    def of_maps(cls, maps: Tensor, visible: Tensor, module: str = "") -> "AttentionCall":
        """Makes a call of maps that are known, without scores.

        Args:
            maps: (sequences, heads, queries, keys).
            visible: How many keys each query may see, (sequences, heads, queries).
            module: Its name.
        """
        maps = maps.float()
        sequences, heads, queries, keys = maps.shape

        def rows(start: int, stop: int) -> AttentionRows:
            return AttentionRows(maps[:, :, start:stop], visible[:, :, start:stop])

        return cls(module, sequences, heads, queries, keys, 0, rows)

    def rows(self, start: int = 0, stop: int | None = None) -> AttentionRows:
        """Computes the attention of the queries from ``start`` to before ``stop`` (default: to the last)."""
        start, stop, _ = slice(start, stop).indices(self.queries)
        with torch.no_grad():
            return self._rows(start, stop)

    def token_rows(self, start: int = 0, stop: int | None = None) -> AttentionRows:
        """As :meth:`rows`, among the keys that are tokens alone: their shares sum to 1."""
        rows = self.rows(start, stop)
        if not self.extra_keys:
            return rows
        tokens = self.keys - self.extra_keys
        if rows.scores is not None:
            return _rows(rows.scores[..., :tokens])
        shares = rows.probabilities[..., :tokens]
        shares = (shares / shares.sum(-1, keepdim=True)).nan_to_num(0.0)
        return AttentionRows(shares, (rows.visible - self.extra_keys).clamp(min=0))

    @property
    def probabilities(self) -> Tensor:
        """The whole maps, computed anew each time, (sequences, heads, queries, keys), fp32."""
        return self.rows().probabilities

    @property
    def visible(self) -> Tensor:
        """How many keys each query may see, (sequences, heads, queries)."""
        return self.rows().visible


@dataclass
class Captured:
    """What was seen so far.

    Attributes:
        calls: In the order in which they were made, an `AttentionCall` each, or what was made of it.
        unseen: Names of the modules that must have attended, by their names, where PyTorch cannot show it.
    """

    calls: list[Any] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


@contextmanager
def capture_attention(
    module: nn.Module, max_sequences: int = 1, reduce: Callable[[AttentionCall], Any] | None = None
) -> Iterator[Captured]:
    """Collects the attention of the forward passes of `module` that run inside this context.

    Seen are `F.scaled_dot_product_attention`, `nn.MultiheadAttention` and all that is made of it,
    FlexAttention, and softmaxes by hand, of scores that are products or sums of queries and keys, in modules
    whose name or class speaks of attention. Outputs, random
    numbers and gradients are those of the same module run eagerly; PyTorch's inference fast path of
    `nn.TransformerEncoder` gives way to its ordinary path. Compiled modules run eagerly meanwhile, and are
    not compiled anew afterwards.

    Args:
        module: Any module.
        max_sequences: Of each batch, the first sequences to look at.
        reduce: Called with each `AttentionCall` as soon as it is made; what it returns is kept in its place.
            What it does not ask for is never computed; ask within it, since tensors may be changed later.

    Yields:
        What was seen, which grows with each call.
    """
    with ExitStack() as stack:
        # eagerly, or the hooks of a compiled module would never fire, or make it compile anew
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # so it is, for now
        running = RunningModules(module, stack)
        captured = Captured(unseen=running.unseen)
        stack.enter_context(_AttentionMode(running, captured.calls, max_sequences, reduce))
        yield captured


class _AttentionMode(TorchFunctionMode):
    """Sees every function of PyTorch's that a module calls; what these call themselves stays their own."""

    def __init__(
        self,
        running: RunningModules,
        calls: list[Any],
        max_sequences: int,
        reduce: Callable[[AttentionCall], Any] | None,
    ) -> None:
        super().__init__()
        self._running, self._calls = running, calls
        self._origins = Origins(running)
        self._max_sequences, self._reduce = max_sequences, reduce

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)  # first, so that its errors are its own
        self._origins.note(func, args, kwargs, output)
        if func in _FUSED or func in _SOFTMAXES:
            device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            # fp32 means fp32: autocast would turn the products back into half precision
            with torch.no_grad(), torch.autocast(device, enabled=False):
                scores = self._scores(func, args, kwargs)
                if scores is not None:
                    if not scores.extra_keys:
                        scores = self._sinks_apart(func, args, kwargs, scores)
                    self._keep(self._running.saw(), scores)
        return output

    def _scores(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores | None:
        if func in _FUSED:
            return _FUSED[func](self._max_sequences, *args, **kwargs)
        named = self._running.named()
        if not self._origins.are_scores(args[0] if args else kwargs["input"]):
            return None  # of the features of each position, say
        return softmax(self._max_sequences, number_of_heads(named), *args, **kwargs) if named else None

    def _sinks_apart(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], scores: Scores
    ) -> Scores:
        taken_of = (args[0] if args else kwargs["input"]).shape if func in _SOFTMAXES else ()
        before, after = self._origins.sinks(taken_of, *scores.shape[2:])
        return with_sinks(scores, before, after) if before or after else scores

    def _keep(self, name: str, scores: Scores) -> None:
        if self._reduce is None:  # now, since queries and keys may be changed in place
            whole = scores.block(0, scores.shape[2])
            scores = scores._replace(block=lambda start, stop: whole[:, :, start:stop])

        def rows(start: int, stop: int) -> AttentionRows:
            return _rows(scores.block(start, stop))

        call = AttentionCall(name, *scores.shape, scores.extra_keys, rows)
        self._calls.append(call if self._reduce is None else self._reduce(call))


def _rows(scores: Tensor) -> AttentionRows:
    # int32 before it is summed up: four times as fast on a CPU
    visible = (scores != -torch.inf).to(torch.int32).sum(-1, dtype=torch.int32).long()
    # rows without any key are NaN; those of a model that has diverged stay so
    probabilities = scores.softmax(-1).masked_fill_((visible == 0)[..., None], 0.0)
    return AttentionRows(probabilities, visible, scores)


_FUSED: dict[Any, Callable[..., Scores | None]] = {
    F.scaled_dot_product_attention: scaled_dot_product,
    F.multi_head_attention_forward: multi_head,
    torch.ops.higher_order.flex_attention: flex,
}
_SOFTMAXES = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
