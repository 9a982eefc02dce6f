"""What the tensors of a forward pass are made of, as far as it tells attention from other softmaxes.

A softmax over keys is taken of scores that combine two positions: of a product of queries and keys, or of
their sums for each pair. A softmax over the features of each position is not. And a key or a score that is
made of weights alone, of no input, belongs to no token: it is an attention sink.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_seq.networks.attention_modules import RunningModules

_PRODUCTS = {
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "mm",
    "bmm",
    "baddbmm",
    "addmm",
    "addbmm",
    "einsum",
    "tensordot",
    "inner",
    "linear",
    "mv",
    "dot",
}
_JOINS = {"cat", "concat", "concatenate"}
_OTHER_JOINS = {"stack", "hstack", "vstack", "dstack", "pad_sequence"}
_LIKE_THE_FIRST = {"to", "type_as", "expand_as", "view_as", "reshape_as"}


class Sinks(NamedTuple):
    """What was put before and after keys or scores that does not depend on any input.

    Attributes:
        shape: Of all, together.
        dim: Where they are joined, from 0.
        before: How many come first.
        after: How many come last.
        of_scores: Whether it is scores that are joined, rather than keys.
    """

    shape: torch.Size
    dim: int
    before: int
    after: int
    of_scores: bool


class Origins:
    """Follows the tensors of a forward pass."""

    def __init__(self, running: RunningModules) -> None:
        self._running = running
        self._constants: Any = WeakTensorKeyDictionary()  # made of weights alone
        self._scores: Any = WeakTensorKeyDictionary()  # made of two positions: the modules that ran then
        self._shares: Any = WeakTensorKeyDictionary()  # what a softmax gave

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Takes note of what a function made of what."""
        name = getattr(func, "__name__", "")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = given[:1] if name in _LIKE_THE_FIRST else given
        new = name.startswith("new_") or name.endswith("_like")
        # what is made before a module runs may be its input
        inside = self._running.current().module is not None
        constant = inside and (new or all(self._is_constant(x) for x in given))
        made = [args[0]] if name == "__setitem__" else tree_leaves(output)
        for x in made:
            if isinstance(x, Tensor):
                self._mark(self._constants, x, constant)
                self._mark(self._scores, x, () if new else self._places(name, given, x))
                shares = name == "softmax" or (
                    name not in _PRODUCTS and any(g in self._shares for g in given)
                )
                self._mark(self._shares, x, shares and not new)
        if name in _JOINS or name == "pad":
            self._running.current().sinks.extend(self._sinks(name, args, kwargs, output))

    def are_scores(self, x: Any) -> bool:
        """Says whether a tensor has a number for each pair of two positions."""
        return isinstance(x, Tensor) and x in self._scores and self._running.any_runs(self._scores[x])

    def sinks(self, shape: Sequence[int], queries: int, keys: int) -> tuple[int, int]:
        """Returns how many keys before and after the others are no tokens.

        Args:
            shape: Of the scores as the module has them, empty where it has none.
            queries: How many there are.
            keys: How many there are.
        """
        for each in reversed(self._running.current().sinks):
            of_scores = each.of_scores and tuple(each.shape) == tuple(shape)
            # keys that are queries, too, belong to the sequence
            if of_scores or (not each.of_scores and each.shape[each.dim] == keys != queries):
                return each.before, each.after
        return 0, 0

    def _is_constant(self, x: Tensor) -> bool:
        return isinstance(x, torch.nn.Parameter) or x in self._constants

    def _mark(self, marks: Any, x: Tensor, value: Any) -> None:
        if value:
            marks[x] = value
        elif x in marks:
            del marks[x]

    def _places(self, name: str, given: list[Tensor], made: Tensor) -> tuple[Any, ...]:
        """Returns where the scores were made that ``made`` is or comes from; empty if it is none."""
        if name == "softmax":
            return ()
        inputs = [x for x in given if x.is_floating_point() and not self._is_constant(x)]
        pairs = name not in _JOINS | _OTHER_JOINS and all(made.numel() > x.numel() for x in inputs)
        if len(inputs) >= 2 and (name in _PRODUCTS or pairs):
            return () if any(x in self._shares for x in inputs) else self._running.places()
        return next((self._scores[x] for x in given if x in self._scores), ())

    def _sinks(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Iterator[Sinks]:
        if name == "pad":
            x, pad = args[0], list(args[1] if len(args) > 1 else kwargs["pad"])
            for i in range(len(pad) // 2):
                before, after = max(pad[2 * i], 0), max(pad[2 * i + 1], 0)
                # the last dimension of others is of features, or they are a mask
                if (before or after) and (i > 0 or self.are_scores(x)) and not self._is_constant(x):
                    yield Sinks(output.shape, output.dim() - 1 - i, before, after, i == 0)
            return
        parts = [x for x in (args[0] if args else kwargs["tensors"]) if x.numel()]
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))) % output.dim()
        tokens = [i for i, x in enumerate(parts) if not self._is_constant(x)]
        if not tokens:
            return
        first, last = tokens[0], tokens[-1]
        before, after = (sum(x.size(dim) for x in some) for some in (parts[:first], parts[last + 1 :]))
        last_dim = dim == output.dim() - 1
        if (before or after) and (not last_dim or self.are_scores(parts[first])):
            yield Sinks(output.shape, dim, before, after, last_dim)
