"""Gradients of an accumulation window that a checkpoint cuts in two."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_seq.models.token_normalization import TokenNormalization
from lightning_seq.networks.spreading import whole

WINDOW_TOKENS = "<tokens>"  # no parameter's name


def window_is_open(module: LightningModule) -> bool:
    """Says whether batches were trained on whose optimizer step has not been made."""
    loop: Any = module.trainer.fit_loop.epoch_loop
    batches = loop.batch_progress
    ended = batches.is_last_batch and batches.current.ready == batches.current.processed
    return bool(batches.current.processed % module.trainer.accumulate_grad_batches) and not ended


def gradients_for_checkpoint(module: LightningModule, tokens: Tensor | None) -> dict[str, Tensor] | None:
    """Returns gradients and ``tokens`` so far, ``(ranks, ...)`` each; with several ranks, all must ask.

    None where no window is open: as a rule, since checkpoints are written when a step is done.
    """
    if not window_is_open(module):
        return None
    # all that can have one, since all ranks gather the same ones
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained}
    if tokens is not None:
        gradients[WINDOW_TOKENS] = tokens
    gathered = {name: _of_ranks(gradient.detach(), module) for name, gradient in gradients.items()}
    return {name: gradient.cpu() for name, gradient in gathered.items()}


def _of_ranks(x: Tensor, module: LightningModule) -> Tensor:
    """What every rank has, or, of what is spread, the whole, which is summed over the ranks already."""
    if isinstance(x, DTensor) or module.trainer.world_size == 1:
        return whole(x)[None]
    return cast(Tensor, module.all_gather(x))


def restore_gradients(
    gradients: dict[str, Tensor], module: LightningModule, normalization: TokenNormalization
) -> None:
    """Puts this rank's gradients and token count back, from which accumulation goes on."""
    tokens, ranks = gradients.get(WINDOW_TOKENS), module.trainer.world_size
    if ranks != (1 if tokens is None else len(tokens)):
        rank_zero_info("resume: another number of processes, so the accumulation under way begins anew")
        return
    rank = module.trainer.global_rank
    if tokens is not None:
        mine = tokens[rank].to(module.device)
        normalization.go_on(mine, module.trainer.global_step, module.trainer.accumulate_grad_batches)
    for name, parameter in module.named_parameters():
        if name not in gradients:
            continue
        if isinstance(parameter, DTensor):
            found = gradients[name][0].to(module.device)
            parameter.grad = distribute_tensor(found, parameter.device_mesh, parameter.placements)
        elif len(gradients[name]) == ranks:
            parameter.grad = torch.empty_like(parameter).copy_(gradients[name][rank])
