"""The tests themselves give the same results whatever their user has set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOWHERE = "/proc/nowhere"
USERS_OWN = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
    **dict.fromkeys(("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "WANDB_DIR"), NOWHERE),
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_TOKEN": "none",
    "WANDB_MODE": "disabled",
    "WANDB_DISABLED": "true",
    "WANDB_PROJECT": "my own",
    "WANDB_API_KEY": "none",
    "LIGHTNING_SEQ_RUN_DIR": NOWHERE,
}


@pytest.mark.slow
def test_settings_of_the_user_reach_neither_tests_nor_their_processes():
    chosen = [
        "tests/data/sources/test_hub.py::test_offline_lasts_as_long_as_it_should",
        "tests/data/tokenization/test_tokenizers.py::test_a_tokenizer_of_the_hub_is_fetched_and_kept",
        "tests/test_recipes_data.py::test_a_recipe_trains_on_its_dataset_of_the_hub[ptb_lstm_small]",
        "tests/cli/test_wandb.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **USERS_OWN},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
