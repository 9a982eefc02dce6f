"""A training that stopped goes on as if it had not: the weights are those of one that ran through."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from tests.cli.conftest import LSTM, TEXT, TINY

GPT = ["--model=TransformerLanguageModel", "--model.embedding_dim=16", "--model.num_layers=1"]
CASES = {
    "lstm over lanes": [*LSTM, "--data.batching=contiguous"],
    "transformer over lanes": [*GPT, "--data.batching=contiguous", "--model.context_length=16"],
    "transformer over blocks": [*GPT, "--data.batching=blocks"],
}
STEADY = ["--model.schedule=constant", "--trainer.gradient_clip_val=1"]


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("grid", [2, 5], ids=["after a validation", "between validations"])
@pytest.mark.parametrize("case", CASES)
def test_weights_after_a_stop_are_those_of_an_undisturbed_run(command, here, case, grid):
    line = ["fit", *TINY, *CASES[case], *STEADY, f"--trainer.val_check_interval={grid}"]
    assert command(*line, "--trainer.max_steps=9", "--run_dir=whole")[0] == 0
    assert command(*line, "--trainer.max_steps=4", "--run_dir=half")[0] == 0
    resume = ["--ckpt_path=half/checkpoints/last.ckpt", "--trainer.max_steps=9", "--run_dir=rest"]
    status, said = command(*line, *resume)
    assert status == 0, said
    assert same(weights(here / "rest"), weights(here / "whole"))
    assert not same(weights(here / "half"), weights(here / "whole"))


FAILING = """
from lightning.pytorch import Callback


class FailAt(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise ArithmeticError("nothing left")
"""


@pytest.mark.parametrize("case", CASES)
def test_an_exception_loses_nothing(command, here, case, capsys):
    (here / "failing_callback.py").write_text(FAILING)
    line = ["fit", *TINY, *CASES[case], *STEADY, "--trainer.max_steps=9", "--trainer.val_check_interval=5"]
    fail = ["--trainer.callbacks+=failing_callback.FailAt", "--trainer.callbacks.step=4"]
    assert command(*line, "--run_dir=whole")[0] == 0
    with pytest.raises(ArithmeticError):
        command(*line, *fail, "--run_dir=half")
    assert "go on with the same command and --ckpt_path half/checkpoints/last.ckpt" in capsys.readouterr().err
    checkpoint = torch.load(here / "half/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert command(*line, "--ckpt_path=half/checkpoints/last.ckpt", "--run_dir=rest")[0] == 0
    assert same(weights(here / "rest"), weights(here / "whole"))


def test_an_epoch_without_validation_is_saved(command, here):
    epochs = ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0"]
    epochs += ["--trainer.log_every_n_steps=1"]
    assert command("fit", *LSTM, *TINY, *epochs, "--run_dir=a", "--data.batch_size=16")[0] == 0
    assert (here / "a/checkpoints/last.ckpt").exists()


def test_explicit_optimizer_settings_win_over_the_checkpoint(command, here):
    line = ["fit", *LSTM, *TINY, "--trainer.max_steps=4"]
    command("fit", *LSTM, *TINY, "--run_dir=first")
    explicit = ["--model.learning_rate=0.5", "--model.weight_decay=0.7", "--model.betas=[0.8,0.9]"]
    resume = ["--ckpt_path=first/checkpoints/last.ckpt", "--run_dir=second"]
    assert command(*line, *explicit, *resume)[0] == 0
    checkpoint = torch.load(here / "second/checkpoints/last.ckpt", weights_only=True)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.7, 0.0]
    assert groups[0]["betas"] == (0.8, 0.9)


def test_another_batch_size_is_refused_or_starts_the_carried_state_anew(command, here):
    command("fit", *LSTM, *TINY, "--run_dir=first")
    resume = ["--ckpt_path=first/checkpoints/last.ckpt", "--data.batch_size=3", "--trainer.max_steps=4"]
    status, said = command("fit", *LSTM, *TINY, *resume)
    assert status == 1
    assert "batch_size was 2 and is 3; set it back, or give data.strict_resume false" in said
    assert not list((here / "runs").iterdir())
    status, said = command("fit", *LSTM, *TINY, *resume, "--data.strict_resume=false")
    assert status == 0, said
    assert "batch_size was 2 and is 3, so the batches are not the ones" in said
    assert "the carried state begins anew" in said


MEMORY = [*GPT, *TINY, "--data.batching=contiguous", "--model.context_length=16"]


@pytest.mark.parametrize(
    "other", ["--model.memory_length=0", "--model.memory_length=8", "--model.num_heads=2"]
)
def test_a_network_of_another_state_starts_the_carried_state_anew(command, other):
    assert command("fit", *MEMORY, "--run_dir=first")[0] == 0
    resume = ["--ckpt_path=first/checkpoints/last.ckpt", "--trainer.max_steps=4"]
    status, said = command("fit", *MEMORY, *resume, other)
    assert status == 0, said
    assert "resume: another network's state, so the carried state begins anew" in said
    status, said = command("fit", *MEMORY, *resume)
    assert status == 0, said
    assert "anew" not in said


@pytest.mark.parametrize("line", [MEMORY, [*LSTM, *TINY, "--data.batching=contiguous"]])
def test_the_carried_state_follows_another_precision(command, line):
    assert command("fit", *line, "--run_dir=first")[0] == 0
    resume = ["--ckpt_path=first/checkpoints/last.ckpt", "--trainer.max_steps=4"]
    status, said = command("fit", *line, *resume, "--trainer.precision=bf16-true", "--run_dir=second")
    assert status == 0, said
    assert "anew" not in said
    resume = ["--ckpt_path=second/checkpoints/last.ckpt", "--trainer.max_steps=6"]
    status, said = command("fit", *line, *resume)
    assert status == 0, said


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_a_tokenizer_of_limited_size_goes_on(command, here, tokenizer):
    line = [*LSTM, *TINY, f"--data.tokenizer={tokenizer}", "--data.max_vocab_size=270"]
    assert command("fit", *line, "--run_dir=first")[0] == 0
    last = "--ckpt_path=first/checkpoints/last.ckpt"
    status, said = command("fit", *line, "--trainer.max_steps=4", last)
    assert status == 0, said
    status, said = command("test", *line, last)
    assert status == 0, said


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_state(here):
    line = [*LSTM, *TINY, "--trainer.max_steps=1000000", "--run_dir=run", "--trainer.log_every_n_steps=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_seq", "fit", *line],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell may ignore it
    )
    deadline = time.monotonic() + 120
    while not ((here / "run/metrics.csv").exists() and (here / "run/metrics.csv").stat().st_size > 6000):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "--ckpt_path run/checkpoints/last.ckpt" in said
    assert "Traceback" not in said
    checkpoint = torch.load(here / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] > 50
    assert not list((here / "run/checkpoints").glob("*.part"))
    assert yaml.safe_load((here / "run/config.yaml").read_text())["trainer"]["max_steps"] == 1000000


SLOWLY = """
import time
from lightning.pytorch import Callback


class Slowly(Callback):
    def on_train_batch_start(self, *args):
        time.sleep(0.01)
"""


def consumed(run):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["TextDataModule"]["ranks"][0][-1]


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [0.1, 0.7])
@pytest.mark.parametrize("case", ["lstm over lanes", "lstm over documents"])
def test_kill_minus_9_loses_nothing_that_was_saved(here, case, kill_after):
    (here / "slowly_callback.py").write_text(SLOWLY)
    layout = {"lstm over lanes": "contiguous", "lstm over documents": "documents"}[case]
    line = [*LSTM, *TINY, *STEADY, f"--data.batching={layout}", "--model.num_layers=2", "--model.dropout=0.3"]
    line += ["--trainer.max_steps=150", "--trainer.val_check_interval=5", "--trainer.log_every_n_steps=5"]
    (here / "text").mkdir()
    for i in range(40):
        (here / "text" / f"{i:02}.txt").write_text(TEXT[: 40 + 97 * i % 200])
    line += ["--data.path=text", "--trainer.limit_val_batches=1"]
    command = [sys.executable, "-m", "lightning_seq", "fit", *line]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": here, "env": environment}
    assert subprocess.run([*command, "--run_dir=whole"], **said, timeout=120).returncode == 0
    slowly = ["--trainer.callbacks+=slowly_callback.Slowly", "--run_dir=killed"]
    process = subprocess.Popen([*command, *slowly], **said)
    last = here / "killed/checkpoints/last.ckpt"
    deadline = time.monotonic() + 60
    while not last.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(kill_after)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert torch.load(last, weights_only=True)["global_step"] < 150
    resume = ["--run_dir=rest", f"--ckpt_path={last}"]
    assert subprocess.run([*command, *resume], **said, timeout=120).returncode == 0
    assert same(weights(here / "rest"), weights(here / "whole"))
    assert consumed(here / "rest") == consumed(here / "whole")


def test_nothing_left_to_train_is_an_error(command, here):
    command("fit", *LSTM, *TINY, "--run_dir=first")
    status, said = command("fit", *LSTM, *TINY, "--ckpt_path=first/checkpoints/last.ckpt")
    assert status == 1
    assert "is at step 2 and trainer.max_steps is 2: nothing is left to train" in said
    assert not (here / "runs").exists()


def test_resume_enters_the_run_that_is_there_and_begins_the_one_that_is_not(command, here):
    line = ["fit", *LSTM, *TINY, "--run_dir=run", "--resume=true", "--trainer.log_every_n_steps=1"]
    status, said = command(*line)
    assert status == 0, said
    assert "goes on from" not in said
    status, said = command(*line, "--trainer.max_steps=4")
    assert status == 0, said
    assert "resume: run goes on from last.ckpt" in said
    assert torch.load(here / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    with (here / "run/metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["train_loss"]]
    assert steps == ["0", "1", "2", "3"]
    configs = [
        yaml.safe_load((here / f"run/{name}.yaml").read_text()) for name in ("config.before", "config")
    ]
    assert [each["trainer"]["max_steps"] for each in configs] == [2, 4]
    assert [each["resume"] for each in configs] == [False, False]  # to be run again as new trainings
    status, said = command(*line, "--trainer.max_steps=4")
    assert status == 1
    assert "is at step 4 and trainer.max_steps is 4" in said
    assert (here / "run/config.yaml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume=true"], "give --run_dir, and no --ckpt_path FILE"),
        (["--resume=true", "--run_dir=run", "--ckpt_path=a.ckpt"], "give --run_dir, and no --ckpt_path FILE"),
        (["--run_dir=run", "--ckpt_path=last"], "ckpt_path is 'last', and there is no run in run"),
    ],
)
def test_a_run_to_resume_has_to_be_named(words, said, command, here):
    status, found = command("fit", *LSTM, *TINY, *words)
    assert status == 1
    assert said in found
    assert not (here / "run").exists()


def test_a_run_without_a_whole_checkpoint_is_left_alone(command, here):
    folder = here / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"nothing")
    status, said = command("fit", *LSTM, *TINY, "--run_dir=run", "--resume=true")
    assert status == 1
    assert "no checkpoint in run/checkpoints is whole (last.ckpt)" in said
    assert (folder / "last.ckpt").read_bytes() == b"nothing"
