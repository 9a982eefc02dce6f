"""``lightning-seq replay``: the step of an incident comes out as it was."""

import json
import logging
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from lightning_seq.__main__ import main
from lightning_seq.callbacks.gradient_incidents import GradientIncidentRecorder
from lightning_seq.cli import replay_report
from lightning_seq.cli.replay import replay
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel
from tests.callbacks.conftest import TinyModel
from tests.cli.conftest import LSTM, TEXT, TINY, command, here  # noqa: F401
from tests.models.training import VOCAB, lanes, trainer
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:GradientIncidentRecorder")

NAN, INF = math.nan, math.inf
AT = 12  # the step that goes wrong


class Spoilt(LSTMLanguageModel):
    """A loss that is multiplied at one step."""

    def __init__(self, vocab_size, factor=1.0, rank=0, **kwargs):
        super().__init__(vocab_size, embedding_dim=8, hidden_size=8, num_layers=2, dropout=0.3, **kwargs)
        self.save_hyperparameters()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        bad = self.global_step == AT and self.global_rank == self.hparams["rank"]
        return loss * self.hparams["factor"] if bad else loss


class SpoiltTiny(TinyModel):
    def __init__(self, factor=1.0):
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.hparams["factor"] if self.global_step == AT else loss


class Overflows(Spoilt):
    """NaN comes from within the network."""

    def _run(self, stage, batch, targets):
        def spoil(part, inputs, output):
            return output * NAN if self.training and self.global_step == AT else output

        hook = self.network.embedding.register_forward_hook(spoil)
        try:
            return super()._run(stage, batch, targets)
        finally:
            hook.remove()


def record(folder, model, batches=None, steps=AT + 1, **options):
    torch.manual_seed(0)
    recorder = GradientIncidentRecorder(warmup_steps=8, window=20)
    run = trainer(
        max_steps=steps, default_root_dir=folder, callbacks=[recorder], limit_val_batches=0, **options
    )
    run.fit(model(), batches)
    (directory,) = recorder.directories
    return directory


def same(result):
    found = [result[name] for name in ("loss", "norm")]
    return all(replay_report.relative_difference(**each) == 0 for each in found)


# -- to the bit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "options"),
    [
        (50.0, {}),
        (50.0, {"accumulate_grad_batches": 3}),
        (NAN, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}),
    ],
)
def test_a_recurrent_step_with_its_carried_state_and_dropout(tmp_path, options, factor):
    batches = lanes(steps=(AT + 2) * options.get("accumulate_grad_batches", 1))
    directory = record(tmp_path, lambda: Spoilt(VOCAB, factor, schedule="cosine"), batches, **options)
    result = replay(directory)
    assert same(result)
    assert math.isnan(result["loss"]["replayed"]) == math.isnan(factor)
    assert result["batches"] == options.get("accumulate_grad_batches", 1)
    assert [len(row["text"].split()) for row in result["rows"]] == [8, 8, 8]
    losses = [row["loss"] for row in result["rows"]]
    assert losses == sorted(losses, reverse=True)
    if factor == 50:  # had the state been another one, it would show
        path = Path(directory, "checkpoint.ckpt")
        checkpoint = torch.load(path, weights_only=True)
        state = checkpoint["lightning_seq"]["state"]
        checkpoint["lightning_seq"]["state"] = torch.utils._pytree.tree_map(torch.zeros_like, state)
        torch.save(checkpoint, path)
        other = replay(directory)
        assert not same(other)
        assert other["rows"] != result["rows"]


@pytest.mark.parametrize("half", [False, True])
def test_a_step_of_somebody_elses_module(tmp_path, half):
    plugins = (
        [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))] if half else []
    )
    directory = record(tmp_path, lambda: SpoiltTiny(50.0), plugins=plugins)
    result = replay(directory)
    assert same(result)
    assert result["precision"] == ("16-mixed" if half else "32-true")
    assert {name for name, *_ in result["layers"]} == {"embedding", "body.0", "body.2", "head"}
    assert len(result["rows"]) == 3


def test_the_module_can_be_given_and_is_left_as_it_was(tmp_path):
    class Local(SpoiltTiny):
        def __init__(self, needed):
            super().__init__(50.0)
            self.hparams.clear()

        def training_step(self, batch, batch_idx):
            loss = TinyModel.training_step(self, batch, batch_idx)
            return loss * 50 if self.global_step == AT else loss

    directory = record(tmp_path, lambda: Local(1))
    with pytest.raises(InputError, match="which is not part of lightning_seq"):
        replay(directory)
    model, states = Local(1), torch.get_rng_state()
    level = logging.getLogger("lightning.pytorch").level
    assert same(replay(directory, model=model))
    assert torch.equal(torch.get_rng_state(), states)
    assert logging.getLogger("lightning.pytorch").level == level
    assert not any(part._forward_hooks for part in model.modules())
    assert "on_after_batch_transfer" not in vars(model)


def test_batches_are_not_changed_twice(tmp_path):
    class Shifts(SpoiltTiny):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {name: (x + 1) % 11 for name, x in batch.items()}

    directory = record(tmp_path, lambda: Shifts(50.0))
    assert same(replay(directory, model=Shifts(50.0)))


def test_the_last_batch_of_an_epoch_makes_a_step_of_fewer(tmp_path):
    """Epochs of 8 batches by 3: the step of the last two is divided by three all the same."""

    class Late(SpoiltTiny):
        def training_step(self, batch, batch_idx):
            loss = TinyModel.training_step(self, batch, batch_idx)
            return loss * 50 if self.global_step == 11 else loss

    directory = record(tmp_path, lambda: Late(), accumulate_grad_batches=3)
    result = replay(directory, model=Late())
    assert result["batches"] == 2
    assert same(result)


def test_it_says_which_part_was_the_first_to_break(tmp_path):
    directory = record(tmp_path, lambda: Overflows(VOCAB), lanes(steps=AT + 2))
    result = replay(directory)
    assert result["first_not_finite"].startswith("network.")
    assert result["weights_not_finite"] == []
    assert same(result)
    assert all(math.isnan(norm) for _, norm, _ in result["layers"])


def record_on_a_rank(folder):
    rank = int(os.environ["RANK"])
    batches = lanes(steps=2 * AT + 4, seed=rank)
    options = {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": 2}
    return record(folder, lambda: Spoilt(VOCAB, 50.0, rank=1), batches, **options)


def test_what_ran_on_two_ranks_runs_on_two_again(tmp_path):
    directory, other = run_ranks(record_on_a_rank, str(tmp_path))
    assert directory == other
    result = replay(directory)
    assert same(result)
    assert result["ranks"] == 2
    assert {row["rank"] for row in result["rows"]} <= {0, 1}
    assert "on 2 ranks" in replay_report.as_text(result)


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A training whose learning rate is far too high."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "text.txt").write_text(TEXT)
    line = [*TINY, f"--data.path={folder / 'text.txt'}", f"--data.cache_dir={folder / 'cache'}"]
    status = main(
        [
            "fit",
            *LSTM,
            *line,
            "--trainer.callbacks=lightning_seq.callbacks.gradient_incidents.GradientIncidentRecorder",
            "--model.learning_rate=1e38",
            "--trainer.max_steps=4",
            f"--run_dir={folder / 'run'}",
        ]
    )
    assert status == 0
    (directory,) = (folder / "run" / "incidents").iterdir()
    return directory


@pytest.fixture
def incident(recorded, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(recorded, tmp_path / recorded.name)


def test_lines_of_80_columns(command, incident):  # noqa: F811
    status, said = command("replay", incident)
    assert status == 0
    lines = said.splitlines()
    assert lines[0] == f"incident    {incident}"
    assert sum(line.endswith("the same to the bit") for line in lines) == 2
    assert all(len(line) <= 80 for line in lines[1:])
    assert any(line.startswith("network.") for line in lines)
    assert "rows with the largest loss" in said
    assert " the " in said.split("rows with")[1]  # the text, decoded


def test_json(command, incident):  # noqa: F811
    status, said = command("replay", incident, "--json")
    assert status == 0
    result = json.loads(said)
    assert result["loss"]["recorded"] == result["loss"]["replayed"]
    assert result["model"] == "LSTMLanguageModel"
    assert len(result["rows"]) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "is no directory: give one that GradientIncidentRecorder wrote"),
        (lambda d: (d / "incident.json").unlink(), "holds no incident.json"),
        (lambda d: cut(d / "incident.json"), "incident.json is no whole JSON file"),
        (lambda d: (d / "incident.json").write_text('{"format": 9}'), "another format than this version"),
        (lambda d: (d / "checkpoint.ckpt").unlink(), "no checkpoint at"),
        (lambda d: cut(d / "checkpoint.ckpt"), "checkpoint.ckpt (300 bytes) is no whole checkpoint"),
        (lambda d: (d / "batches-rank0.pt").unlink(), "the incident is not whole"),
        (lambda d: cut(d / "batches-rank0.pt"), "batches-rank0.pt is cut short"),
    ],
)
def test_bad_directories_are_refused_in_one_line(command, incident, spoil, message):  # noqa: F811
    spoil(incident)
    status, said = command("replay", incident)
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_class_of_others_is_trusted_only_when_told(command, here, incident):  # noqa: F811
    path = incident / "checkpoint.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["lightning_seq"]["class_path"] = "my_own_model.Mine"
    torch.save(checkpoint, path)
    (here / "my_own_model.py").write_text(
        "from lightning_seq.models import LSTMLanguageModel\nclass Mine(LSTMLanguageModel): pass\n"
    )
    status, said = command("replay", incident)
    assert status == 1
    assert "not part of lightning_seq" in said
    status, said = command("replay", incident, "--trust")
    assert status == 0, said
    assert "the same to the bit" in said


def test_a_batch_that_could_not_be_saved_is_named(tmp_path):
    class Words(SpoiltTiny):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "path": tmp_path}

    directory = record(tmp_path, lambda: Words(50.0))
    with pytest.raises(InputError, match=r"held a pathlib\.PosixPath, and only tensors"):
        replay(directory, model=Words(50.0))


def test_a_step_that_cannot_be_run_again(command, incident):  # noqa: F811
    path = incident / "batches-rank0.pt"
    content = torch.load(path, weights_only=True)
    content["batches"][0]["inputs"] += 10_000
    torch.save(content, path)
    status, said = command("replay", incident)
    assert status == 1
    assert said.startswith("error: the step cannot be run again: ")
    assert len(said.splitlines()) == 1


def test_wrong_usage_exits_with_two():
    with pytest.raises(SystemExit) as stop:
        main(["replay"])
    assert stop.value.code == 2
