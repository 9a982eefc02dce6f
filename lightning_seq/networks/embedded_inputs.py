"""The gradient at the embedded inputs of any module: of what it predicts, at each token that it read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.networks.base import evaluating
from lightning_seq.networks.network_call import NetworkCall


def find_embedding(module: nn.Module, at: str | None = None) -> nn.Module:
    """Returns the submodule called ``at``, or the first ``nn.Embedding``.

    Raises:
        InputError: There is none.
    """
    named: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        named[name.replace("_orig_mod.", "")] = child  # which torch.compile puts there
    if at:
        if at not in named:
            raise InputError(
                f"{type(module).__name__} has no submodule {at!r}{did_you_mean(at, named)}: give the name of "
                "what embeds its inputs"
            )
        return named[at]
    found = next((m for m in named.values() if isinstance(m, nn.Embedding)), None)
    if found is None:
        raise InputError(f"{type(module).__name__} has no nn.Embedding: name as `at` what embeds its inputs")
    return found


@contextmanager
def differentiating(module: nn.Module) -> Iterator[None]:
    """Evaluation, with gradients: cuDNN's recurrent kernels have none then, and make way for torch's own."""
    kind = next((p.device.type for p in module.parameters()), "cpu")
    cudnn = torch.backends.cudnn.enabled
    with (
        evaluating(module),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kind, enabled=False),
    ):
        torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = cudnn


def logits_and_leaves(
    module: nn.Module, inputs: Tensor, at: str | None = None, call: NetworkCall | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Returns the logits ``(batch, time, vocab)``, and the embedded inputs from which they come.

    Args:
        module: The network, or a LightningModule.
        inputs: Ids ``(batch, time)``.
        at: Name of the submodule that embeds the inputs (default: the first ``nn.Embedding``).
        call: How the module is called for these inputs (default: ``module(inputs)``).

    Returns:
        The logits; and what each call of the embedding gave, as leaves of the graph.

    Raises:
        InputError: The module does not fit.
    """
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: Any, output: Any) -> Any:
        embedded = output[0] if isinstance(output, tuple) else output
        leaves.append(embedded.detach().requires_grad_())
        whole = leaves[-1].clone()  # which may be changed in place, unlike a leaf
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    handle = find_embedding(module, at).register_forward_hook(cut)
    try:
        logits = find_logits(module(inputs) if call is None else call.run(module), *inputs.shape[:2])
    finally:
        handle.remove()
    if not leaves:
        raise InputError(
            f"{type(module).__name__} does not call its {at or 'first nn.Embedding'}: name as `at` what "
            "embeds the inputs"
        )
    return logits, leaves


def gradients(score: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradient of ``score`` at each tensor: zeros where it does not depend on one."""
    found = torch.autograd.grad(score, tensors, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(tensors, found, strict=True)]


def find_logits(output: Any, batch: int, time: int) -> Tensor:
    """Finds ``(batch, time, vocab)`` in what a model returns."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    output = getattr(output, "logits", output)
    candidates = output if isinstance(output, list | tuple) and output else [output]
    for each in candidates:  # a loss may come before them
        if (found := _as_logits(each, batch, time)) is not None:
            return found
    output = candidates[0]
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise InputError(
        f"the model returned {got} for {batch} sequences of {time} tokens; logits (batch, time, vocab) are "
        "expected"
    )


def _as_logits(output: Any, batch: int, time: int) -> Tensor | None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.dim() == 2 and len(output) == batch * time:
        return output.view(batch, time, -1)
    if output.dim() == 3 and output.shape[:2] == (batch, time):
        return output
    return output.transpose(0, 1) if output.dim() == 3 and output.shape[:2] == (time, batch) else None


def by_token(gradients: Sequence[Tensor], batch: int, time: int) -> Tensor:
    """Returns the gradient at each token, ``(batch, time, width)``, of what the calls of an embedding gave.

    One call may embed all tokens or, in a loop over time, one after the other; and all may be embedded again:
    what a token is used for twice adds up.
    """
    parts = []
    for gradient in gradients:
        g = gradient[:, None] if gradient.dim() == 2 else gradient
        g = g.transpose(0, 1) if len(g) != batch and g.size(1) == batch else g
        if g.dim() != 3 or len(g) != batch:
            raise InputError(
                f"the embedding gave shape {tuple(gradient.shape)} for {batch} sequences of {time} tokens, "
                "and (batch, time, width) is expected: name as `at` what embeds the inputs"
            )
        parts.append(g)
    whole = torch.cat(parts, 1)
    if whole.size(1) % time:
        raise InputError(
            f"the embedding was called for {whole.size(1)} tokens in sequences of {time}: name as `at` what "
            "embeds the inputs"
        )
    return whole.view(batch, -1, time, whole.size(-1)).sum(1)
