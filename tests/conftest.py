"""Keeps every test away from the user's own cache, runs and settings."""

import os

import pytest

os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("LIGHTNING_SEQ_RUN_DIR", raising=False)
