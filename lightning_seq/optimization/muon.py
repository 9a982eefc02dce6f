"""Muon for hidden matrices and AdamW for the rest, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from lightning_seq.errors import InputError
from lightning_seq.networks.parallel_recurrent import ParallelRecurrentBlock
from lightning_seq.networks.recurrent_layers import lacks_bfloat16
from lightning_seq.optimization.parameter_groups import decay_groups


class MuonAdamW(torch.optim.Optimizer):
    """Torch's Muon and torch's AdamW, each over its own parameter groups.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by its momentum made
    orthogonal, scaled to the size of AdamW's moves, so that one learning rate and one weight decay serve both
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982). AdamW: Loshchilov and Hutter 2019,
    https://arxiv.org/abs/1711.05101.

    The gates that a recurrent layer stacks in one matrix are made orthogonal one by one: LSTM and GRU learnt
    faster so than with whole matrices, or as fast. A matrix that is spread over devices is taken as a whole.

    Torch makes matrices orthogonal in bfloat16. On CPUs that only emulate it this happens in fp32, which
    takes a thirtieth of the time there, and rounds less.

    Args:
        params: Groups, as :func:`muon_groups` makes them. One whose ``algorithm`` is ``muon`` holds matrices,
            each of ``blocks`` equal parts; all others are AdamW's.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        betas: AdamW's averaging factors.
        momentum: Muon's, with Nesterov's look ahead.

    Raises:
        InputError: This torch has no Muon.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"optimizer 'muon' needs torch 2.9 or later, and this is {torch.__version__}: update torch, "
                "or take optimizer: adamw"
            )
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "momentum": momentum}
        super().__init__(params, {**defaults, "algorithm": "adamw", "blocks": 1})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group: Muon's if its ``algorithm`` says so, AdamW's by default."""
        super().add_param_group(param_group)
        self._connect()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._connect()

    def _connect(self) -> None:
        """Lets torch's optimizers work on this one's groups and state: schedulers and checkpoints see one."""
        muon = [group for group in self.param_groups if group["algorithm"] == "muon"]
        others = [group for group in self.param_groups if group["algorithm"] != "muon"]
        self._muon = torch.optim.Muon(muon, adjust_lr_fn="match_rms_adamw") if muon else None
        self._adamw = torch.optim.AdamW(others) if others else None
        if self._adamw is not None:
            self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step of both.

        Args:
            closure: Evaluates the model anew and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._muon is not None:
            self._step_muon(self._muon)
        if self._adamw is not None:
            self._adamw.step()
        return loss

    def _step_muon(self, muon: torch.optim.Muon) -> None:
        """Hands to Muon what it can treat apart: views of each matrix, its gradient and its momentum."""
        muon.state, muon.param_groups = defaultdict(dict), []
        for group in self.param_groups:
            if group["algorithm"] != "muon":
                continue
            blocks = self._blocks(group, muon.state)
            muon.param_groups.append({**group, "params": [p for p in blocks if not lacks_bfloat16(p.device)]})
            for p in blocks:
                if lacks_bfloat16(p.device):
                    _step_in_full_precision(p, muon.state.pop(p)["momentum_buffer"], group)
        muon.step()  # type: ignore[no-untyped-call]
        muon.state, muon.param_groups = defaultdict(dict), []  # or gradients would outlive zero_grad

    def _blocks(self, group: dict[str, Any], state: dict[Tensor, Any]) -> list[Tensor]:
        count, views = group["blocks"], []
        for p in group["params"]:
            if p.grad is None:
                continue
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            parts = (_parts(x.detach(), count) for x in (p, p.grad, self.state[p]["momentum_buffer"]))
            for view, gradient, momentum in zip(*parts, strict=True):
                view.grad, state[view] = gradient, {"momentum_buffer": momentum}
                views.append(view)
        return views


def _step_in_full_precision(p: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Moves a matrix as torch's Muon does, but for the precision in which its move is made orthogonal."""
    assert p.grad is not None
    momentum.lerp_(p.grad, 1 - group["momentum"])
    update = p.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    update = _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.add_(update, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])  # match_rms_adamw


def _orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton and Schulz's iteration, quintic: brings all singular values near 1."""
    a, b, c = coefficients
    wide = x.size(0) <= x.size(1)
    x = x.float() if wide else x.float().T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


def _parts(x: Tensor, count: int) -> Sequence[Tensor]:
    whole = count == 1 or type(x) is not Tensor  # parts of a DTensor would be copies
    return [x] if whole else x.chunk(count)


def muon_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Returns the groups of :class:`MuonAdamW`: hidden matrices, by their number of blocks, and the rest.

    Args:
        module: What is trained.
        weight_decay: Of all matrices; biases and gains do not decay.
    """
    hidden = hidden_matrices(module)
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p, blocks in hidden.items() if blocks == count],
            "weight_decay": weight_decay,
            "algorithm": "muon",
            "blocks": count,
        }
        for count in sorted(set(hidden.values()))
    ]
    others = [p for p in module.parameters() if p.requires_grad and p not in hidden]
    return groups + decay_groups(others, weight_decay)


def hidden_matrices(module: nn.Module) -> dict[nn.Parameter, int]:
    """Returns the trained matrices inside a network, and of how many stacked blocks each is made.

    They are the two-dimensional parameters but for those of an ``nn.Embedding`` (also where an output layer
    shares them), of an ``nn.ParameterList``, such as learnt first states, and of any module named ``head``. A
    recurrent layer stacks its gates.

    Args:
        module: What is trained.
    """
    tables = (part for part in module.modules() if isinstance(part, nn.Embedding | nn.ParameterList))
    outer = {p for part in tables for p in part.parameters()}
    named = list(module.named_parameters(remove_duplicate=False))
    outer |= {p for name, p in named if "head" in name.split(".")}
    gates = _gates(module)
    return {p: gates.get(p, 1) for _, p in named if p.dim() == 2 and p.requires_grad and p not in outer}


def _gates(module: nn.Module) -> dict[nn.Parameter, int]:
    gates = {}
    for part in module.modules():
        if isinstance(part, nn.RNNBase | nn.RNNCellBase):
            stacked = [p for name, p in part.named_parameters() if "weight_ih" in name or "weight_hh" in name]
            gates.update({p: p.size(0) // part.hidden_size for p in stacked})
        elif isinstance(part, ParallelRecurrentBlock):
            gates.update({p: part.maps for p in part.input.parameters() if p.dim() == 2})
    return gates
