"""Which rank computes what of a Transformer whose layers are spread over ranks (Megatron's split)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
)

HEADS = 1  # the dimension of queries and keys, (batch, heads, time, head_dim)


class Replicated(ParallelStyle):
    """A module that every rank computes as a whole; its parameters are on the mesh as all others are.

    Else clipping and fused optimizers would meet two kinds of tensors.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def replicate(name: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for key, parameter in list(part.named_parameters(recurse=False)):
                spread = distribute_tensor(parameter, mesh, [Replicate()])
                part.register_parameter(key, nn.Parameter(spread))

        def enter(part: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
            return tuple(
                DTensor.from_local(x, mesh, [Replicate()], run_check=False) if isinstance(x, Tensor) else x
                for x in inputs
            )

        def leave(part: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
            return output.to_local()

        return distribute_module(module, device_mesh, replicate, enter, leave)


_STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "embedding": lambda: RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate()),  # by words
    "position_embedding": Replicated,
    "attention_norm": Replicated,
    "query": ColwiseParallel,  # by heads
    "key": ColwiseParallel,
    "value": ColwiseParallel,
    # one gain for all heads, whose gradient is summed over the ranks
    "query_norm": lambda: SequenceParallel(sequence_dim=HEADS, use_local_output=True),
    "key_norm": lambda: SequenceParallel(sequence_dim=HEADS, use_local_output=True),
    "out": RowwiseParallel,
    "feedforward_norm": Replicated,
    "gate": ColwiseParallel,  # by hidden units
    "up": ColwiseParallel,
    "down": RowwiseParallel,
    "norm": Replicated,
    # of the head, by words
    "linear": lambda: ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
}


def plan_by_name(network: nn.Module) -> dict[str, ParallelStyle]:
    """Returns a style for each submodule of a Transformer that has parameters of its own."""
    return {
        name: _STYLES[name.rpartition(".")[2]]()
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
