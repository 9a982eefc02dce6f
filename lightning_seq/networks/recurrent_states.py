"""See gates and states of recurrent layers while their fused kernels stay the ones that compute.

The kernels return no gates. But a gate looks only at a layer's input and at its hidden state one step before,
and hidden states are what the layer returns: so all gates of a sequence follow at once, without a step over
time. Of layers that are stacked in one module torch returns the last one's states alone: the others are run
once more, one at a time, with the module's own weights.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_seq.networks.base import evaluating
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.networks.parallel_recurrent import ParallelRecurrentBlock, min_gru_gates
from lightning_seq.networks.parallel_scan import linear_recurrence
from lightning_seq.networks.recurrent_layers import states_of


@dataclass(frozen=True)
class LayerStates:
    """What one layer did in one direction.

    Time runs in the order in which the layer took the tokens: from the last to the first in a reverse one.

    Attributes:
        reverse: Whether this is the backward direction of a bidirectional layer.
        activation: Of a layer without gates "tanh" or "relu", else None.
        gates: Share that each gate lets through, by name, ``(sequences, time, units)``: of an LSTM `forget`
            (of the old cell), `input` and `output`; of a GRU `update`, the share of the state that is
            replaced (1 - z in torch's documentation), and `reset`; of minGRU `update`, of minLSTM `forget`.
        hidden: Hidden states, ``(sequences, time, units)``.
        cell: An LSTM's cells, ``(sequences, time, units)``, else None.
        log_keep: Logarithm of the share of each unit's memory that a step keeps,
            ``(sequences, time, units)``, None without gates.
    """

    reverse: bool
    activation: str | None
    gates: dict[str, Tensor]
    hidden: Tensor
    cell: Tensor | None = None
    log_keep: Tensor | None = None


def recurrent_states(
    module: nn.Module, *inputs: Any, call: NetworkCall | None = None
) -> dict[str, LayerStates]:
    """Runs ``module(*inputs)``, or ``call``, as at evaluation, and returns what its recurrent layers did.

    Seen are ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``, also packed, unbatched, projected, in several layers and
    directions, and the blocks of our minGRU and minLSTM; ``nn.LSTMCell`` and the like are not. What follows
    from the states is computed in fp32 at least. Weights and modes stay, and compiled modules are not
    compiled anew. Of a layer that is called several times, such as once per token, the calls are put after
    each other; calls with another number of sequences than the first are left out.

    Returns:
        Layers by name, in the order of their first calls: ``layer0``, ``layer1`` and so on; the backward
        direction of a bidirectional layer as ``layer0_reverse``. Empty if no recurrent layer ran.
    """
    seen: dict[nn.Module, list[list[LayerStates]]] = {}

    def look(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        find = _of_block if isinstance(layer, ParallelRecurrentBlock) else _of_torch_layer
        seen.setdefault(layer, []).append(find(layer, args, kwargs, output))

    with evaluating(module), ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase | ParallelRecurrentBlock):
                # first of the hooks: those of a sharded module take its weights away
                hook = layer.register_forward_hook(look, with_kwargs=True, prepend=True)
                stack.callback(hook.remove)
        module(*inputs) if call is None else call.run(module)
    return _named(_joined(parts) for calls in seen.values() for parts in zip(*calls, strict=True))


def _named(layers: Iterable[LayerStates]) -> dict[str, LayerStates]:
    named: dict[str, LayerStates] = {}
    number = -1
    for layer in layers:
        number += not layer.reverse
        named[f"layer{number}" + ("_reverse" if layer.reverse else "")] = layer
    return named


def _joined(parts: Sequence[LayerStates]) -> LayerStates:
    """Puts what one layer did in several calls after each other."""
    first = parts[0]
    same = [part for part in parts if len(part.hidden) == len(first.hidden)]

    def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
        return None if tensors[0] is None else torch.cat([x for x in tensors if x is not None], 1)

    hidden = join([part.hidden for part in same])
    assert hidden is not None
    return LayerStates(
        first.reverse,
        first.activation,
        {name: torch.cat([part.gates[name] for part in same], 1) for name in first.gates},
        hidden,
        join([part.cell for part in same]),
        join([part.log_keep for part in same]),
    )


# -- our own layers -----------------------------------------------------------------------------------


def _of_block(
    block: ParallelRecurrentBlock, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> list[LayerStates]:
    x, h = args
    mapped = block.input(block.recurrence_norm(x))
    mapped = mapped.to(torch.float32 if x.device.type == "mps" else torch.float64)  # mps has no fp64
    keep, added = block.gates(mapped.chunk(block.maps, -1))
    hidden = linear_recurrence(keep, added, h.to(keep.dtype))
    gates = {"update": 1 - keep} if block.gates is min_gru_gates else {"forget": keep}
    return [LayerStates(False, None, gates, hidden, None, keep.log())]


# -- torch's layers -----------------------------------------------------------------------------------


def _of_torch_layer(
    layer: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> list[LayerStates]:
    x = args[0] if args else kwargs["input"]
    hx = args[1] if len(args) > 1 else kwargs.get("hx")
    state = hx if isinstance(hx, tuple) else () if hx is None else (hx,)
    with torch.autocast(output[0].data.device.type, enabled=False):  # fp32 means fp32
        runs = [list(_of_run(layer, *run)) for run in _batch_first(layer, x, state, output[0])]
    return [_joined(parts) for parts in zip(*runs, strict=True)]


def _batch_first(
    layer: nn.RNNBase, x: Any, state: tuple[Tensor, ...], output: Any
) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor]]:
    """Yields input, first state (layers first) and output of a call, of packed sequences one by one."""
    if isinstance(x, PackedSequence):
        (x, lengths), (output, _) = (pad_packed_sequence(each, batch_first=True) for each in (x, output))
        for i, length in enumerate(lengths.tolist()):
            part = slice(i, i + 1)
            yield x[part, :length], tuple(each[:, part] for each in state), output[part, :length]
    elif x.dim() == 2:  # no batch
        yield x[None], tuple(each[:, None] for each in state), output[None]
    elif layer.batch_first:
        yield x, state, output
    else:
        yield x.transpose(0, 1), state, output.transpose(0, 1)


def _of_run(layer: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...], output: Tensor) -> Iterator[LayerStates]:
    weights, ways = _weights(layer), 2 if layer.bidirectional else 1
    x = x.to(weights[0][0])
    if not state:
        widths = [layer.proj_size or layer.hidden_size, layer.hidden_size][: states_of(layer)]
        state = tuple(x.new_zeros(len(weights), len(x), width) for width in widths)
    for depth in range(layer.num_layers):
        rows = slice(depth * ways, (depth + 1) * ways)
        first = tuple(each[rows].to(x).contiguous() for each in state)
        inner = depth + 1 < layer.num_layers
        # a copy, since the module may go on to change its output in place
        hidden = _run_one(layer, x, first, weights[rows]) if inner else output.to(x, copy=True)
        for way, (one, own) in enumerate(zip(hidden.chunk(ways, -1), weights[rows], strict=True)):
            taken, gave = (x.flip(1), one.flip(1)) if way else (x, one)
            yield _of_direction(layer, bool(way), taken, gave, [each[way] for each in first], own)
        x = hidden


def _weights(layer: nn.RNNBase) -> list[list[Tensor]]:
    """What the kernel multiplies with, per layer and direction: input, hidden, biases, projection."""
    flat: Any = layer._flat_weights  # not the parameters, which hooks of somebody's weight drop may replace
    flat = [weight.to(torch.promote_types(weight.dtype, torch.float32)) for weight in flat]
    count = len(flat) // (layer.num_layers * (2 if layer.bidirectional else 1))
    return [flat[i : i + count] for i in range(0, len(flat), count)]


def _run_one(layer: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...], weights: list[list[Tensor]]) -> Tensor:
    """Runs one of the stacked layers in all of its directions, ``(batch, time, ...)``."""
    flat = [weight for own in weights for weight in own]
    kernel = getattr(torch._VF, layer.mode.lower())
    hx = state if len(state) == 2 else state[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        hidden: Tensor = kernel(x, hx, flat, layer.bias, 1, 0.0, False, layer.bidirectional, True)[0]
    return hidden


def _of_direction(
    layer: nn.RNNBase, reverse: bool, x: Tensor, hidden: Tensor, first: list[Tensor], weights: list[Tensor]
) -> LayerStates:
    if layer.mode.startswith("RNN"):
        return LayerStates(reverse, layer.mode.removeprefix("RNN_").lower(), {}, hidden)
    before = torch.cat([first[0][:, None], hidden[:, :-1]], 1)
    of_input, of_past = weights[2:4] if layer.bias else (None, None)
    maps = F.linear(x, weights[0], of_input) + F.linear(before, weights[1], of_past)
    if layer.mode == "GRU":
        reset, keep, _ = maps.chunk(3, -1)  # torch's order; its candidate is not this sum
        gates = {"update": (-keep).sigmoid(), "reset": reset.sigmoid()}
        return LayerStates(reverse, None, gates, hidden, None, F.logsigmoid(keep))
    enter, keep, candidate, leave = maps.chunk(4, -1)
    gates = {"forget": keep.sigmoid(), "input": enter.sigmoid(), "output": leave.sigmoid()}
    cell = linear_recurrence(gates["forget"], gates["input"] * candidate.tanh(), first[1])
    return LayerStates(reverse, None, gates, hidden, cell, F.logsigmoid(keep))
