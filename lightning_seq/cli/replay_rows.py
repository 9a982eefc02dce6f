"""Which rows of the batches of an incident the model found hardest to predict, and which token in them."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_seq.callbacks.incidents.files import decoded
from lightning_seq.callbacks.incidents.step import StepWindow
from lightning_seq.models import LanguageModel
from lightning_seq.networks.base import IGNORE_INDEX, evaluating

_MOST = 3  # of a rank
_BEFORE = 24  # tokens shown before the hardest one


def worst_rows(trainer: Trainer, module: LightningModule, window: StepWindow) -> list[dict[str, Any]]:
    """Returns the rows with the largest mean loss, in evaluation mode, hardest first; none of other models.

    They are known of a LanguageModel, and of a module whose ``module(inputs)`` gives logits
    ``(batch, time, vocab)`` and whose batches are dicts with ``inputs`` and ``targets``.
    """
    rows: list[dict[str, Any]] = []
    if isinstance(module, LanguageModel):
        module._carried._states["evaluation"] = window.state
    try:
        with evaluating(module), trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(window.batches):
                losses = _losses(module, batch, number)
                if losses is not None:
                    rows += _rows(losses.float().cpu(), batch, number, getattr(module, "tokenizer", None))
    except Exception:  # somebody else's forward: all but the rows is known
        return []
    return sorted(rows, key=lambda row: float(row["order"]), reverse=True)[:_MOST]


def _losses(module: Any, batch: Any, number: int) -> Tensor | None:
    """Returns the loss of each token (batch, time), NaN where none is scored."""
    if not isinstance(batch, dict) or not {"inputs", "targets"} <= batch.keys():
        return None
    if isinstance(module, LanguageModel):
        return module.predict_step(batch, number)
    logits, targets = module(batch["inputs"]), batch["targets"]
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != targets.shape:
        return None
    losses = F.cross_entropy(logits.mT.float(), targets, reduction="none", ignore_index=IGNORE_INDEX)
    return losses.masked_fill(targets == IGNORE_INDEX, torch.nan)


def _rows(losses: Tensor, batch: Any, number: int, tokenizer: Any) -> list[dict[str, Any]]:
    rows = []
    inputs, targets = batch["inputs"].tolist(), batch["targets"]
    for index, (row, ids) in enumerate(zip(losses, inputs, strict=True)):
        scored = targets[index].cpu() != IGNORE_INDEX
        if not scored.any():
            continue
        mean = float(row[scored].mean())
        hardest = int(row.nan_to_num(nan=math.inf).masked_fill(~scored, -math.inf).argmax())
        wanted = int(targets[index, hardest])
        before = ids[max(0, hardest + 1 - _BEFORE) : hardest + 1]
        rows.append(
            {
                "batch": number,
                "row": index,
                "loss": mean,
                "tokens": int(scored.sum()),
                "hardest": hardest,
                "hardest_loss": float(row[hardest]),
                "hardest_token": _written([wanted], tokenizer),
                "before": _written(before, tokenizer),
                "text": _written(ids, tokenizer),
                "order": math.inf if math.isnan(mean) else mean,
            }
        )
    return rows


def _written(ids: list[int], tokenizer: Any) -> str:
    return decoded(ids, tokenizer) or " ".join(map(str, ids))
