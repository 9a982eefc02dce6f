"""AttentionLogger: where the heads of a model look, seen at every validation."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_seq.callbacks.attention_figure import draw_heads
from lightning_seq.callbacks.probe import inputs_of, undisturbed
from lightning_seq.errors import InputError
from lightning_seq.figures import log_figure
from lightning_seq.networks.attention_capture import AttentionCall, capture_attention, head_entropy


class AttentionLogger(Callback):
    """Shows what each attention head looks at, at the end of every validation.

    Works with any LightningModule whose `model(tokens)` runs PyTorch's attention, and leaves its fused
    kernels, its random numbers and its weights alone. It looks at one example, the first of the validation
    data, so that pictures of different steps can be compared. It logs

    - `attention/entropy/layer0_head0` and so on: how evenly a head spreads its attention, from 0 (always on
      one token) to 1 (the same on every token that it may see);
    - `attention/entropy`: the mean over all heads;
    - `attention/heads`: one picture with a map of every head.

    A model without attention is told of once, and nothing is logged.

    Args:
        max_tokens: How much of the example to look at: its first tokens. Larger pictures show more and are
            harder to read.
    """

    def __init__(self, max_tokens: int = 64) -> None:
        if max_tokens < 2:
            raise InputError(f"AttentionLogger got max_tokens={max_tokens}, expected at least 2")
        self.max_tokens = max_tokens
        self._tokens: Tensor | None = None
        self._silent = False

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first example that comes by."""
        if self._tokens is not None or self._silent:
            return
        inputs = inputs_of(batch)
        if inputs is None:
            self._stop(
                "expected validation batches that are a tensor, a tuple that begins with one, or a dict with "
                f"'inputs' or 'input_ids', got {type(batch).__name__}"
            )
            return
        self._tokens = inputs[:1, : self.max_tokens].detach().clone()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks and logs."""
        if trainer.sanity_checking or self._silent or self._tokens is None:
            return
        calls = self._look(trainer, pl_module, self._tokens)
        if not calls:
            return
        entropies = [entropy.cpu() for _, entropy in calls]
        # one example, the rank's own: without a collective, which a rank that saw no batch would not reach
        # (sync_dist only keeps Lightning from asking for one)
        pl_module.log_dict(_metrics(entropies), batch_size=1, sync_dist=True, rank_zero_only=True)
        if not trainer.is_global_zero:
            return
        maps = [probabilities.cpu().numpy() for probabilities, _ in calls]
        figure = draw_heads(maps, [entropy.numpy() for entropy in entropies], trainer.global_step)
        for logger in trainer.loggers:
            log_figure(logger, "attention/heads", figure, trainer.global_step)

    def _look(
        self, trainer: Trainer, pl_module: LightningModule, tokens: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Per layer the maps (heads, queries, keys) and the entropies (heads,)."""
        name = type(pl_module).__name__
        try:
            with (
                undisturbed(pl_module),
                trainer.precision_plugin.val_step_context(),
                capture_attention(pl_module, reduce=_map_and_entropy) as calls,
            ):
                pl_module(tokens.to(pl_module.device))
        except Exception as error:  # somebody else's forward: a picture is not worth a training
            self._stop(f"{name}(tokens) with tokens of shape {tuple(tokens.shape)} failed: {error!r}")
            return []
        if not calls:
            self._silent = True
            rank_zero_info(f"AttentionLogger: {name} runs no attention that PyTorch shows; nothing is logged")
        return calls

    def _stop(self, why: str) -> None:
        self._silent = True
        rank_zero_warn(f"AttentionLogger sees nothing and logs nothing: {why}")


def _map_and_entropy(call: AttentionCall) -> tuple[Tensor, Tensor]:
    return call.probabilities[0], head_entropy(call.probabilities, call.visible)


def _metrics(entropies: list[Tensor]) -> dict[str, float | Tensor]:
    metrics: dict[str, float | Tensor] = {"attention/entropy": torch.cat(entropies).mean()}
    for layer, heads in enumerate(entropies):
        for head, entropy in enumerate(heads):
            metrics[f"attention/entropy/layer{layer}_head{head}"] = entropy
    return metrics
