"""The one place where Lightning clips gradients, opened to keep the norm that it throws away."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

_OUR_CLIP_GRADIENTS = (Precision.clip_gradients, MixedPrecision.clip_gradients)


class ClippedGradient(NamedTuple):
    """The gradient of one optimizer step; tensors without dimensions, fp32, on the device of the gradient."""

    norm: Tensor
    norm_clipped: Tensor
    clipped: Tensor


class ClippingSeam:
    """Stands in for a precision plugin's clipping, does the same, and keeps what it saw.

    Clipping by norm is `get_total_norm` and `clip_grads_with_norm_`, of which PyTorch composes
    `clip_grad_norm_`: the gradients stay equal to the last bit, and none is read twice.

    Args:
        plugin: The precision plugin of a trainer.
        wants_unclipped: Asked, where nothing is clipped, whether this step's norm is worth computing.
    """

    def __init__(self, plugin: Precision, wants_unclipped: Callable[[], bool]) -> None:
        self._plugin = plugin
        self._wants_unclipped = wants_unclipped
        self._original: Callable[..., None] = plugin.clip_gradients
        self.reached = False
        self.gradient: ClippedGradient | None = None
        self.limit: tuple[str, float] | None = None
        # on the instance, where it hides the class's methods until `restore`
        vars(plugin).update(clip_gradients=self._clip_gradients, clip_grad_by_norm=self._clip_grad_by_norm)

    @staticmethod
    def fits(plugin: Precision) -> bool:
        """Whether the plugin clips as Lightning's own does: sharding engines clip elsewhere."""
        changed = {"clip_gradients", "clip_grad_by_norm"} & vars(plugin).keys()
        kind = type(plugin)
        return (
            not changed
            and kind.clip_gradients in _OUR_CLIP_GRADIENTS
            and kind.clip_grad_by_norm is Precision.clip_grad_by_norm
        )

    def restore(self) -> None:
        """Gives the plugin its own methods back."""
        for name in ("clip_gradients", "clip_grad_by_norm"):
            vars(self._plugin).pop(name, None)

    def clear(self) -> None:
        """Forgets the step before."""
        self.reached, self.gradient, self.limit = False, None, None

    def _clip_gradients(
        self, optimizer: Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm"
    ) -> None:
        self.clear()
        self.reached = True
        by_value = clip_val > 0 and gradient_clip_algorithm == "value"
        measured = by_value or (clip_val <= 0 and self._wants_unclipped())
        before = self._total_norm(optimizer) if measured else None
        self._original(optimizer, clip_val, gradient_clip_algorithm)
        if clip_val > 0:
            self.limit = ("value" if by_value else "norm", float(clip_val))
        if before is None:
            return
        after = self._total_norm(optimizer) if by_value else before
        assert after is not None  # clipping removes no gradient
        self.gradient = ClippedGradient(before, after, torch.isfinite(before) & (after != before))

    def _clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        parameters = list(self._plugin.main_params(optimizer))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        total = get_total_norm(gradients)
        clip_grads_with_norm_(parameters, clip_val, total)
        total = _on_every_rank(total)
        coefficient = (clip_val / (total + 1e-6)).clamp(max=1.0)  # as clip_grads_with_norm_ computes it
        clipped = torch.isfinite(total) & (coefficient < 1)
        self.gradient = ClippedGradient(total.float(), (total * coefficient).float(), clipped)

    def _total_norm(self, optimizer: Optimizer) -> Tensor | None:
        parameters = self._plugin.main_params(optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return None
        norm = _on_every_rank(get_total_norm(gradients)).float()
        scaler = getattr(self._plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()  # a fused optimizer unscales inside its step: later than this
        return norm


def _on_every_rank(norm: Tensor) -> Tensor:
    """The norm of sharded gradients (DTensor) as a plain tensor: a collective, which every rank reaches."""
    sharded: Any = norm
    whole: Tensor = sharded.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole.detach()
