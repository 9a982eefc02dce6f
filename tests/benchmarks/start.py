"""What one waits for before training begins: whole processes that make one step, beside bare imports."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.turns import Table, in_turns, timed

QUESTION = "How long does a training take to begin, with and without tokens in the cache? (--data)"
PROTOCOL = (
    "Seconds of whole processes. fit makes one step of quickstart_lstm without validation, on {text}: cold "
    "tokenizes it, cached finds the tokens of an earlier run. Imports alone are what no training with "
    "Lightning can go below."
)


def measure(options):
    """Yields the table."""
    text = "python-docs" if options.data is None else str(options.data.resolve())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        contenders = {
            "import lightning.pytorch": lambda: _timed(["-c", "import lightning.pytorch"], place),
            "import torch": lambda: _timed(["-c", "import torch"], place),
            "fit, cold": lambda: _fit(text, place, cold=True),
            "fit, cached": lambda: _fit(text, place, cold=False),
        }
        protocol = PROTOCOL.format(text=Path(text).name)
        table = Table("Start-up", protocol, "seconds", True, "import lightning.pytorch")
        yield in_turns(table, contenders, options.rounds)


def _fit(text, place, cold):
    shutil.rmtree(place / "run", ignore_errors=True)
    if cold:
        shutil.rmtree(place / "cache", ignore_errors=True)
    one_step = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=null"]
    words = ["fit", "--config=quickstart_lstm", f"--data.path={text}", "--run_dir=run", *one_step]
    return _timed(["-m", "lightning_seq", *words], place)


def _timed(words, place):
    environment = {**os.environ, "LIGHTNING_SEQ_CACHE": str(place / "cache")}
    return {"seconds": timed([sys.executable, *words], place, environment)}
