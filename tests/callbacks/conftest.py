"""Tiny modules that know nothing of this package, and one way to train them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_seq.networks.recurrent_layers import full_precision_where_half_is_missing

VOCAB = 11


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.rows = torch.randint(0, VOCAB, (count, 13), generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.rows[index, :-1], "targets": self.rows[index, 1:]}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = 0.1 if self.training else 0.0
        return (
            F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
            .transpose(1, 2)
            .flatten(2)
        )


class TinyModel(LightningModule):
    """A language model of one of three kinds, with dropout so that random numbers matter."""

    def __init__(self, kind: str = "attention", learning_rate: float = 0.05) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.embedding = nn.Embedding(VOCAB, 8)
        if kind == "attention":
            self.body: nn.Module = nn.Sequential(Attention(8, 2), nn.Dropout(0.2), Attention(8, 4))
        else:
            self.body = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, VOCAB)
        self.frozen = nn.Dropout(0.5)

    def on_train_start(self) -> None:
        self.frozen.eval()  # a mode of its own

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.dropout(self.embedding(tokens), 0.1, self.training)
        with full_precision_where_half_is_missing(x):
            x = self.body(x)
        return self.head(x[0] if isinstance(x, tuple) else x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["inputs"]).flatten(0, 1), batch["targets"].flatten())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss = F.cross_entropy(self(batch["inputs"]).flatten(0, 1), batch["targets"].flatten())
        self.log("val_loss", loss, prog_bar=True, batch_size=len(batch["inputs"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.learning_rate)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Rows(24), batch_size=3, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Rows(6), batch_size=3)


class Writer(TinyModel):
    """Continues text, noisily: it draws from the global random numbers."""

    def generate(self, prompt: str, **options: Any) -> str:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.options = options
        torch.rand(5)
        return prompt + "ünd so weiter"


@pytest.fixture
def tiny() -> type[TinyModel]:
    return TinyModel


@pytest.fixture
def writer() -> type[Writer]:
    return Writer


@pytest.fixture
def train(tmp_path) -> Callable[..., tuple[Trainer, Tensor]]:
    """Trains a new model from the same seed; returns the trainer and all its weights in one vector."""

    def run(make: Callable[[], LightningModule], *callbacks: Any, **options: Any) -> tuple[Trainer, Tensor]:
        seed_everything(1, verbose=False)
        defaults: dict[str, Any] = {
            "max_steps": 6,
            "log_every_n_steps": 2,
            "val_check_interval": 4,
            "num_sanity_val_steps": 1,
            "logger": False,
            "enable_progress_bar": False,
        }
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
            **{**defaults, **options},
        )
        module = make()
        trainer.fit(module)
        return trainer, torch.cat([p.detach().flatten() for p in module.parameters()])

    return run
