"""How a network is called: with which arguments, cut to a few examples, so that it can be called again.

Networks are called in many ways: ``network(tokens)``, ``network(**batch)``, ``network(tokens, lengths)``,
``network(batch)``. :func:`captured_call` runs a step up to the moment at which it calls its network and keeps
the arguments; :class:`NetworkCall` cuts them and calls the network with them.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError

_Change = Callable[[Any, str], Any]
_LENGTHS = ("length", "lengths", "lens")  # ends of the names of arguments that hold them
_PLAIN = (bool, int, float, str, type(None))
_ATOMS = (*_PLAIN, complex, bytes, Enum, torch.dtype, torch.device, slice)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkCall:
    """A call of a module or of one of its submodules.

    Attributes:
        path: Dotted name of the submodule; empty for the module itself.
        args: The positional arguments: tensors, plain values, and containers of these.
        kwargs: The named arguments.
        names: Names of the positional arguments.
        function: Called in place of the submodule, with the module before the other arguments.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...] = ()
    function: Callable[..., Any] | None = None

    @property
    def inputs(self) -> Tensor:
        """The sequences that the network reads, ``(batch, time, ...)``.

        Raises:
            InputError: No argument is such a tensor.
        """
        found = sequences_in(self.args[0]) if self.args else None
        for rest in (self.kwargs, *self.args[1:]):
            found = sequences_in(rest) if found is None else found
        if found is None:
            raise InputError("the network is called without a tensor (batch, time, ...)")
        return found

    def lengths(self) -> Tensor | None:
        """Returns the length of each sequence, where an argument's name says that it holds them."""
        found: list[Tensor] = []

        def look(x: Any, name: str) -> Any:
            if name.endswith(_LENGTHS) and len(x) == len(self.inputs):
                found.append(torch.as_tensor(x))
            return x

        self._mapped(look)
        return next((x for x in found if x.dim() == 1), None)

    def run(self, module: nn.Module) -> Any:
        """Calls the submodule of ``module``, and returns what it returns."""
        if self.function is not None:
            return self.function(module, *self.args, **self.kwargs)
        return module.get_submodule(self.path)(*self.args, **self.kwargs)

    def cut(self, rows: Any = slice(None), start: int = 0, stop: int | None = None) -> "NetworkCall":
        """Returns the call for some sequences and tokens of the batch, as copies.

        Every tensor is cut along its first or second dimension if that is as long as the batch, and along
        those after it that are as long as the time; whole numbers, one for each sequence, are lengths or
        labels and become no larger than the time that is left.

        Args:
            rows: A slice, or indices.
            start: The first token.
            stop: The one after the last (default: all).
        """
        batch, time = self.inputs.shape[:2]
        stop = time if stop is None else min(stop, time)
        index = torch.arange(batch)[rows]

        def change(x: Any, _name: str) -> Any:
            if isinstance(x, Tensor):
                return _cut(x, batch, time, index, start, stop)
            if len(x) != batch:
                return x
            x = [x[i] for i in index.tolist()]
            numbers = all(type(each) is int for each in x) and stop - start < time
            return [min(max(each - start, 1), stop - start) for each in x] if numbers else x

        return self._mapped(change)

    def to(self, device: torch.device) -> "NetworkCall":
        """Returns the call with its tensors on ``device``, except lengths, which PyTorch wants on the CPU."""

        def change(x: Any, name: str) -> Any:
            return x.to(device) if isinstance(x, Tensor) and not name.endswith(_LENGTHS) else x

        return self._mapped(change)

    def with_inputs(self, tokens: Tensor) -> "NetworkCall":
        """Returns the call for other sequences, ``(sequences, time)``, without padding.

        Raises:
            InputError: There is an argument of which it is not known what it would be.
        """
        inputs = self.inputs

        def change(x: Any, name: str) -> Any:
            if not isinstance(x, Tensor):
                changed = None if len(x) == len(inputs) else x
            else:
                changed = tokens.to(x.device) if x is inputs else _for_other(x, name, tokens, inputs)
            if changed is None:
                raise InputError(
                    f"the network also takes {name or 'more'}, which is not known for other inputs"
                )
            return changed

        return self._mapped(change)

    def _mapped(self, change: _Change) -> "NetworkCall":
        """Returns the call with ``change(tensor or list of values, name)`` of each."""
        names = (*self.names, *[""] * len(self.args))
        args = tuple(_mapped(x, change, name) for x, name in zip(self.args, names, strict=False))
        kwargs = {name: _mapped(x, change, name) for name, x in self.kwargs.items()}
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def to_plain(self) -> dict[str, Any] | None:
        """Returns it as plain values, which a checkpoint can hold; None where that cannot be."""
        try:
            args, kwargs = [_plain(x) for x in self.args], _plain(self.kwargs)
        except TypeError:
            return None
        return {"path": self.path, "args": args, "kwargs": kwargs, "names": list(self.names)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "NetworkCall":
        """Returns the call of which :meth:`to_plain` made ``plain``."""
        args = tuple(_from_plain(x) for x in plain["args"])
        return cls(plain["path"], args, _from_plain(plain["kwargs"]), tuple(plain["names"]))


class _Reached(BaseException):
    """Leaves a step where it calls a network; no Exception, which a step may catch."""

    def __init__(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.path, self.args_given, self.kwargs_given = path, args, kwargs


def captured_call(module: nn.Module, step: Callable[[Any], Any], batch: Any) -> NetworkCall:
    """Runs ``step(batch)`` until it calls a network and returns how; the network itself does not run.

    Run it in evaluation mode, with random numbers that are put back afterwards. The batch is copied.

    Args:
        module: The module that the step belongs to.
        step: The step, which calls ``module`` or a submodule that holds all of its trainable weights.
        batch: Its batch.

    Raises:
        InputError: The step calls no network, or several; or an argument cannot be cut to a few examples.
    """

    def reach(path: str) -> Callable[..., Any]:
        def hook(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not path or next(called.parameters(), None) is not None:
                raise _Reached(path, args, kwargs)

        return hook

    def forward(*args: Any, **kwargs: Any) -> None:  # of a step that calls self.forward
        raise _Reached("", args, kwargs)

    with ExitStack() as stack:
        for name, child in module.named_modules():
            handle = child.register_forward_pre_hook(reach(name), prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        before = vars(module).get("forward")
        vars(module)["forward"] = forward
        stack.callback(_put_back, module, before)
        try:
            step(copy.deepcopy(batch))
        except _Reached as reached:
            found = reached
        else:
            raise InputError("it calls no module with weights")
    _check_whole(module, found.path)
    names = _parameter_names(module.get_submodule(found.path), len(found.args_given))
    return NetworkCall(found.path, found.args_given, found.kwargs_given, names).cut()


def _put_back(module: nn.Module, forward: Any) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward


def _check_whole(module: nn.Module, path: str) -> None:
    trained = {p for p in module.parameters() if p.requires_grad} or set(module.parameters())
    if missing := trained - set(module.get_submodule(path).parameters()):
        raise InputError(
            f"it calls {path} first, which does not hold all that is trained ({len(missing)} of "
            f"{len(trained)} parameters are elsewhere)"
        )


def _parameter_names(module: nn.Module, count: int) -> tuple[str, ...]:
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)[:count]


def sequences_in(value: Any) -> Tensor | None:
    """Returns the first tensor ``(batch, time, ...)`` in a value; that named as inputs before others."""
    if isinstance(value, Tensor):
        return value if value.dim() >= 2 and value.size(1) else None
    if isinstance(value, Mapping):
        named = [value[key] for key in ("inputs", "input_ids") if key in value]
        value = [*named, *value.values()]
    elif dataclasses.is_dataclass(value):
        value = list(vars(value).values())
    if not isinstance(value, list | tuple):
        return None
    return next((x for x in map(sequences_in, value) if x is not None), None)


def _cut(x: Tensor, batch: int, time: int, index: Tensor, start: int, stop: int) -> Tensor:
    place = next((dim for dim in (0, 1) if dim < x.dim() and x.size(dim) == batch), None)
    if place is None and x.dim() < 2:
        return x.detach().clone()
    for dim in range(0 if place is None else place + 1, x.dim()):
        if x.size(dim) == time:
            x = x.narrow(dim, start, stop - start)
    if place == 1 and len(x) == time != batch:  # the time before the batch
        x = x.narrow(0, start, stop - start)
    if place is not None:
        x = x.index_select(place, index.to(x.device))
    whole_numbers = x.dim() == 1 and not x.is_floating_point() and x.dtype != torch.bool
    return (x - start).clamp(1, stop - start) if whole_numbers and stop - start < time else x.detach().clone()


def _for_other(x: Tensor, name: str, tokens: Tensor, inputs: Tensor) -> Tensor | None:
    """Returns what takes the place of an argument for other tokens, None where that is not known."""
    other = None
    if x.dim() == 0:
        other = x
    elif x.dim() == 1 and len(x) == len(inputs) and name.endswith(_LENGTHS):
        other = x.new_full((len(tokens),), tokens.size(1))
    elif x.shape == inputs.shape[:2] and not x.is_floating_point():
        like = torch.ones_like(tokens, dtype=x.dtype, device=x.device)
        if name in ("labels", "targets"):
            other = tokens.to(x.device)
        elif name in ("document_ids", "token_type_ids"):
            other = like * 0
        elif "mask" in name:
            other = like
    return other


def _mapped(value: Any, change: _Change, name: str) -> Any:
    """Changes tensors, and lists of values, within containers."""
    if isinstance(value, Tensor):
        return change(value, name)
    if isinstance(value, _ATOMS) or callable(value):
        return value
    if isinstance(value, Mapping):
        other: Any = {} if type(value) is dict else copy.copy(value)
        for key, x in value.items():
            other[key] = _mapped(x, change, str(key))
        return other
    if isinstance(value, list | tuple):
        values = value and all(isinstance(x, _PLAIN) for x in value)
        parts = change(list(value), name) if values else [_mapped(x, change, name) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _mapped(getattr(value, f.name), change, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    given = f"{type(value).__name__} as {name}" if name else type(value).__name__
    raise InputError(f"its network is given {given}, which cannot be cut to a few examples")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {
            "tensor": value.tolist(),
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
        }
    if type(value) is dict:
        return {"dict": {key: _plain(x) for key, x in value.items()}}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_plain(x) for x in value]}
    if type(value) in _PLAIN:
        return value
    raise TypeError(type(value).__name__)


def _from_plain(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        x = torch.tensor(plain["tensor"], dtype=getattr(torch, plain["dtype"]))
        return x.reshape(plain["shape"])
    if "dict" in plain:
        return {key: _from_plain(x) for key, x in plain["dict"].items()}
    kind, parts = next(iter(plain.items()))
    return (tuple if kind == "tuple" else list)(_from_plain(x) for x in parts)
