"""Faults in real processes: what was stopped goes on, and ends with the weights of what was never stopped."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from lightning_seq.checkpoints import read
from tests.cli.conftest import TEXT

STEPS = 24
FAULTS = '''
import os
import resource
import signal

import torch
from lightning.pytorch import Callback


class Fault(Callback):
    """Something that happens at a batch, on one rank."""

    def __init__(self, kind: str, at: int, rank: int = 0):
        self.kind, self.at, self.rank = kind, at, rank

    def on_train_batch_start(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.total_batch_idx != self.at or trainer.global_rank != self.rank:
            return
        signals = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
        if self.kind in signals:
            os.kill(os.getpid(), signals[self.kind])
        elif self.kind == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        elif self.kind == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        elif self.kind == "kill before the rename":
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "kill in the middle of writing":
            torch.save = self.half

    def half(self, content, file):
        file.write(bytes(3000))
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
'''
LINE = [
    "fit",
    "--model=LSTMLanguageModel",
    "--model.embedding_dim=8",
    "--model.hidden_size=8",
    "--model.num_layers=2",
    "--model.dropout=0.2",
    "--data=TextDataModule",
    "--data.path=text.txt",
    "--data.batch_size=2",
    "--data.context_length=8",
    f"--trainer.max_steps={STEPS}",
    "--trainer.val_check_interval=5",
    "--trainer.check_val_every_n_epoch=null",
    "--trainer.limit_val_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--seed_everything=0",
]
TWO = ["--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text.txt").write_text(TEXT)
    (folder / "faulty.py").write_text(FAULTS)
    return folder


def fit(place, *words, environment=None, timeout=120):
    """Runs ``fit``; returns its status and what it said."""
    command = [sys.executable, "-m", "lightning_seq", *LINE, *words]
    values = {**os.environ, "OMP_NUM_THREADS": "1", "LIGHTNING_SEQ_CACHE": str(place / "cache")}
    done = subprocess.run(
        command,
        cwd=place,
        env={**values, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def fault(kind, at, rank=0):
    return ["--trainer.callbacks+=faulty.Fault"] + [
        f"--trainer.callbacks.{name}={value}" for name, value in (("kind", kind), ("at", at), ("rank", rank))
    ]


def end_of(run):
    """Weights and the hash of all that was trained on."""
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == STEPS
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row["train_loss"]]
    assert steps == sorted(set(steps))  # each step once, whenever it was stopped
    assert len(steps) == STEPS
    hashes = [row["consumed_hash"] for row in rows if row["consumed_hash"]]
    return content["state_dict"], hashes[-1]


def same(one, other):
    (weights, consumed), (others, too) = one, other
    assert consumed == too
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


@pytest.fixture(scope="module")
def undisturbed(place):
    status, said = fit(place, "--run_dir=undisturbed")
    assert status == 0, said
    return end_of(place / "undisturbed")


@pytest.fixture(scope="module")
def undisturbed_of_two(place):
    status, said = fit(place, *TWO, "--run_dir=undisturbed_of_two")
    assert status == 0, said
    return end_of(place / "undisturbed_of_two")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "kind",
    [
        "kill",
        "terminate",
        "interrupt",
        "kill in the middle of writing",
        "kill before the rename",
        "full disk",
    ],
)
def test_what_was_stopped_anywhere_goes_on_to_the_bit(kind, seed, place, undisturbed, ledger):
    survived = ledger(kind)
    at = random.Random(f"{kind} {seed}").randrange(
        6, STEPS - 4
    )  # after the first checkpoint, before the last
    run = place / f"{kind.replace(' ', '_')}-{seed}"
    status, said = fit(place, *fault(kind, at), "--run_dir", run)
    assert status != 0
    if kind == "full disk":
        error = said[said.index("error: ") :].splitlines()[0]
        assert "cannot write" in error
        assert "Traceback" not in said
    for path in (run / "checkpoints").glob("*.ckpt"):
        assert read(path)["global_step"] > 0  # whole, whenever it was stopped
    status, said = fit(place, "--run_dir", run, "--resume=true")
    assert status == 0, said
    assert f"resume: {run} goes on from last.ckpt" in said
    same(end_of(run), undisturbed)
    assert not list((run / "checkpoints").glob("*.part"))
    survived()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut short", "changed", "empty"])
def test_a_broken_checkpoint_is_named_and_an_older_whole_one_taken(how, place, undisturbed, ledger):
    survived = ledger(f"last.ckpt {how}")
    run = place / f"broken-{how.replace(' ', '-')}"
    status, said = fit(place, *fault("kill", 13), "--run_dir", run)
    last = run / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut short": content[: len(content) // 2], "changed": content, "empty": b""}[how])
    status, said = fit(place, "--run_dir", place / "elsewhere", "--ckpt_path", last)
    assert status == 1
    assert "last.ckpt" in said[said.index("error: ") :].splitlines()[0]
    status, said = fit(place, "--run_dir", run, "--ckpt_path=last")
    assert status == 0, said
    assert "resume: last.ckpt is broken" in said
    assert "best.ckpt is the newest whole checkpoint" in said.replace("\n", " ")
    same(end_of(run), undisturbed)
    survived()


@pytest.mark.slow
def test_where_a_rank_dies_the_other_ends_and_the_training_goes_on(place, undisturbed_of_two, ledger):
    survived = ledger("a rank is killed")
    run, begun = place / "dying", time.monotonic()
    status, said = fit(place, *TWO, *fault("kill", 13, rank=1), "--run_dir", run)
    assert status != 0
    assert time.monotonic() - begun < 60
    assert read(run / "checkpoints/last.ckpt")["global_step"] == 10  # not written by one rank alone
    status, said = fit(place, *TWO, "--run_dir", run, "--resume=true")
    assert status == 0, said
    same(end_of(run), undisturbed_of_two)
    survived()


@pytest.mark.slow
def test_ranks_that_others_start_share_a_directory_and_end_together(place, undisturbed_of_two, ledger):
    """torchrun: no process knows what the first one chose but by asking."""
    survived = ledger("a rank of torchrun is killed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIGHTNING_SEQ_CACHE": str(place / "cache")}

    def start(*words):
        command = [*launcher, "-m", "lightning_seq", *LINE, *TWO, *words]
        return subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    before = set((place / "runs").glob("*")) if (place / "runs").exists() else set()
    done = start(*fault("kill", 13, rank=1))
    assert done.returncode != 0
    (run,) = set((place / "runs").glob("*")) - before
    done = start("--run_dir", str(run), "--resume=true")
    assert done.returncode == 0, done.stderr[-3000:]
    same(end_of(run), undisturbed_of_two)
    survived()


@pytest.mark.slow
def test_a_requeued_job_of_slurm_enters_its_own_directory(place, undisturbed, ledger):
    survived = ledger("SLURM requeues")
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"}
    run = place / "runs" / "LSTMLanguageModel-job77"
    status, said = fit(place, *fault("kill", 13), environment=job)
    assert status == -signal.SIGKILL, said
    assert run.is_dir()
    status, said = fit(place, environment=job)
    assert status == 1
    assert "exists already" in said
    status, said = fit(place, environment={**job, "SLURM_RESTART_COUNT": "1"})
    assert status == 0, said
    same(end_of(run), undisturbed)
    survived()


@pytest.mark.slow
def test_out_of_memory_is_one_line_with_what_a_step_needs(place, ledger):
    survived = ledger("out of memory")
    status, said = fit(place, *fault("out of memory", 3), "--run_dir=large")
    assert status == 1
    error = said[said.index("error: ") :].splitlines()[0]
    assert error.startswith("error: out of memory: a step needs about ")
    assert "weights " in error
    assert "data.batch_size" in error
    survived()


LOGGERS = """
from lightning.pytorch.loggers import CSVLogger


class Failing(CSVLogger):
    def __init__(self):
        super().__init__("failing", name="", version="")

    def log_metrics(self, metrics, step=None):
        if step and step > 6:
            raise ConnectionError("the server is gone")
        super().log_metrics(metrics, step)
"""


@pytest.mark.slow
def test_a_logger_that_fails_ends_no_training(place, undisturbed, ledger):
    survived = ledger("a logger fails")
    (place / "loggers.py").write_text(LOGGERS)
    status, said = fit(place, "--trainer.logger=loggers.Failing", "--run_dir=unlogged")
    assert status == 0, said
    assert said.count("Failing failed in log_metrics (ConnectionError: the server is gone)") == 1
    content = torch.load(place / "unlogged/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(weight, undisturbed[0][name]) for name, weight in content["state_dict"].items())
    survived()
