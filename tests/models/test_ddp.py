"""Two processes under ddp train what one does with as many rows: every family, batching and callback."""

import csv
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lightning_seq import callbacks
from lightning_seq.data import CopyTask, SequenceDataModule
from tests.data.test_elastic_resume import DOCUMENTS
from tests.models.training import SMALL, trainer
from tests.ranks import run_ranks

ROWS, STEPS = 4, 6
SGD = {"optimizer": "sgd", "learning_rate": 0.2}  # AdamW blows up what is nought but for rounding
BATCHINGS = ["contiguous", "blocks", "documents", "task"]
OF_OTHERS = {"LastCheckpoint", "TuneMonitor", "WandbRun"}  # of other data, loggers and tests
WATCHERS = sorted(set(callbacks.__all__) - OF_OTHERS)
CLIPPING = {"AutoClip", "ZClip"}


class Data(SequenceDataModule):
    """Documents of 40 to 90 characters."""

    def documents(self, split):
        return DOCUMENTS if split == "train" else DOCUMENTS[3:8]


def fit(cases, ranks, folder):
    """Trains each case, and returns weights of all; what was logged lies in the folder."""
    warnings.simplefilter("ignore")  # in a process of its own
    return [_fit(*case, ranks, Path(folder) / f"{number}-{ranks}") for number, case in enumerate(cases)]


def _fit(family, batching, watchers, ranks, folder):
    torch.manual_seed(0)
    if batching == "task":
        data = CopyTask(batch_size=ROWS // ranks, delay=4)
    else:
        options = {"context_length": 8, "cache_dir": str(folder.parent / "cache")}
        data = Data(batching=batching, batch_size=ROWS // ranks, **options)
    model = family(data.vocab_size, **SMALL[family], **SGD)
    run = trainer(
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=STEPS,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=3,
        log_every_n_steps=1,
        gradient_clip_val=None if CLIPPING.intersection(watchers) else 0.5,
        enable_progress_bar="ProgressBar" in watchers,
        logger=CSVLogger(folder, "", ""),
        callbacks=[getattr(callbacks, name)() for name in watchers],
    )
    run.fit(model, data)
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: [float(row[name]) for row in rows if row.get(name)]
        for name in ("train_loss", "val_loss", "val_perplexity", "grad/norm")
    }


def check(cases, tmp_path):
    (alone,) = run_ranks(fit, cases, 1, str(tmp_path), world=1, timeout=500)
    together = run_ranks(fit, cases, 2, str(tmp_path), timeout=500)
    for number, (case, weights) in enumerate(zip(cases, alone, strict=True)):
        for rank in together:
            for name, weight in weights.items():
                same = torch.allclose(rank[number][name], weight, atol=1e-5, rtol=0)
                assert same, (case, name)
        one, two = logged(tmp_path / f"{number}-1"), logged(tmp_path / f"{number}-2")
        assert len(one["train_loss"]) == STEPS
        assert len(one["val_loss"]) == STEPS // 3
        for name, values in one.items():
            assert two[name] == pytest.approx(values, abs=1e-5), (case, name)


@pytest.mark.slow
@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_family_with_every_batching(batching, tmp_path):
    check([(family, batching, ()) for family in SMALL], tmp_path)


@pytest.mark.slow
def test_every_callback(tmp_path):
    clipping = sorted(CLIPPING)
    watching = [name for name in WATCHERS if name not in CLIPPING]
    cases = [(family, "contiguous", watching) for family in SMALL]
    check(cases + [(next(iter(SMALL)), "contiguous", [name]) for name in clipping], tmp_path)
