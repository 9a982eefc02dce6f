"""The one place where gradients pass on their way to the optimizer, opened to see them and to clip them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype

from lightning_seq.networks.spreading import whole

_METHODS = ("_clip_gradients", "clip_gradients", "clip_grad_by_norm")
_LIGHTNINGS_OWN = {getattr(kind, name) for kind in (Precision, MixedPrecision) for name in _METHODS}


@dataclass
class GradientStep:
    """The gradient of one optimizer step: before clipping, and as the optimizer is about to use it.

    Norms are unscaled, over all ranks, on the gradients' device, without dimensions unless it says so.

    Attributes:
        optimizer: Whose step it is.
        parameters: Those with a gradient.
        norms: Of the gradient of each parameter before clipping, ``(parameters,)``.
        norm: Of the whole gradient before clipping.
        norm_clipped: Of the whole gradient after clipping.
        algorithm: How it was clipped: ``norm``, ``value``, or ``own`` where the module does it in a way of
            its own; None where nothing clips.
        threshold: Of the clipping, where it is known.
    """

    optimizer: Optimizer
    parameters: list[Parameter]
    norms: Tensor
    norm: Tensor
    norm_clipped: Tensor
    algorithm: str | None = None
    threshold: Tensor | float | None = None


Listener = Callable[[GradientStep], None]
Policy = Callable[[Tensor], Tensor]
"""Maps the norm of a gradient to the largest that is let through; tensors without dimensions."""


class GradientSeam:
    """Stands in for the clipping of a precision plugin, does the same, and shows what passes.

    Lightning has no hook between clipping and the optimizer, and the one before clipping comes before the
    module's own, which may scale gradients. So three methods of the plugin are hidden on the instance: what
    is called once all hooks are done (``_clip_gradients``), what clips, and what clips by norm. The norms
    are computed once, in the order of ``torch.nn.utils.clip_grad_norm_``, and serve clipping and listeners:
    trained weights stay the same to the last bit.

    All who see or clip share the seam of a trainer, see :meth:`of`.
    """

    def __init__(self, plugin: Precision) -> None:
        self._plugin = plugin
        self._originals: dict[str, Callable[..., None]] = {name: getattr(plugin, name) for name in _METHODS}
        self._listeners: list[Listener] = []
        self._policy: Policy | None = None
        self._step: _Measured | None = None  # of the optimizer whose clipping is under way
        self._own_way = False  # whether the module overrides that clipping
        self._by_hand: dict[int, _Measured] = {}  # clipped in manual optimization, and not yet used
        vars(plugin).update(zip(_METHODS, (self._around, self._clip, self._clip_by_norm), strict=True))

    @classmethod
    def of(cls, trainer: Trainer) -> "GradientSeam | None":
        """Returns the trainer's seam, opened if need be; None where the plugin clips in a way of its own."""
        plugin = trainer.precision_plugin
        found = getattr(vars(plugin).get("_clip_gradients"), "__self__", None)
        if isinstance(found, cls):
            return found
        changed = {getattr(type(plugin), name) for name in _METHODS} - _LIGHTNINGS_OWN
        return None if changed or vars(plugin).keys() & set(_METHODS) else cls(plugin)

    def listen(self, listener: Listener, last: bool = False) -> None:
        """Has ``listener`` called between clipping and optimizer; ``last`` is for who changes gradients."""
        self._listeners.insert(len(self._listeners) if last else 0, listener)

    def clip_by(self, policy: Policy) -> None:
        """Has ``policy`` clip; in automatic optimization alone, and without a gradient_clip_val."""
        self._policy = policy

    def leave(self, who: Listener | Policy) -> None:
        """Forgets a listener or policy; after the last the plugin has its own methods again."""
        self._listeners = [each for each in self._listeners if each != who]
        self._policy = None if self._policy == who else self._policy
        if not self._listeners and self._policy is None:
            for name in _METHODS:
                vars(self._plugin).pop(name, None)

    # -- in place of the plugin's methods -------------------------------------------------------------

    def _around(self, model: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        clip = self._originals["_clip_gradients"]
        if model.automatic_optimization:
            earlier = self._by_hand.pop(id(optimizer), None)  # clipped in a hook of the module
            measured = self._step = self._measure(optimizer)
            self._own_way = is_overridden("configure_gradient_clipping", model)
            try:
                clip(model, optimizer, *args, **kwargs)
            finally:
                self._step = None
            if measured is not None:
                self._finish(measured)
            if measured is not None and earlier is not None:
                earlier.step.norm_clipped = measured.step.norm_clipped
                measured = earlier
        else:
            measured = self._by_hand.pop(id(optimizer), None) or self._measure(optimizer)
            clip(model, optimizer, *args, **kwargs)
        if measured is not None:
            for listener in self._listeners:
                listener(measured.step)

    def _finish(self, measured: "_Measured") -> None:
        step = measured.step
        if self._own_way:
            after = self._measure(step.optimizer)
            step.norm_clipped = after.step.norm if after is not None else torch.zeros_like(step.norm)
            step.algorithm = step.algorithm or "own"
        elif self._policy is not None:
            step.algorithm, step.threshold = "norm", self._policy(step.norm)
            cut = (step.norm > step.threshold) & step.norm.isfinite()  # nothing mends what is not finite
            coefficient = (step.threshold / (step.norm + 1e-6)).where(cut, 1.0)
            _scale(step.parameters, coefficient)
            step.norm_clipped = step.norm * coefficient

    def _clip(
        self, optimizer: Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm"
    ) -> None:
        measured, by_hand = self._step, self._step is None
        if by_hand and clip_val > 0:
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            measured = self._step = self._measure(optimizer, by_hand=True)
            self._own_way = False
        try:
            self._originals["clip_gradients"](optimizer, clip_val, gradient_clip_algorithm)
        finally:
            self._step = None if by_hand else measured
        if measured is None or clip_val <= 0:
            return
        step, by_value = measured.step, gradient_clip_algorithm == "value"
        step.algorithm = "value" if by_value else "norm"
        step.threshold = float(clip_val) if measured.scale is None else clip_val / measured.scale
        if by_value and not self._own_way:
            after = self._measure(optimizer, by_hand)
            step.norm_clipped = after.step.norm if after is not None else step.norm
        if by_hand:
            self._by_hand[id(optimizer)] = measured

    def _clip_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        measured = self._step
        if measured is None or self._own_way:  # whose gradients may have changed since they were measured
            self._originals["clip_grad_by_norm"](optimizer, clip_val)
            return
        clip_grads_with_norm_(measured.step.parameters, clip_val, measured.total)
        coefficient = clip_val / (whole(measured.total) + 1e-6)  # as clip_grads_with_norm_ computes it
        measured.step.norm_clipped = measured.step.norm * coefficient.clamp(max=1.0)

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer, by_hand: bool = False) -> "_Measured | None":
        parameters = [p for p in self._plugin.main_params(optimizer) if p.grad is not None]
        if not parameters:
            return None
        parameters, norms = _norms(parameters)
        total = torch.linalg.vector_norm(norms)
        scaler = getattr(self._plugin, "scaler", None)
        # in half precision a fused optimizer unscales in its step; what is clipped by hand is still scaled
        scaled = getattr(optimizer, "_step_supports_amp_scaling", False) or (
            by_hand and not _unscaled(scaler, optimizer)
        )
        scale = None if scaler is None or not scaled else scaler._get_scale_async()
        each, norm = (whole(x).float() if scale is None else whole(x).float() / scale for x in (norms, total))
        return _Measured(GradientStep(optimizer, parameters, each, norm, norm), total, scale)


def watched(callback: Callback, trainer: Trainer) -> bool:
    """Says whether a step is one of the training that a callback watches.

    LearningRateFinder, BatchSizeFinder and Tuner try steps with callbacks of their own in place of the
    trainer's, and restore a checkpoint afterwards, with the state of callbacks.
    """
    return any(each is callback for each in trainer.callbacks)  # type: ignore[attr-defined]


@dataclass
class _Measured:
    step: GradientStep
    total: Tensor  # the norm, still scaled, a DTensor where the gradients are
    scale: Tensor | None  # of a loss in half precision, where gradients still have it


def _unscaled(scaler: Any, optimizer: Optimizer) -> bool:
    """Whether a loss scaler has unscaled the gradients already, as before the module's last hook."""
    state = {} if scaler is None else scaler._per_optimizer_states.get(id(optimizer), {})
    return "stage" in state and state["stage"] is not OptState.READY


def _norms(parameters: list[Parameter]) -> tuple[list[Parameter], Tensor]:
    """Returns the parameters in the order that torch takes norms in, and the norms of their gradients."""
    gradients: list[Any] = [parameter.grad for parameter in parameters]
    gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    groups: Any = _group_tensors_by_device_and_dtype([gradients], with_indices=True)
    norms: list[Tensor] = []
    order: list[int] = []
    meshes = {getattr(gradient, "device_mesh", None) for gradient in gradients}
    for (each,), indices in groups.values():
        for mesh in meshes:  # more than one where some are spread over ranks, and others not, or otherwise
            of = [i for i, gradient in enumerate(each) if getattr(gradient, "device_mesh", None) == mesh]
            if of:
                found = torch._foreach_norm([each[i] for i in of])
                norms.extend(found if len(meshes) == 1 else map(whole, found))
                order.extend(indices[i] for i in of)
    device = norms[0].device if len(groups) == 1 else gradients[0].device
    return [parameters[i] for i in order], torch.stack([norm.to(device) for norm in norms])


def _scale(parameters: list[Parameter], coefficient: Tensor) -> None:
    by_device: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        gradient: Any = parameter.grad
        gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        by_device.setdefault(gradient.device, []).append(gradient)
    for device, gradients in by_device.items():
        torch._foreach_mul_(gradients, coefficient.to(device))
