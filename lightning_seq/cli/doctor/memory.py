"""What a training step holds and computes, found on tensors without content: no memory, no arithmetic."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lightning_seq.networks.base import detach, takes_document_ids
from lightning_seq.networks.losses import LOGITS_AT_ONCE_ON_CPU, negative_log_likelihood
from lightning_seq.networks.outputs import check_shape, output_and_state

LONGEST_UNROLLED = 32  # steps of a recurrent layer, each of which costs a dozen calls here
_KERNEL = torch.ops.aten.mkldnn_rnn_layer.default  # oneDNN's LSTM, which says nothing of its workspace
_KEPT_BY_LSTM = 5  # times its output: four gates and the cell, as its workspace's pages show
_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_WHOLE = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


@dataclass(frozen=True)
class Step:
    """The batch of a step on one device, and how it is computed."""

    batch_size: int
    time: int
    vocab_size: int = 0
    carried: bool = False
    separate_documents: bool = False
    precision: str = "32-true"
    accumulates: bool = False


@dataclass(frozen=True)
class Measured:
    """Bytes on one device, and floating-point operations."""

    weights: int
    gradients: int
    activations: int  # what the forward pass leaves to the backward pass
    workspace: int  # what the highest point has besides: logits, gradients of activations
    flops_per_token: int


@contextmanager
def without_content(precision: str = "32-true") -> Iterator[FakeTensorMode]:
    """Gives the mode in which tensors have shapes alone: a model that is built in it takes no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(_WHOLE.get(precision, torch.float32))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        torch.set_default_dtype(before)


def measure(network: nn.Module, mode: FakeTensorMode, step: Step) -> Measured:
    """Runs two training steps of ``network``, whose tensors have no content, and keeps the books.

    The second one counts: gradients of the first are still there while it goes forward, as in Lightning.

    Args:
        network: See :mod:`lightning_seq.networks.base`; it was built in ``mode``.
        mode: As :func:`without_content` made it.
        step: What is computed.
    """
    unrolled = any(isinstance(each, nn.RNN | nn.GRU | nn.RNNCellBase) for each in network.modules())
    logits = step.batch_size * step.time * step.vocab_size
    chunked = logits > LOGITS_AT_ONCE_ON_CPU  # then it is not linear in time
    if not unrolled or chunked or step.time <= LONGEST_UNROLLED:
        return _measure(network, mode, step)
    steps = LONGEST_UNROLLED // 2
    half, whole = (asdict(_measure(network, mode, replace(step, time=time))) for time in (steps, 2 * steps))
    times = (step.time - steps) / steps
    return Measured(**{name: int(x + (whole[name] - x) * times) for name, x in half.items()})


def run_one_row(network: nn.Module, step: Step) -> None:
    """Runs a training step of one row of ``network``, whose tensors have content.

    Raises:
        Exception: As the network has it.
    """
    network.train()
    with _autocast(step.precision):
        _runner(network, replace(step, batch_size=1))()[0].backward()  # type: ignore[no-untyped-call]


def _measure(network: nn.Module, mode: FakeTensorMode, step: Step) -> Measured:
    network.zero_grad()
    network.train()
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    tensors = [*set(network.parameters()), *set(network.buffers())]
    ledger = _Ledger(tensors)
    with mode, _autocast(step.precision):
        run = _runner(network, step)
        with ledger:
            run()[0].backward()  # type: ignore[no-untyped-call]
            gradients = ledger.peak = ledger.live
            with counter:
                loss, state = run()
                kept = ledger.live - gradients
                if not step.accumulates:
                    network.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                del loss, state
    return Measured(
        weights=sum(map(_size, tensors)),
        gradients=gradients,
        activations=kept,
        workspace=max(0, ledger.peak - kept - gradients),
        flops_per_token=counter.get_total_flops() // (step.batch_size * step.time),
    )


def _runner(network: nn.Module, step: Step) -> Callable[[], tuple[Tensor, Any]]:
    """Returns what a training step calls: the loss, and the state that is kept for the next batch."""
    tokens = torch.zeros(step.batch_size, step.time, dtype=torch.long)
    make = getattr(network, "initial_state", None)
    state = make(step.batch_size) if step.carried and make is not None else None
    separate = step.separate_documents and takes_document_ids(network)
    more = {"document_ids": tokens} if separate else {}

    def run() -> tuple[Tensor, Any]:
        output, new = output_and_state(network, network(tokens, state, tokens, **more))
        check_shape(network, output, (step.batch_size, step.time), tokens)
        if output.dim() == 3:
            output = negative_log_likelihood(output, tokens)
        return output.sum(), detach(new) if step.carried else None

    return run


@contextmanager
def _autocast(precision: str) -> Iterator[None]:
    dtype = _AUTOCAST.get(precision)
    with nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype, cache_enabled=False):
        yield


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made while it is on, and the most that there were at once.

    Args:
        others: Tensors that were there before, which views will be made of.
    """

    def __init__(self, others: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {each.untyped_storage()._cdata for each in others}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage(), 0)
        if func is _KERNEL:
            self._add(out[3].untyped_storage(), _KEPT_BY_LSTM * _size(out[0]))
        return out

    def _add(self, storage: Any, more: int) -> None:
        key = storage._cdata
        if key in self._known and not more:
            return
        size = more or storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _forward_flops(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    """Multiplies and adds of an LSTM layer: shapes are ``(time, batch, in)`` and ``(4 * hidden, in)``."""
    return 2 * int(x[0] * x[1] * (w_ih[0] * w_ih[1] + w_hh[0] * w_hh[1]))


def _backward_flops(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    return 2 * _forward_flops(x, w_ih, w_hh)


def _added_flops(_: Any, x: Any, y: Any, *__: Any, **___: Any) -> int:
    return 2 * int(x[0] * x[1] * y[1])


_FLOPS = {  # what torch's counter does not know
    torch.ops.aten.mkldnn_rnn_layer: _forward_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: _backward_flops,
    torch.ops.aten.addmm_: _added_flops,
}
