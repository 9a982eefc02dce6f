"""What the tests of models train on, and with."""

import lightning.pytorch as pl
import torch

from lightning_seq.models import (
    GRULanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    MinLSTMLanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from lightning_seq.networks.base import IGNORE_INDEX

VOCAB = 13
SMALL = {
    RNNLanguageModel: {"embedding_dim": 8, "hidden_size": 8},
    GRULanguageModel: {"embedding_dim": 8, "hidden_size": 8},
    LSTMLanguageModel: {"embedding_dim": 8, "hidden_size": 8},
    MinGRULanguageModel: {"embedding_dim": 8, "hidden_size": 8, "num_layers": 1},
    MinLSTMLanguageModel: {"embedding_dim": 8, "hidden_size": 8, "num_layers": 1},
    TransformerLanguageModel: {"embedding_dim": 16, "num_layers": 1, "num_heads": 2, "context_length": 32},
}


class Batches:
    """A sized iterable of prepared batches: not a DataLoader, so nothing is reordered."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def lanes(steps=6, batch=4, time=8, continues=True, seed=0):
    text = torch.randint(0, VOCAB, (batch, steps * time + 1), generator=torch.Generator().manual_seed(seed))
    batches = []
    for i in range(steps):
        window = text[:, i * time : (i + 1) * time + 1]
        extra = {"continues": torch.full((batch,), i > 0)} if continues else {}
        batches.append({"inputs": window[:, :-1], "targets": window[:, 1:], **extra})
    return Batches(batches)


def ragged(rows, time=9, seed=0):
    """One batch of rows whose lengths differ a lot, padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (rows, time + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row in range(rows):
        targets[row, 1 + (5 * row) % time :] = IGNORE_INDEX
    return {"inputs": tokens[:, :-1], "targets": targets}


def rows_of(batch, start, stop):
    return {name: value[start:stop] for name, value in batch.items()}


def trainer(**settings):
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_steps": 6,
            "log_every_n_steps": 2,
            "num_sanity_val_steps": 0,
            **settings,
        }
    )


def build(cls, **kwargs):
    torch.manual_seed(0)
    return cls(VOCAB, **{**SMALL[cls], **kwargs})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
