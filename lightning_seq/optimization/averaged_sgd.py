"""SGD that averages its iterates once validation has stopped improving."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lightning_seq.errors import InputError


class NTASGD(torch.optim.Optimizer):
    """Non-monotonically triggered averaged SGD (Merity et al. 2017, https://arxiv.org/abs/1708.02182).

    Plain SGD, until a validation is worse than the best of all but the last ``non_monotone_interval`` before
    it, as in the authors' code. From then on it also keeps the mean of the weights, those at the trigger
    included; it goes on from the weights themselves, and :meth:`swap` puts the mean into their place where
    they are evaluated or saved.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        weight_decay: L2 penalty.
        non_monotone_interval: Validations that may pass without a new best; the paper's n.

    Raises:
        InputError: ``non_monotone_interval`` is below 1.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1.0, weight_decay: float = 0.0, non_monotone_interval: int = 5
    ) -> None:
        if non_monotone_interval < 1:
            raise InputError(
                f"non_monotone_interval is {non_monotone_interval}: give a whole number from 1 on"
            )
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.defaults["non_monotone_interval"] = non_monotone_interval
        # In a group, for that is what every kind of checkpoint keeps
        self.param_groups[0].update(validation_losses=[], averaged=0, swapped=False)

    @property
    def averaging(self) -> bool:
        """Whether the mean has begun."""
        return bool(self._memory["averaged"])

    @property
    def swapped(self) -> bool:
        """Whether the parameters hold the mean at present."""
        return bool(self._memory["swapped"])

    @property
    def _memory(self) -> dict[str, Any]:
        return self.param_groups[0]

    @torch.no_grad()
    def validated(self, loss: float) -> None:
        """Takes the loss of a validation into account, and begins to average where it says so.

        Args:
            loss: The same on all ranks. One that is no finite number is passed over.
        """
        loss, losses = float(loss), self._memory["validation_losses"]
        if self.averaging or not math.isfinite(loss):
            return
        earlier = losses[: -self.defaults["non_monotone_interval"]]
        if earlier and loss > min(earlier):
            self._memory["averaged"] = 1
            for p in self._parameters():
                self.state[p]["average"] = p.clone()
        self._memory["validation_losses"] = [*losses, loss]  # a new one: a state_dict may hold the old

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; of parameters that come while averaging, the mean begins with what they are."""
        super().add_param_group(param_group)
        if self._memory.get("averaged"):
            for p in self.param_groups[-1]["params"]:
                self.state[p]["average"] = p.detach().clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step.

        Args:
            closure: Evaluates the model anew and returns the loss.

        Raises:
            RuntimeError: The parameters hold the mean.
        """
        if self.swapped:
            raise RuntimeError(
                "the parameters hold the mean of the weights: swap() back before training on (LanguageModel "
                "does so in on_validation_end: an override calls super())"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = False  # a step that was left out, without a gradient, is none to average
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                moved = True
                _descend(params, group["lr"], group["weight_decay"])
        if self.averaging and moved:
            self._memory["averaged"] += 1
            params = self._parameters()
            torch._foreach_lerp_(self._means(params), params, 1 / self._memory["averaged"])
        return loss

    def averages(self) -> dict[Tensor, Tensor]:
        """Returns the mean of each parameter since the trigger; nothing before it."""
        if not self.averaging:
            return {}
        params = self._parameters()
        means = [p.detach() for p in params] if self.swapped else self._means(params)
        return dict(zip(params, means, strict=True))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges parameters and mean in place, if there is one; a second call undoes it to the bit."""
        if not self.averaging:
            return
        for p in self._parameters():
            mean = self.state[p]["average"]
            weights = p.clone()
            p.copy_(mean)
            mean.copy_(weights)
        self._memory["swapped"] = not self.swapped

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _means(self, params: list[Tensor]) -> list[Tensor]:
        return [self.state[p]["average"] for p in params]


def _descend(params: list[Tensor], lr: float, weight_decay: float) -> None:
    gradients = [p.grad for p in params if p.grad is not None]
    if weight_decay:
        gradients = list(torch._foreach_add(gradients, params, alpha=weight_decay))
    torch._foreach_add_(params, gradients, alpha=-lr)
