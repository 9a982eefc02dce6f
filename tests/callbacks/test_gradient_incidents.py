"""GradientIncidentRecorder: what is an incident, what is saved of it, and what becomes of its step."""

import copy
import json
import math
import os
import random
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_seq.callbacks import GradientClippingMonitor, LastCheckpoint, ZClip
from lightning_seq.callbacks.gradient_incidents import GradientIncidentRecorder
from lightning_seq.callbacks.incidents.detector import SpikeDetector, Step
from lightning_seq.data import SequenceDataModule
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel
from tests.models.training import VOCAB, lanes, trainer, weights
from tests.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:GradientIncidentRecorder")

NAN, INF = math.nan, math.inf
FILES = ["batches-rank0.pt", "batches-rank0.txt", "checkpoint.ckpt", "incident.json", "incident.png"]


def broken(base, factor, at):
    """A model whose loss is multiplied at some steps."""

    class Broken(base):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * factor if self.global_step in at else loss

    return Broken


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def recorder(**options):
    return GradientIncidentRecorder(**{"warmup_steps": 8, "window": 20, **options})


def unsaved(**options):
    """One that draws and saves nothing: that takes a while."""
    return recorder(max_incidents=0, **options)


def fit_lstm(
    folder, factor=1.0, at=(), then="continue", steps=16, callbacks=(), model=None, most=0, **options
):
    """Trains a small LSTM on lanes of text, whose state is carried; returns the recorder and the trainer."""
    torch.manual_seed(0)
    sizes = {"embedding_dim": 8, "hidden_size": 8, "num_layers": 2, "dropout": 0.3}
    module = broken(model or LSTMLanguageModel, factor, at)(VOCAB, **sizes)
    record = recorder(then=then, max_incidents=most)
    batches = steps * options.get("accumulate_grad_batches", 1)
    run = trainer(
        max_steps=steps,
        default_root_dir=folder,
        callbacks=[record, *callbacks],
        limit_val_batches=0,
        enable_checkpointing=any(isinstance(each, LastCheckpoint) for each in callbacks),
        **options,
    )
    run.fit(module, lanes(steps=batches))
    return record, run


def equal(tensors, others):
    return all(torch.equal(one, other) for one, other in zip(tensors, others, strict=True))


class Compare(Callback):
    """Says at which optimizer steps neither weights nor the optimizer's state changed."""

    def __init__(self):
        self.unchanged = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._before = self._all(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.fit_loop._should_accumulate():
            same = equal(self._before, self._all(trainer, pl_module))
            self.unchanged += [trainer.global_step - 1] * same

    def _all(self, trainer, pl_module):
        state = [each.state_dict()["state"] for each in trainer.optimizers]
        leaves = torch.utils._pytree.tree_leaves([dict(pl_module.state_dict()), state])
        leaves = [leaf.to_local() if hasattr(leaf, "to_local") else leaf for leaf in leaves]
        return [torch.as_tensor(leaf).clone() for leaf in leaves]


# -- what an incident is ----------------------------------------------------------------------------------


def judged(values, **options):
    detector = SpikeDetector(**{"threshold": 10.0, "window": 50, "warmup_steps": 20, **options})
    found = []
    for number, (loss, norm) in enumerate(values):
        step = Step(number, loss, norm)
        verdict = detector.judge(step)
        found += [number] * bool(verdict.reasons)
        detector.add(step, bool(verdict.reasons))
    return found


def noisy(steps, seed=0):
    """Losses and norms as those of a training: falling, and norms with a long tail."""
    draw = random.Random(seed)
    return [
        (2 + 2 * math.exp(-i / 50) + draw.gauss(0, 0.08), 0.3 * math.exp(draw.gauss(0, 0.25)))
        for i in range(steps)
    ]


def test_ordinary_training_has_no_incidents_and_a_spike_is_found():
    values = noisy(1500)
    assert judged(values) == []
    loss, norm = values[1000]
    for spike in ((loss, 40 * norm), (3 * loss, norm), (INF, norm), (NAN, NAN), (loss, INF)):
        assert judged([*values[:1000], spike, *values[1001:1100]]) == [1000]


def test_what_is_not_finite_is_an_incident_in_the_warm_up_and_a_spike_is_not():
    values = noisy(30)
    assert judged([*values[:5], (50.0, 50.0), *values[5:10], (NAN, 1.0), *values]) == [11]


def test_a_new_level_is_got_used_to():
    higher = [(2 * loss, 30 * norm) for loss, norm in noisy(200)]
    assert judged(noisy(100) + higher) == list(range(100, 110))


def test_losses_near_zero_and_below_it_and_none_at_all():
    draw = random.Random(1)
    solved = [(1e-4 * math.exp(draw.gauss(0, 0.7)), 0.1) for _ in range(1000)]
    assert judged(solved) == []
    assert judged([*solved, (10.0, 0.1)]) == [1000]
    below = [(draw.gauss(-3, 0.1), 0.1) for _ in range(100)]
    assert judged([*below, (2.0, 0.1)]) == [100]
    assert judged([(None, norm) for _, norm in noisy(100)] + [(None, 50.0)]) == [100]
    assert judged([(1.0, 0.0)] * 100 + [(1.0, 1e-3), (1.0, NAN)]) == [101]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"then": "skipp"}, r"got then='skipp' \(did you mean 'skip'\?\), expected one of continue, skip"),
        ({"threshold": 0.0}, "got threshold=0.0, expected above 0"),
        ({"threshold": NAN}, "got threshold=nan"),
        ({"warmup_steps": 2}, "got warmup_steps=2, expected at least 5"),
        ({"window": 10}, "got window=10, expected at least warmup_steps=20"),
        ({"max_incidents": -1}, "got max_incidents=-1, expected 0 or more"),
    ],
)
def test_arguments_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GradientIncidentRecorder(**options)


# -- nothing happens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.28}],
    ids=str,
)
def test_weights_are_bit_identical(train, tiny, options, tmp_path):
    _, without = train(tiny, max_steps=14, **options)
    record = recorder(then="skip")
    _, with_it = train(tiny, record, max_steps=14, **options)
    assert torch.equal(without, with_it)
    assert (record.history, record.directories) == ([], [])
    assert record.summary() == "no loss or gradient stood out"
    assert not (tmp_path / "incidents").exists()
    assert "No incident up to step 13" in figure_text(record)


def figure_text(record):
    return " ".join(each.get_text() for each in record.figure().texts)


def test_before_any_step_there_is_no_picture():
    with pytest.raises(InputError, match="has seen no gradient"):
        recorder().figure()


@pytest.mark.slow
def test_the_quickstart_has_none(tmp_path, monkeypatch):
    from lightning_seq.cli import from_recipe

    monkeypatch.chdir(tmp_path)
    run, model, data = from_recipe("quickstart_lstm", **{"trainer.enable_progress_bar": False})
    record = GradientIncidentRecorder()
    run.callbacks.append(record)
    run.fit(model, data)
    assert record.history == []


# -- something happens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [INF, 50.0])
def test_an_incident_is_saved(train, tiny, tmp_path, factor):
    record, logger = recorder(), CSVLogger(tmp_path, "", "")
    with pytest.warns(UserWarning, match=r"step 12: .* lightning-seq replay .*step-000012") as warnings:
        train(broken(tiny, factor, {12}), record, max_steps=16, logger=logger, log_every_n_steps=7)
    assert len([w for w in warnings if "GradientIncidentRecorder" in str(w.message)]) == 1
    (directory,) = record.directories
    assert directory == str(tmp_path / "incidents" / "step-000012")
    assert names(directory) == FILES
    report = json.loads((tmp_path / "incidents/step-000012/incident.json").read_text())
    assert [step for step, _, _ in report["history"]] == list(range(12))
    assert set(report["layers"]) == {"embedding", "body.0", "body.2", "head"}
    assert len(report["parameters"]) == 7
    assert (report["batches"], report["first_batch"], report["epoch"]) == (1, 4, 1)
    (entry,) = record.history
    assert entry["step"] == 12
    assert math.isfinite(entry["loss"]) == math.isfinite(entry["norm"]) == (factor == 50)
    assert all(type(value) is float for value in entry.values())
    if factor == 50:
        assert entry["norm"] > entry["norm_limit"]
        assert entry["loss"] > entry["loss_limit"]
        assert entry["steps"] == 1
    else:  # the weights were not finite from then on: still the same incident
        assert entry["steps"] == 4
    assert (tmp_path / "figures" / "incident-000012.png").exists()
    assert "incidents/count" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert record.summary() == f"1 incident, the first at step 12: {directory}"
    assert "What happened at step 12" in figure_text(record)


def test_the_batches_are_saved_as_tensors_and_as_text(tmp_path):
    torch.manual_seed(0)
    model = broken(LSTMLanguageModel, NAN, {3})
    data = Letters(batch_size=2, context_length=8, cache_dir=str(tmp_path / "cache"))
    run = trainer(max_steps=4, default_root_dir=tmp_path, callbacks=[recorder()], limit_val_batches=0)
    run.fit(model(data.vocab_size, embedding_dim=8, hidden_size=8), data)
    folder = tmp_path / "incidents" / "step-000003"
    content = torch.load(folder / "batches-rank0.pt", weights_only=True)
    (batch,) = content["batches"]
    (loss,) = content["losses"]
    assert math.isnan(loss)
    text = data.tokenizer.decode(batch["inputs"][1].tolist())
    said = (folder / "batches-rank0.txt").read_text()
    assert said.startswith("=== step 3, rank 0, batch 1 of 1, loss nan ===\nrow 0: ")
    assert f"row 1: {text!r}\nrow 1 ids: {' '.join(map(str, batch['inputs'][1].tolist()))}\n" in said


def test_no_more_than_max_incidents_are_saved_and_all_are_counted(train, tiny, tmp_path):
    record = recorder(max_incidents=2, then="skip")
    at = {3, 5, 7, 9}
    with pytest.warns(UserWarning, match="max_incidents=2 are saved already") as warnings:
        train(broken(tiny, NAN, at), record, max_steps=12)
    assert len([w for w in warnings if "GradientIncidentRecorder" in str(w.message)]) == 3
    assert [entry["step"] for entry in record.history] == [3, 5, 7, 9]
    assert names(tmp_path / "incidents") == ["step-000003", "step-000005"]
    train(broken(tiny, NAN, {1}), again := recorder(max_incidents=3, then="skip"), max_steps=3)
    assert again.directories == [str(tmp_path / "incidents" / "step-000001")]


def test_a_directory_that_cannot_be_written_ends_no_training(train, tiny, tmp_path):
    (tmp_path / "incidents").write_text("a file is in the way")
    record = recorder(then="skip")
    with pytest.warns(UserWarning, match=r"nothing is saved.*incidents cannot be written"):
        trainer, found = train(broken(tiny, NAN, {3}), record, max_steps=6)
    assert trainer.global_step == 6
    assert found.isfinite().all()
    assert (len(record.history), record.directories) == (1, [])


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(train, tiny, tmp_path):
    class Heavy(tiny):
        def on_save_checkpoint(self, checkpoint):
            raise OSError("no space left on device")

    with pytest.warns(UserWarning, match="no space left"):
        trainer, _ = train(broken(Heavy, NAN, {3}), recorder(), max_steps=6)
    assert trainer.global_step == 6
    assert names(tmp_path / "incidents") == []


# -- what becomes of the step -----------------------------------------------------------------------------


class Fused:
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05, fused=True)


class Momentum:
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def half(scale=2.0**16):
    """With a large scale it is the gradient of a spike that overflows, and with a small one it does not."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]}


@pytest.mark.parametrize(
    ("factor", "kind", "options"),
    [
        (NAN, object, dict),
        (50.0, Fused, dict),
        (50.0, Momentum, dict),
        (50.0, object, lambda: {"accumulate_grad_batches": 2}),
        (NAN, object, half),
        (50.0, object, half),
        (50.0, Fused, half),
        (50.0, object, lambda: half(256.0)),
        (NAN, Fused, lambda: half(256.0)),
        (50.0, Fused, lambda: {"accumulate_grad_batches": 2, **half(256.0)}),
    ],
)
def test_a_step_that_is_skipped_changes_neither_weights_nor_state(train, tiny, kind, options, factor):
    class Model(*([] if kind is object else [kind]), tiny):
        pass

    compare, record = Compare(), unsaved(then="skip")
    _, found = train(
        broken(Model, factor, {10}), record, compare, max_steps=14, val_check_interval=1.0, **options()
    )
    assert compare.unchanged == [10]
    assert [entry["step"] for entry in record.history] == [10]
    assert found.isfinite().all()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_our_own_optimizers_are_skipped(tmp_path, optimizer):
    compare = Compare()

    class Model(LSTMLanguageModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, optimizer=optimizer, **kwargs)

    fit_lstm(tmp_path, NAN, {12}, "skip", callbacks=[compare], model=Model)
    assert compare.unchanged == [12]


def test_the_loss_scaling_of_half_precision_is_no_incident(train, tiny):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=99)
    record = recorder(then="stop")
    trainer, _ = train(tiny, record, max_steps=20, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert trainer.global_step == 20
    assert scaler.get_scale() < 2.0**25
    assert record.history == []


def test_a_carried_state_that_broke_goes_back_and_one_that_did_not_goes_on(tmp_path):
    class Overflows(LSTMLanguageModel):
        """NaN within the network, so that the state is NaN, too."""

        def _run(self, stage, batch, targets):
            hook = lambda part, inputs, output: output * (NAN if self.global_step == 12 else 1)  # noqa: E731
            with_hook = self.network.embedding.register_forward_hook(hook)
            try:
                return super()._run(stage, batch, targets)
            finally:
                with_hook.remove()

    record, run = fit_lstm(tmp_path, then="skip", model=Overflows)
    (entry,) = record.history
    assert (entry["step"], entry["steps"]) == (12, 1)
    assert weights(run.lightning_module).isfinite().all()
    state = run.lightning_module._carried._states["train"]
    assert all(x.isfinite().all() for x in torch.utils._pytree.tree_leaves(state))


def test_running_statistics_are_not_ruined_by_a_step_that_is_skipped(train, tiny):
    class Normalized(tiny):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, tokens):
            x = self.embedding(tokens)
            bad = self.training and self.global_step == 7
            return self.head(self.norm((x * NAN if bad else x).mT).mT)

    seen = {}

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen[trainer.global_step] = pl_module.norm.running_mean.clone()

    trainer, _ = train(Normalized, recorder(then="skip"), Look(), max_steps=10)
    assert torch.equal(seen[8], seen[7])
    assert not torch.equal(seen[9], seen[8])
    assert seen[10].isfinite().all()
    saved = torch.load(f"{trainer.default_root_dir}/incidents/step-000007/checkpoint.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["norm.running_mean"], seen[7])


def test_stop_ends_the_training_and_what_is_kept_is_sane(tmp_path):
    last = LastCheckpoint(str(tmp_path))
    with pytest.warns(UserWarning, match=r"the training stops, .*incidents/step-000012"):
        record, run = fit_lstm(tmp_path, NAN, {12}, "stop", callbacks=[last], most=1)
    assert run.global_step == 13
    assert run.state.finished
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    before = torch.load(f"{record.directories[0]}/checkpoint.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 13
    for name, weight in checkpoint["state_dict"].items():
        assert torch.equal(weight, before["state_dict"][name])


def test_ten_skipped_steps_in_a_row_are_pointed_out(train, tiny):
    with pytest.warns(UserWarning, match="left out 11 steps in a row, and nothing is learnt") as warnings:
        train(broken(tiny, NAN, set(range(2, 99))), unsaved(then="skip"), max_steps=20)
    assert len([w for w in warnings if "in a row" in str(w.message)]) == 1


def test_manual_optimization_and_modules_of_others(train):
    class Bad(ManualOptimBoringModel):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            loss = self.step(batch) * (NAN if self.global_step == 9 else 1)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    compare, record = Compare(), unsaved(then="skip")
    _, found = train(Bad, record, compare, max_steps=12, val_check_interval=1.0)
    assert [entry["step"] for entry in record.history] == [9]
    assert compare.unchanged == [9]
    assert found.isfinite().all()


def test_where_gradients_are_out_of_sight_it_says_so(train, tiny):
    engine = type("Engine", (Precision,), {"clip_grad_by_norm": lambda *_: None})()
    record = recorder(then="stop")
    with pytest.warns(UserWarning, match="records nothing: Engine clips gradients in its own way"):
        train(broken(tiny, NAN, {3}), record, plugins=[engine], max_steps=5)
    assert record.history == []


@pytest.mark.parametrize("first", [True, False])
def test_together_with_other_users_of_the_seam(train, tiny, first):
    monitor, clip, record = GradientClippingMonitor(), ZClip(warmup_steps=3), unsaved(then="skip")
    compare = Compare()
    others = [monitor, clip]
    callbacks = [record, *others] if first else [*others, record]
    trainer, found = train(broken(tiny, NAN, {10}), *callbacks, compare, max_steps=14, log_every_n_steps=1)
    assert compare.unchanged == [10]
    assert found.isfinite().all()
    norms = {row["step"]: row["grad/norm"] for row in monitor.history}
    steps = record.state_dict()["watches"][0]["steps"]
    assert {step: norms.get(step) for step, _, _ in steps} == {step: norm for step, _, norm in steps}
    assert monitor.ledgers[0].nonfinite == 1
    assert not {"_clip_gradients", "clip_gradients"} & vars(trainer.precision_plugin).keys()


# -- checkpoints ------------------------------------------------------------------------------------------


def test_state_is_plain_numbers_and_goes_on(train, tiny):
    first, second = recorder(), recorder()
    train(broken(tiny, NAN, {12}), first, max_steps=13)
    state = first.state_dict()
    assert json.loads(json.dumps(state["watches"])) == state["watches"]
    second.load_state_dict(copy.deepcopy(state))
    assert second.figure() is not None
    assert second.state_dict() == state
    assert [entry["step"] for entry in second.history] == [12]
    limits = second._watches[0].detector.limits()  # infinite in the warm-up
    assert limits == first._watches[0].detector.limits()
    assert all(map(math.isfinite, limits))


TEXT = ["".join(chr(97 + i * (i + k) % 23) for i in range(120)) for k in range(6)]


class Letters(SequenceDataModule):
    def documents(self, split):
        return TEXT if split == "train" else ["abcaabc"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_training_goes_on_from_before_an_incident_as_if_there_had_been_none(tmp_path, accumulate):
    def fit(model, ckpt_path=None, steps=12):
        torch.manual_seed(1 if ckpt_path else 0)
        data = Letters(
            batch_size=2, context_length=8, cache_dir=str(tmp_path / "cache"), batching="contiguous"
        )
        module = model(data.vocab_size, embedding_dim=8, hidden_size=8, num_layers=2, dropout=0.3)
        run = trainer(
            max_steps=steps,
            default_root_dir=tmp_path,
            callbacks=[recorder()],
            limit_val_batches=0,
            accumulate_grad_batches=accumulate,
        )
        run.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return weights(module), data.consumed_hash

    calm, consumed = fit(LSTMLanguageModel)
    fit(broken(LSTMLanguageModel, NAN, {8}))
    again, consumed_again = fit(LSTMLanguageModel, tmp_path / "incidents" / "step-000008" / "checkpoint.ckpt")
    assert torch.equal(again, calm)
    assert accumulate > 2 or consumed_again == consumed


# -- several ranks ----------------------------------------------------------------------------------------


class OneRankBreaks(LSTMLanguageModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * NAN if self.global_step == 10 and self.global_rank == 1 else loss


def fit_on_a_rank(folder, then):
    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    model = OneRankBreaks(VOCAB, embedding_dim=8, hidden_size=8, dropout=0.3, num_layers=2)
    record, compare = recorder(then=then), Compare()
    run = trainer(
        max_steps=13,
        default_root_dir=folder,
        callbacks=[record, compare],
        limit_val_batches=0,
        devices=2,
        strategy="ddp",
        accumulate_grad_batches=2,
    )
    run.fit(model, lanes(steps=26, seed=rank))
    return record.history, record.directories, compare.unchanged, run.global_step, weights(model)


class Sharded(pl.LightningModule):
    """Its weights are spread over the ranks (FSDP2); its batches are numbers."""

    def configure_model(self):
        if not hasattr(self, "net"):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def train_dataloader(self):
        return DataLoader(range(100), batch_size=1)

    def training_step(self, batch, batch_idx):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(int(batch)))
        bad = self.global_step == 10 and self.global_rank == 1
        return self.net(x * (NAN if bad else 1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


def fit_shards(folder):
    compare, record = Compare(), recorder(then="skip")
    run = trainer(
        max_steps=13,
        default_root_dir=folder,
        callbacks=[record, compare],
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        use_distributed_sampler=False,
    )
    run.fit(Sharded())
    return record.history, compare.unchanged, record.directories


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_step_of_sharded_weights_is_skipped_and_saved(tmp_path):
    for history, unchanged, directories in run_ranks(fit_shards, str(tmp_path)):
        assert [entry["step"] for entry in history] == [10]
        assert unchanged == [10]
        assert names(directories[0])[-3:] == ["checkpoint.ckpt", "incident.json", "incident.png"]


@pytest.mark.parametrize("then", ["skip", pytest.param("stop", marks=pytest.mark.slow)])
def test_ranks_decide_alike_when_one_of_them_breaks(tmp_path, then):
    first, second = run_ranks(fit_on_a_rank, str(tmp_path), then)
    for history, directories, unchanged, steps, found in (first, second):
        assert [entry["step"] for entry in history] == [10]
        assert directories == [str(tmp_path / "incidents" / "step-000010")]
        assert unchanged == [10]
        assert steps == (13 if then == "skip" else 11)
        assert found.isfinite().all()
    assert torch.equal(first[-1], second[-1])
    losses = []
    for rank in range(2):
        content = torch.load(
            tmp_path / "incidents" / "step-000010" / f"batches-rank{rank}.pt", weights_only=True
        )
        losses.append(content["losses"])
        expected = [batch["inputs"] for batch in lanes(steps=26, seed=rank)][20:22]
        assert equal(expected, [each["inputs"] for each in content["batches"]])
    assert all(math.isfinite(loss) for loss in losses[0])
    assert all(math.isnan(loss) for loss in losses[1])
