"""Gradients of an accumulation window that a checkpoint cuts in two."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_seq.models.token_normalization import TokenNormalization

WINDOW_TOKENS = "<tokens>"  # no parameter's name


def gradients_for_checkpoint(module: LightningModule, tokens: Tensor | None) -> dict[str, Tensor] | None:
    """Returns gradients and ``tokens`` so far, ``(ranks, ...)`` each; with several ranks, all must ask.

    None where no window is open: as a rule, since checkpoints are written when a step is done.
    """
    loop: Any = module.trainer.fit_loop.epoch_loop
    done = loop.batch_progress.current.processed
    if done % module.trainer.accumulate_grad_batches == 0 or loop._num_ready_batches_reached():
        return None
    # all that can have one, since all ranks gather the same ones
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained}
    if tokens is not None:
        gradients[WINDOW_TOKENS] = tokens
    if module.trainer.world_size == 1:
        return {name: gradient.detach().cpu()[None] for name, gradient in gradients.items()}
    return {name: cast(Tensor, module.all_gather(each)).cpu() for name, each in gradients.items()}


def restore_gradients(
    gradients: dict[str, Tensor], module: LightningModule, normalization: TokenNormalization
) -> None:
    """Puts this rank's gradients and token count back, from which accumulation goes on."""
    tokens = gradients.get(WINDOW_TOKENS)
    if tokens is not None and len(tokens) == module.trainer.world_size:
        mine = tokens[module.trainer.global_rank].to(module.device)
        normalization.go_on(mine, module.trainer.global_step, module.trainer.accumulate_grad_batches)
    for name, parameter in module.named_parameters():
        ranks = gradients.get(name)
        if ranks is not None and len(ranks) == module.trainer.world_size:
            parameter.grad = torch.empty_like(parameter).copy_(ranks[module.trainer.global_rank])
