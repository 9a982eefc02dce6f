"""Parameters in groups that a reader knows: layers."""

import re
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

from torch import nn

from lightning_seq.errors import InputError, did_you_mean

GroupBy: TypeAlias = Literal["layer", "parameter"] | Callable[[str], str] | None

_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_NUMBERED = re.compile(r"(.*?\.\d+)\.")
_RECURRENT = re.compile(r"(.*)\.(?:weight|bias)_\w+?_l(\d+)(?:_reverse)?$")  # as nn.LSTM names them


def check_group_by(group_by: GroupBy) -> None:
    """Refuses what is neither a known name nor callable."""
    if isinstance(group_by, str) and group_by not in ("layer", "parameter"):
        hint = did_you_mean(group_by, ("layer", "parameter"))
        raise InputError(
            f"got group_by={group_by!r}{hint}, expected 'layer', 'parameter', a function of a name or None"
        )


def group_names(module: nn.Module, group_by: GroupBy) -> dict[int, str]:
    """Returns the group of each parameter, by the parameter's id; none where ``group_by`` is None."""
    if group_by is None:
        return {}
    if isinstance(group_by, str):
        group_by = layer_of if group_by == "layer" else str
    return {each: group_by(name) for each, name in parameter_names(module).items()}


def parameter_names(module: nn.Module) -> dict[int, str]:
    """Returns the name of each parameter, by the parameter's id, without what wrappers put into it.

    Wrappers are torch.compile's, activation checkpointing's, FSDP1's, DDP's and DataParallel's.
    """
    copies = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner = [f"{name}.module." for name, part in module.named_modules() if isinstance(part, copies)]

    def clean(name: str) -> str:
        for prefix in inner:
            if name.startswith(prefix):
                name = name.replace(prefix, prefix.removesuffix("module."), 1)
        return _WRAPPERS.sub("", name)

    return {id(parameter): clean(name) for name, parameter in module.named_parameters()}


def layer_of(name: str) -> str:
    """Returns the layer that a parameter's name tells of.

    ``network.blocks.3.attention.qkv.weight`` is of ``network.blocks.3``, ``lstm.weight_hh_l1`` of
    ``lstm.l1``, ``head.weight`` of ``head``.
    """
    if found := _RECURRENT.match(name):
        return f"{found[1]}.l{found[2]}"
    found = _NUMBERED.match(name)
    return found[1] if found else name.rpartition(".")[0] or name


def sums_by_group(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Adds the values of each group's parameters."""
    sums: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        sums[name] = sums.get(name, 0.0) + value
    return sums
