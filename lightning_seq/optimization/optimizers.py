"""The optimizers by name, and whose hyperparameters count after a resume."""

import math
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_seq.errors import InputError, did_you_mean
from lightning_seq.networks.spreading import is_spread
from lightning_seq.optimization.averaged_sgd import NTASGD
from lightning_seq.optimization.muon import MuonAdamW, muon_groups
from lightning_seq.optimization.parameter_groups import decays, parameter_groups
from lightning_seq.optimization.schedules import LearningRateSchedule

OptimizerName = Literal["adamw", "sgd", "nt_asgd", "muon"]


def build_optimizer(
    module: nn.Module,
    name: OptimizerName,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float | None = None,
    fused: bool = False,
    non_monotone_interval: int | None = None,
) -> torch.optim.Optimizer:
    """Returns the optimizer of ``module``.

    Args:
        module: What is trained.
        name: ``adamw`` (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), ``sgd``, ``nt_asgd``
            (see :class:`NTASGD`) or ``muon`` (see :class:`MuonAdamW`).
        learning_rate: The highest that a schedule reaches.
        weight_decay: Of matrices; biases and gains do not decay.
        betas: The averaging factors of AdamW, also of the one beside Muon.
        momentum: Of ``sgd`` (default: 0) or ``muon`` (default: 0.95).
        fused: Whether ``adamw`` and ``sgd`` use one kernel for all; the others have none.
        non_monotone_interval: Of ``nt_asgd`` (default: 5).

    Raises:
        InputError: A value is out of range, or not one of this optimizer.
    """
    check_options(learning_rate, weight_decay, name, betas, momentum, non_monotone_interval)
    groups = muon_groups(module, weight_decay) if name == "muon" else parameter_groups(module, weight_decay)
    if not groups:
        raise InputError(f"{type(module).__name__} has no parameter to train: unfreeze one")
    spread = is_spread(module)
    gates = any(group.get("blocks", 1) > 1 for group in groups)  # which muon moves one by one
    if spread and (name == "nt_asgd" or (name == "muon" and gates)):
        raise InputError(
            f"optimizer {name!r} of a {'recurrent ' * gates}network needs whole weights, and this "
            "strategy spreads them over the ranks: take optimizer: adamw, or strategy ddp"
        )
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)
    elif name == "sgd":
        optimizer = torch.optim.SGD(  # torch has no fused one for what is spread
            groups, lr=learning_rate, momentum=momentum or 0.0, fused=fused and not spread
        )
    elif name == "nt_asgd":
        interval = 5 if non_monotone_interval is None else non_monotone_interval
        optimizer = NTASGD(groups, learning_rate, non_monotone_interval=interval)
    else:
        if all(group.get("algorithm") != "muon" for group in groups):
            raise InputError(
                f"optimizer 'muon' is for hidden matrices, and {type(module).__name__} has none to train: "
                "take optimizer: adamw"
            )
        optimizer = MuonAdamW(
            groups, learning_rate, betas=betas, momentum=0.95 if momentum is None else momentum
        )
    for group in optimizer.param_groups:
        group["optimizer"] = name
    optimizer.register_load_state_dict_pre_hook(_refuse_that_of_another)
    return optimizer


def check_options(
    learning_rate: float,
    weight_decay: float = 0.0,
    name: str = "adamw",
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float | None = None,
    non_monotone_interval: int | None = None,
) -> None:
    """Checks what :func:`build_optimizer` would be given, before there is anything to train.

    Raises:
        InputError: A value is out of range, or not one of this optimizer.
    """
    names = get_args(OptimizerName)
    if name not in names:
        raise InputError(f"optimizer is {name!r}{did_you_mean(name, names)}; it must be one of {list(names)}")
    if not 0 < learning_rate < math.inf:
        raise InputError(f"learning_rate is {learning_rate}: give a number above 0")
    if not 0 <= weight_decay < math.inf:
        raise InputError(f"weight_decay is {weight_decay}: give a number from 0 on")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas are {betas}: give two numbers in [0, 1)")
    _check_used("momentum", momentum, name, ("sgd", "muon"))
    _check_used("non_monotone_interval", non_monotone_interval, name, ("nt_asgd",))
    if momentum is not None and not 0 <= momentum < 1:
        raise InputError(f"momentum is {momentum}: give a number in [0, 1)")
    if non_monotone_interval is not None and non_monotone_interval < 1:
        raise InputError(f"non_monotone_interval is {non_monotone_interval}: give a whole number from 1 on")


def _check_used(option: str, value: float | None, name: str, users: tuple[str, ...]) -> None:
    if value is not None and name not in users:
        raise InputError(
            f"{option} is {value}, and optimizer {name!r} does not use it: leave it out, or take optimizer: "
            f"{' or '.join(users)}"
        )


def _refuse_that_of_another(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    wanted = optimizer.param_groups[0]["optimizer"]
    saved = state_dict["param_groups"][0].get("optimizer", "adamw")  # older checkpoints know no other
    if saved != wanted:
        raise InputError(
            f"the checkpoint was trained with optimizer {saved!r}, and this is {wanted!r}: take optimizer: "
            f"{saved}, or start anew from its weights"
        )


def set_hyperparameters(
    optimizer: torch.optim.Optimizer,
    schedule: LearningRateSchedule,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    momentum: float | None = None,
) -> None:
    """Lets these values, and how the optimizer was built, win over what a checkpoint gave to it.

    Args:
        optimizer: One of :func:`build_optimizer`.
        schedule: Its schedule, whose position is kept.
        learning_rate: The highest that the schedule reaches.
        weight_decay: Of matrices.
        betas: Where the optimizer has them.
        momentum: Where the optimizer has one (default: what it was built with).
    """
    values = {key: optimizer.defaults.get(key) for key in ("momentum", "fused", "foreach")}
    values["betas"] = betas
    if momentum is not None:
        values["momentum"] = momentum
    for group in optimizer.param_groups:
        group.update({key: value for key, value in values.items() if key in group})
        group["weight_decay"] = weight_decay if decays(group["params"][0]) else 0.0
        _place_step_counts(optimizer, group)
    schedule.set_learning_rate(learning_rate)


def _place_step_counts(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Puts AdamW's counts where its kernel wants them: that of the checkpoint may have been another one."""
    for p in group["params"]:
        state = optimizer.state.get(p, {})
        if "step" in state:
            state["step"] = state["step"].to(p.device if group["fused"] else "cpu")
