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
import random
import resource
import signal
import threading

import torch
from lightning.pytorch import Callback


class Fault(Callback):
    """Something that happens at a batch, on one rank (-1: on each); a signal comes some time after."""

    def __init__(self, kind: str, at: int, rank: int = 0):
        self.kind, self.at, self.rank = kind, at, rank

    def on_train_batch_start(self, trainer, module, *args):
        at, rank = trainer.fit_loop.epoch_loop.total_batch_idx, trainer.global_rank
        if at != self.at or self.rank not in (rank, -1):
            return
        signals = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
        signals["time is over"] = signal.SIGUSR1
        if self.kind in signals:
            delay = random.Random(f"{self.kind} {at} {rank}").random() * 0.015
            threading.Timer(delay, os.kill, (os.getpid(), signals[self.kind])).start()
        elif self.kind == "nan":
            weight = next(module.parameters())
            hook = weight.register_hook(lambda gradient: hook.remove() or gradient * float("nan"))
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
ENDS = {"terminate": 128 + signal.SIGTERM, "interrupt": 128 + signal.SIGINT, "full disk": 1}
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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
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
    return content["state_dict"], consumed_by(run)[-1]


def consumed_by(run):
    with (run / "metrics.csv").open() as file:
        return [row["consumed_hash"] for row in csv.DictReader(file) if row["consumed_hash"]]


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


def somewhere(what):
    """A batch after the first checkpoint, and well before the last step."""
    return random.Random(what).randrange(6, STEPS - 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
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
    at = somewhere(f"{kind} {seed}")
    run = place / f"{kind.replace(' ', '_')}-{seed}"
    status, said = fit(place, *fault(kind, at), "--run_dir", run)
    assert status == ENDS.get(kind, -signal.SIGKILL), said
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
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("how", ["cut short", "changed", "empty"])
def test_a_broken_checkpoint_is_named_and_an_older_whole_one_taken(how, seed, place, undisturbed, ledger):
    survived = ledger(f"last.ckpt {how}")
    run = place / f"broken-{how.replace(' ', '-')}-{seed}"
    status, said = fit(place, *fault("kill", somewhere(f"{how} {seed}")), "--run_dir", run)
    last = run / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    place_in_it = random.Random(seed).randrange(len(content) // 4, len(content) // 2)
    content[place_in_it] ^= 1
    last.write_bytes({"cut short": content[:place_in_it], "changed": content, "empty": b""}[how])
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
@pytest.mark.parametrize(("seed", "rank"), [(1, 0), (2, 1), (3, 1)])
def test_where_a_rank_dies_the_other_ends_and_the_training_goes_on(
    seed, rank, place, undisturbed_of_two, ledger
):
    survived = ledger("a rank is killed")
    run, begun = place / f"dying-{seed}", time.monotonic()
    status, said = fit(place, *TWO, *fault("kill", somewhere(seed), rank), "--run_dir", run)
    assert status != 0
    assert time.monotonic() - begun < 60
    assert read(run / "checkpoints/last.ckpt")["global_step"] % 5 == 0  # not written by one rank alone
    status, said = fit(place, *TWO, "--run_dir", run, "--resume=true")
    assert status == 0, said
    same(end_of(run), undisturbed_of_two)
    survived()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("kind", "rank"), [("terminate", 0), ("terminate", 1), ("terminate", -1), ("interrupt", -1)]
)
def test_ranks_stop_together_whichever_got_the_signal(kind, rank, seed, place, undisturbed_of_two, ledger):
    """Each gets it in the middle of something else."""
    survived = ledger(f"{kind}, of two ranks {'both' if rank < 0 else rank}")
    at = somewhere(f"{kind} {rank} {seed}")
    run = place / f"{kind}-{rank}-{seed}"
    status, said = fit(place, *TWO, *fault(kind, at, rank), "--run_dir", run)
    assert status == ENDS[kind], said
    assert "the training stops after step" in said
    status, said = fit(place, *TWO, "--run_dir", run, "--resume=true")
    assert status == 0, said
    same(end_of(run), undisturbed_of_two)
    survived()


@pytest.mark.slow
def test_what_follows_a_nan_is_trained_again_from_before_it(place, undisturbed, ledger):
    survived = ledger("nan")
    recorder = ["--trainer.callbacks+=GradientIncidentRecorder", "--trainer.callbacks.then=stop"]
    at = somewhere("nan")
    fit(place, *recorder, *fault("nan", at), "--run_dir", place / "nan")
    (incident,) = (place / "nan/incidents").iterdir()
    status, said = fit(place, "--ckpt_path", incident / "checkpoint.ckpt", "--run_dir", place / "not_nan")
    assert status == 0, said
    weights = torch.load(place / "not_nan/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, undisturbed[0][name]) for name, weight in weights.items())
    assert consumed_by(place / "not_nan")[-1] == undisturbed[1]
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


def job(number):
    """What SLURM tells its tasks."""
    names = {"SLURM_JOB_ID": number, "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    return names | {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"}


SCONTROL = """#!/bin/sh
echo "$@" >> requeued.txt
ls -A "runs/LSTMLanguageModel-job78/checkpoints" >> requeued.txt
"""


@pytest.mark.slow
def test_a_job_whose_time_is_over_is_saved_and_requeued(place, undisturbed, ledger):
    survived = ledger("SLURM's time is over")
    (place / "bin").mkdir()
    (place / "bin/scontrol").write_text(SCONTROL)
    (place / "bin/scontrol").chmod(0o755)
    environment = {**job("78"), "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    status, said = fit(place, *fault("time is over", somewhere("slurm")), environment=environment)
    assert status == ENDS["terminate"], said
    assert "SIGUSR1: the training stops after step" in said
    assert (place / "requeued.txt").read_text().split() == ["requeue", "78", "best.ckpt", "last.ckpt"]
    assert not list((place / "runs/LSTMLanguageModel-job78").glob("hpc_ckpt*"))
    status, said = fit(place, environment={**environment, "SLURM_RESTART_COUNT": "1"})
    assert status == 0, said
    same(end_of(place / "runs/LSTMLanguageModel-job78"), undisturbed)
    survived()


@pytest.mark.slow
def test_a_requeued_job_of_slurm_enters_its_own_directory(place, undisturbed, ledger):
    survived = ledger("SLURM requeues")
    run = place / "runs" / "LSTMLanguageModel-job77"
    status, said = fit(place, *fault("kill", somewhere("requeued")), environment=job("77"))
    assert status == -signal.SIGKILL, said
    assert run.is_dir()
    status, said = fit(place, environment=job("77"))
    assert status == 1
    assert "exists already" in said
    status, said = fit(place, environment={**job("77"), "SLURM_RESTART_COUNT": "1"})
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
import time

from lightning.pytorch.loggers import CSVLogger

from lightning_seq.cli import enduring_loggers

enduring_loggers.PATIENCE["log_metrics"] = 2.0


class Failing(CSVLogger):
    def __init__(self):
        super().__init__(type(self).__name__, name="", version="")

    def log_metrics(self, metrics, step=None):
        if step and step > 6:
            self.fail()
        super().log_metrics(metrics, step)

    def fail(self):
        raise ConnectionError("the server is gone")


class Blocking(Failing):
    def fail(self):
        time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "reason"),
    [("Failing", "ConnectionError: the server is gone"), ("Blocking", "no answer in 2 s")],
)
def test_a_logger_that_fails_ends_no_training(logger, reason, place, undisturbed, ledger):
    survived = ledger(f"a logger: {logger.lower()}")
    (place / "loggers.py").write_text(LOGGERS)
    run = place / f"unlogged-{logger}"
    status, said = fit(place, f"--trainer.logger=loggers.{logger}", "--run_dir", run)
    assert status == 0, said
    assert said.count(f"{logger} failed in log_metrics ({reason})") == 1
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(weight, undisturbed[0][name]) for name, weight in content["state_dict"].items())
    survived()
