"""Whether what a network returns is what the contract of :mod:`lightning_seq.networks.base` says."""

from typing import Any

from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import State

_ROUNDING = 1e-2  # losses computed in half precision may come out a little below 0


def output_and_state(network: nn.Module, returned: Any) -> tuple[Any, State]:
    """Returns the two things that ``network`` returned.

    Raises:
        InputError: It returned something else.
    """
    if isinstance(returned, tuple | list) and len(returned) == 2:
        return returned[0], returned[1]
    raise InputError(
        f"{type(network).__name__} returned {_described(returned)}: return (output, state), with None as the "
        "state of a network that has none"
    )


def check_shape(
    network: nn.Module, output: Any, batch: tuple[int, int], targets: Tensor | None = None
) -> None:
    """Refuses an output whose shape is not that of logits or losses; asks not what tensors hold.

    Args:
        network: What returned it, in the mode that it returned it in.
        output: What it returned.
        batch: The shape of the inputs, ``(batch, time)``.
        targets: What the network was given as targets, ``(batch, time)``; None if it was given none.

    Raises:
        InputError: The output is no tensor of numbers, or has another shape.
    """
    if isinstance(output, Tensor) and output.is_floating_point():
        losses = targets is not None and (
            output.shape == targets.shape or (network.training and output.numel() == 1)
        )
        if losses or (output.dim() == 3 and output.shape[:2] == batch):
            return
    raise InputError(
        f"{type(network).__name__} returned {_described(output)} for {batch[0]} sequences of {batch[1]} "
        f"tokens{_in_mode(network, targets)}: return {_expected(network, targets, batch)}"
    )


def check_values(network: nn.Module, output: Tensor, targets: Tensor) -> None:
    """Refuses what has a right shape by chance, and logits of too few tokens; on a GPU it waits.

    Args:
        network: What returned ``output``.
        output: Logits or losses, as :func:`check_shape` lets them through.
        targets: ``(batch, time)``.

    Raises:
        InputError: A target is no token of the logits, or losses are below 0.
    """
    name, shape = type(network).__name__, tuple(output.shape)
    if output.dim() == 3 and (highest := int(targets.max())) >= output.size(2):
        raise InputError(
            f"{name} returned logits {shape}, of {output.size(2)} tokens, and a target is {highest}: build "
            f"it for {highest + 1} tokens or more"
        )
    if output.dim() == 2 and output.numel() > 1 and bool((output.detach() < -_ROUNDING).any()):
        raise InputError(
            f"{name} returned {shape} with values below 0, which cannot be the losses of the targets: return "
            f"{_expected(network, targets, (shape[0], shape[1]))}"
        )


def _in_mode(network: nn.Module, targets: Tensor | None) -> str:
    if targets is None:
        return " without targets"
    return " and their targets, in training" if network.training else " and their targets, in evaluation"


def _expected(network: nn.Module, targets: Tensor | None, batch: tuple[int, int]) -> str:
    logits = f"logits ({batch[0]}, {batch[1]}, vocab)"
    if targets is None:
        return logits
    losses = "their summed loss" if network.training else f"the loss of each target ({batch[0]}, {batch[1]})"
    return f"{logits}, or {losses}"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {value.dtype}"
        return f"{tuple(value.shape)}{kind}"
    several = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{several}"
