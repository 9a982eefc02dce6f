"""Keeps every test away from the user's own cache, runs and settings."""

import os
from collections.abc import Callable

import hypothesis
import pytest
import torch
from lightning.pytorch import Trainer

os.environ.setdefault("WANDB_MODE", "offline")
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
torch.set_num_threads(1)  # tests' networks are tiny: a second thread is waited for longer than it helps


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("LIGHTNING_SEQ_RUN_DIR", raising=False)


@pytest.fixture
def quiet_trainer(tmp_path) -> Callable[..., Trainer]:
    """Makes a Trainer that writes nothing by itself."""

    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(**{**defaults, **options})

    return make
