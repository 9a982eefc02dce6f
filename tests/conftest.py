"""Keeps every test away from the user's own cache, runs and settings."""

import logging
import os
import tempfile
from collections.abc import Callable

# The environment comes first: Hugging Face's packages read it once, when they are imported.
USERS_OWN = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "DATASETS_", "WANDB_", "LIGHTNING_SEQ_")
for name in [name for name in os.environ if name.startswith(USERS_OWN)]:
    del os.environ[name]
_hugging_face = tempfile.TemporaryDirectory(prefix="lightning_seq_tests")
os.environ |= {"HF_HOME": _hugging_face.name, "WANDB_MODE": "offline"}

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch import Trainer  # noqa: E402

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
for name in ("lightning.pytorch", "lightning.fabric"):  # else some versions of pytest see nothing of them
    logging.getLogger(name).propagate = True
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
