"""A network spread over the processes of a device mesh: FSDP2, tensor parallelism, or both."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

from lightning_seq.errors import InputError

Places = list[tuple[nn.Module, str]]


def spread(network: nn.Module, data: DeviceMesh, tensor: DeviceMesh, device: torch.device) -> None:
    """Spreads ``network`` in place; its values are those of rank 0, whatever the mesh.

    What repeats, the members of its module lists, is gathered and freed one at a time (FSDP2). Tensor
    parallelism takes a plan: the network's method ``tensor_parallel_plan(ranks)`` returns a
    ``torch.distributed.tensor.parallel.ParallelStyle`` for the names of its submodules, all that have
    parameters. On other ranks than the first the network may be on the meta device: nothing is read there.

    Args:
        network: Built alike on every rank.
        data: The dimension of the mesh whose ranks get different batches.
        tensor: The dimension whose ranks share each batch and each layer.
        device: Where this rank computes.

    Raises:
        InputError: ``tensor`` has several ranks, and the network has no plan.
    """
    values: dict[str, Any] = {}
    buffers: dict[str, Tensor] = {}
    if dist.get_rank() == 0:
        values, buffers = network.state_dict(), dict(network.named_buffers())
    shared = _shared_parameters(network)
    network.to("meta")
    _share(shared)
    if tensor.size() > 1:
        parallelize_module(network, tensor, tensor_parallel_plan(network, tensor.size()))
        _share(shared)  # each module was given parameters of its own
    if data.size() > 1:
        for block in repeated(network):
            fully_shard(block, mesh=data)
        fully_shard(network, mesh=data)
    network.to_empty(device=device)
    _share(shared)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(network, values, options=options)
    for name, buffer in network.named_buffers():  # of those that no state dict has, too
        if name in buffers:
            buffer.copy_(buffers[name])
        dist.broadcast(buffer, 0)


def is_spread(network: nn.Module) -> bool:
    """Whether some of its parameters are parts of larger ones on this rank."""
    return isinstance(network, FSDPModule) or any(isinstance(p, DTensor) for p in network.parameters())


def give_back(network: nn.Module) -> None:
    """Frees what FSDP2 gathered for a forward: a checkpoint is loaded into each rank's own part alone."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def repeated(network: nn.Module) -> Iterator[nn.Module]:
    """Yields what a network repeats: the members of its module lists that have parameters."""
    for part in network.children():
        if isinstance(part, nn.ModuleList):
            yield from (each for each in part if next(each.parameters(), None) is not None)


def whole(tensor: Tensor) -> Tensor:
    """Returns all of a tensor that may be spread over ranks, which all must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sum_partial_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients over the ranks that are still partial sums, as those of weights shared by all heads are.

    torch does not clip partial sums by value, and some of its versions get their norm wrong.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if isinstance(gradient, DTensor) and any(each.is_partial() for each in gradient.placements):
            parameter.grad = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]


def plain_zeros(weight: Tensor, *shape: int) -> Tensor:
    """Returns zeros like ``weight`` in type and place, and plain where that is spread over ranks."""
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


def tensor_parallel_plan(network: nn.Module, ranks: int) -> Any:
    """Returns the network's plan for ``ranks`` that share each layer, and prepares it for that.

    Raises:
        InputError: It has none.
    """
    plan = getattr(network, "tensor_parallel_plan", None)
    if plan is None:
        raise InputError(
            f"tensor_parallel_size is {ranks}, and {type(network).__name__} has no tensor_parallel_plan: a "
            "recurrent layer's step needs all of its state; give tensor_parallel_size 1 (FSDP2 alone)"
        )
    return plan(ranks)


def _shared_parameters(network: nn.Module) -> list[Places]:
    """Returns where each parameter is that several modules have."""
    places: dict[nn.Parameter, Places] = defaultdict(list)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places[parameter].append((module, name))
    return [found for found in places.values() if len(found) > 1]


def _share(shared: list[Places]) -> None:
    for (module, name), *others in shared:
        for other, its_name in others:
            setattr(other, its_name, getattr(module, name))
