"""What may change gradients where nothing here can measure it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

_BEFORE_CLIPPING = ("on_after_backward", "on_before_optimizer_step")
_HOOKS = (*_BEFORE_CLIPPING, "backward", "optimizer_step")
_KNOWN = ("lightning_seq.", "lightning.")  # which do not clip there


def out_of_sight(trainer: Trainer, module: LightningModule) -> list[str]:
    """Returns the names of what runs between the backward pass and the optimizer, and may clip by hand.

    `configure_gradient_clipping` and Lightning's `clip_gradients` are measured and not among them.
    """
    names = [_name(module, hook, LightningModule) for hook in _HOOKS]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    names += [_name(each, hook, Callback) for each in callbacks for hook in _BEFORE_CLIPPING]
    if any(map(_has_hooks, module.parameters())):
        names.append("a hook of a parameter")
    if any(optimizer._optimizer_step_pre_hooks for optimizer in trainer.optimizers):
        names.append("a hook of the optimizer's step")
    return [name for name in names if name]


def _name(owner: Any, hook: str, base: type) -> str:
    """Returns the name of a hook that is the user's own, or nothing."""
    found = getattr(owner, hook)
    function = getattr(found, "__func__", found)
    own = function is not getattr(base, hook) and not str(function.__module__).startswith(_KNOWN)
    return f"{type(owner).__name__}.{hook}" if own else ""


def _has_hooks(parameter: nn.Parameter) -> bool:
    found: Any = parameter
    return bool(found._backward_hooks or found._post_accumulate_grad_hooks)
