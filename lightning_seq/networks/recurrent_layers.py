"""PyTorch's fused recurrent layers behind one interface: batch-first states, dropped connections."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNELS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


def states_of(layer: nn.RNNBase) -> int:
    """How many tensors the state of ``layer`` has: the LSTM keeps a cell beside its hidden state."""
    return 2 if layer.mode == "LSTM" else 1


def run_layer(
    layer: nn.RNNBase, x: Tensor, state: Sequence[Tensor], weight_drop: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs a recurrent layer over ``x``.

    Args:
        layer: Of torch, ``batch_first``, in one direction.
        x: ``(batch, time, input_size)``.
        state: :func:`states_of` tensors, each ``(batch, layers, hidden_size)``.
        weight_drop: In training, the probability of dropping a connection between hidden states: DropConnect
            (Wan et al. 2013), one mask for the whole sequence, so that the fused kernel can be used.

    Returns:
        ``(batch, time, hidden_size)``, and the new state.
    """
    layers_first = tuple(each.transpose(0, 1).contiguous() for each in state)
    with full_precision_where_half_is_missing(x):
        if weight_drop and layer.training:
            output, *new = _run_with_dropped_connections(layer, x, layers_first, weight_drop)
        else:
            output, last = layer(x, layers_first if len(layers_first) == 2 else layers_first[0])
            new = list(last) if isinstance(last, tuple) else [last]
    return output, tuple(each.transpose(0, 1) for each in new)


def _run_with_dropped_connections(
    layer: nn.RNNBase, x: Tensor, state: tuple[Tensor, ...], p: float
) -> tuple[Tensor, ...]:
    """Calls the kernel that ``layer`` calls, with other weights: parameters and names stay as they are."""
    weights = [
        F.dropout(getattr(layer, name), p) if name.startswith("weight_hh") else getattr(layer, name)
        for name in layer._flat_weights_names
    ]
    with ExitStack() as stack:
        if x.is_cuda:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single")  # how else
        kernel = getattr(torch._VF, _KERNELS[layer.mode])
        result: tuple[Tensor, ...] = kernel(
            x,
            state if len(state) == 2 else state[0],
            weights,
            layer.bias,
            layer.num_layers,
            layer.dropout,
            layer.training,
            layer.bidirectional,
            layer.batch_first,
        )
    return result


def full_precision_where_half_is_missing(x: Tensor) -> AbstractContextManager[object]:
    """Turns autocast off on CPUs whose oneDNN has no bfloat16: there it fails, torch 2.13's fused LSTM."""
    return torch.autocast("cpu", enabled=False) if lacks_bfloat16(x.device) else nullcontext()


def lacks_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` is a CPU without instructions for bfloat16: it emulates it, 3 to 30 times slower."""
    return device.type == "cpu" and not _cpu_has_bfloat16()


@cache
def _cpu_has_bfloat16() -> bool:
    knows: Any = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.10 and later
    if "avx512_bf16" in knows:  # oneDNN says yes to any AVX-512
        return any(knows.get(name) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
