"""Which modules run at a moment, and which of them attended, or should have."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class _Running:
    """A module whose forward runs.

    Attributes:
        name: Dotted.
        module: It; None beneath them all.
        named: Whether its name or class speaks of attention.
        attends: Whether it should attend, itself or within.
        seen: Whether it was seen to.
        within: Whether another one that should attend ran within.
        missed: Which of those within were not seen to.
        sinks: What was joined to keys or scores while it ran, and is no token.
    """

    name: str
    module: nn.Module | None = None
    named: bool = False
    attends: bool = False
    seen: bool = False
    within: bool = False
    missed: list[str] = field(default_factory=list)
    sinks: list[Any] = field(default_factory=list)


class RunningModules:
    """Follows the forward passes of a module and its children.

    Attributes:
        unseen: Names of the innermost modules that should have attended, by name or class, and were not seen
            to; the class where the module is the whole.
    """

    def __init__(self, module: nn.Module, stack: ExitStack) -> None:
        """Hooks ``module`` and its children, until ``stack`` closes."""
        self.unseen: list[str] = []
        self._running = [_Running("")]
        for name, child in module.named_modules():
            parts = [part for part in name.split(".") if part != "_orig_mod"]  # of torch.compile
            self._hook(child, ".".join(parts), stack)

    def saw(self) -> str:
        """Notes that attention was seen, and returns the name of the module that attended."""
        if (attending := self._attending()) is not None:
            attending.seen = True
        return self.current().name

    def current(self) -> _Running:
        """Returns what runs, the innermost; of an ``nn.Softmax`` what calls it."""
        return next(each for each in reversed(self._running) if not isinstance(each.module, nn.Softmax))

    def places(self) -> tuple[_Running, ...]:
        """Returns what runs: the innermost, and all that speak of attention."""
        return (*(each for each in self._running if each.named), self.current())

    def any_runs(self, places: tuple[_Running, ...]) -> bool:
        """Says whether one of ``places`` still runs."""
        return any(each is place for each in self._running for place in places)

    def named(self) -> list[nn.Module]:
        """Returns those that run whose name or class speaks of attention, the innermost last."""
        return [each.module for each in self._running if each.named and each.module is not None]

    def _hook(self, module: nn.Module, name: str, stack: ExitStack) -> None:
        named = _speaks_of_attention(name) or _speaks_of_attention(type(module).__name__)
        attends = named and _should_attend(module, name)

        def enter(_module: nn.Module, _args: Any) -> None:
            self._running.append(_Running(name, module, named, attends))

        def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
            self._left(self._running.pop())

        stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.callback(module.register_forward_hook(leave, always_call=True).remove)

    def _left(self, left: _Running) -> None:
        if not left.attends:
            return
        if left.seen:  # then what is named so within is a part of it, such as a projection
            missed = []
        else:
            missed = left.missed if left.within else [left.name or type(left.module).__name__]
        if (outer := self._attending()) is not None:
            outer.within = True
            outer.missed += missed
        else:
            self.unseen += [name for name in dict.fromkeys(missed) if name not in self.unseen]

    def _attending(self) -> _Running | None:
        return next((running for running in reversed(self._running) if running.attends), None)


def number_of_heads(modules: list[nn.Module]) -> int:
    """The number of heads, as the last of ``modules`` that knows it calls it; or else 1."""
    for module in reversed(modules):
        for name in ("num_heads", "n_heads", "n_head", "num_attention_heads", "heads"):
            heads = getattr(module, name, None)
            if isinstance(heads, int) and heads > 0:
                return heads
    return 1


def _speaks_of_attention(name: str) -> bool:
    return re.search("attn|attention", name, re.IGNORECASE) is not None


def _should_attend(module: nn.Module, name: str) -> bool:
    """Whether it is a layer of attention by its own name or class, and no part of one."""
    own = next((part for part in reversed(name.split(".")) if not part.isdigit()), "")
    kind = type(module).__name__
    if re.search("norm|drop|bias|proj", f"{own} {kind}", re.IGNORECASE):
        return False
    whole = next(module.children(), None) is not None
    if _speaks_of_attention(kind):
        return whole or next(module.parameters(), None) is not None
    return whole and _speaks_of_attention(own)
