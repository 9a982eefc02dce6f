"""What the monitor logs, keeps and says; that its norms are true is shown in test_gradient_seam.py."""

import logging
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_seq.callbacks import AutoClip, GradientClippingMonitor
from lightning_seq.callbacks.gradients.ledger import KEPT, ClippingLedger, Row
from lightning_seq.errors import InputError

NORM = {"gradient_clip_val": 0.28}
CLIPPINGS = {
    "norm": NORM,
    "value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "none": {},
}
QUIET = {"val_check_interval": 1.0, "limit_val_batches": 0}


class Spy(Callback):
    """Reads the gradients themselves, as Lightning leaves them before clipping, and what was logged."""

    def __init__(self):
        self.norms: list[float] = []
        self.logged: dict[int, dict[str, float]] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in grads)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("grad/")}
        if not trainer.fit_loop._should_accumulate():
            self.logged.setdefault(step, values)


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_logs_the_true_norms_at_log_steps_once_each(train, tiny, clipping, accumulate):
    monitor, spy = GradientClippingMonitor(), Spy()
    train(tiny, monitor, spy, accumulate_grad_batches=accumulate, **CLIPPINGS[clipping])
    assert len(spy.norms) == monitor.ledgers[0].steps == 6
    assert spy.logged[0] == {}  # not a log step
    assert [row["step"] for row in monitor.history] == [1, 3, 5]
    for row in monitor.history:
        step = row["step"]
        assert row["grad/norm"] == pytest.approx(spy.norms[step], rel=1e-5)
        for key, value in row.items():
            assert type(value) in (int, float)
            assert key == "step" or spy.logged[step][key] == pytest.approx(value, rel=1e-6)
    keys = {key for key in monitor.history[-1] if key.count("/") == 1}
    clips = {"grad/norm_clipped", "grad/clip_coefficient", "grad/clip_threshold"}
    clips |= {"grad/clipped_share", "grad/clipped_share_recent"}
    always = {"grad/norm", "grad/nonfinite_steps", "grad/update_ratio"}
    assert keys == (always if clipping == "none" else always | clips)


def test_the_last_window_of_an_epoch_may_be_short(train, tiny):
    monitor, spy = GradientClippingMonitor(), Spy()
    options = {"accumulate_grad_batches": 3, "max_steps": 6, "log_every_n_steps": 3}
    train(tiny, monitor, spy, **options, **QUIET)  # windows of 3, 3 and 2 batches
    assert [row["step"] for row in monitor.history] == [2, 5]
    assert [row["grad/norm"] for row in monitor.history] == pytest.approx([spy.norms[2], spy.norms[5]])


def test_counts_the_clipped_steps_of_a_plain_loop(train, tiny):
    monitor, spy = GradientClippingMonitor(), Spy()
    train(tiny, monitor, spy, max_steps=16, **NORM)
    expected = sum(norm > 0.28 for norm in spy.norms)
    assert 0 < expected < 16
    assert (monitor.ledgers[0].steps, monitor.ledgers[0].clipped) == (16, expected)
    assert spy.logged[15]["grad/clipped_share"] == pytest.approx(expected / 16)
    clipped = [spy.logged[step]["grad/norm_clipped"] for step in range(1, 16, 2)]
    before = [spy.norms[step] for step in range(1, 16, 2)]
    assert clipped == pytest.approx([min(norm, 0.28) for norm in before], rel=1e-5)


def test_groups_add_up_and_are_the_readers_own(train, tiny):
    runs = {
        by: GradientClippingMonitor(group_by=by, update_ratio=by == "layer")
        for by in ("layer", "parameter", None, str.upper)
    }
    for monitor in runs.values():
        train(tiny, monitor)
    names = {
        by: {k.removeprefix("grad/norm/") for k in m.history[-1] if k.startswith("grad/norm/")}
        for by, m in runs.items()
    }
    assert names["layer"] == {"embedding", "body.0", "body.2", "head"}
    assert names["parameter"] == {name for name, _ in tiny().named_parameters()}
    assert names[None] == set()
    assert names[str.upper] == {name.upper() for name in names["parameter"]}
    for by, monitor in runs.items():
        row = monitor.history[-1]
        squares = sum(v**2 for k, v in row.items() if k.startswith("grad/norm/"))
        assert by is None or math.sqrt(squares) == pytest.approx(row["grad/norm"], rel=1e-5)
        assert ("grad/update_ratio" in row) == (by == "layer")


def test_the_logger_gets_them_at_its_steps_and_the_picture_lies_beside(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    train(tiny, GradientClippingMonitor(), logger=logger, **NORM)
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    steps = [int(line.split(",")[columns.index("step")]) for line in lines]
    norms = [line.split(",")[columns.index("grad/norm")] for line in lines]
    assert [step for step, norm in zip(steps, norms, strict=True) if norm] == [1, 3, 5]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["grad_clipping-000005.png"]


def test_tensorboard_gets_the_picture(train, tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "", "")
    train(tiny, GradientClippingMonitor(), logger=logger, **NORM)
    events = EventAccumulator(logger.log_dir).Reload()
    (image,) = events.Images("grad/clipping")
    assert (image.step, image.width) == (5, 1300)
    assert [event.step for event in events.Scalars("grad/norm")] == [1, 3, 5]


@pytest.mark.slow
def test_wandb_gets_numbers_and_picture_offline(tmp_path):
    script = """
import sys, warnings
warnings.simplefilter("ignore")
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import WandbLogger
from lightning_seq.callbacks import GradientClippingMonitor
logger = WandbLogger(project="test", save_dir=sys.argv[1], offline=True)
Trainer(accelerator="cpu", max_steps=4, logger=logger, log_every_n_steps=2, enable_checkpointing=False,
        enable_progress_bar=False, gradient_clip_val=0.1, limit_val_batches=0,
        callbacks=[GradientClippingMonitor()]).fit(BoringModel())
assert 0 < logger.experiment.summary["grad/clipped_share"] <= 1
logger.experiment.finish()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not take" not in done.stderr
    (image,) = Path(tmp_path).glob("wandb/offline-run-*/files/media/images/grad/clipping*.png")
    assert image.read_bytes().startswith(b"\x89PNG")


def test_works_on_the_modules_of_others(train):
    monitor = GradientClippingMonitor()
    train(BoringModel, monitor, gradient_clip_val=0.01, **QUIET)
    assert (monitor.ledgers[0].steps, monitor.ledgers[0].clipped) == (6, 6)
    assert monitor.summary().endswith("100% of 6 steps clipped at 0.01")
    assert len(monitor.summary()) <= 80


# -- several at once -------------------------------------------------------------------------------


def test_two_monitors_of_different_groups_see_the_same(train, tiny):
    """In one trainer: their checkpoint states need keys of their own."""
    layers, parameters = GradientClippingMonitor(), GradientClippingMonitor(group_by="parameter")
    _, without = train(tiny, **NORM)
    _, with_both = train(tiny, layers, parameters, **NORM)
    assert torch.equal(without, with_both)
    assert [row["grad/norm"] for row in layers.history] == [row["grad/norm"] for row in parameters.history]
    assert layers.ledgers[0].rows == parameters.ledgers[0].rows
    assert {"grad/norm/head"} <= layers.history[0].keys()
    assert {"grad/norm/head.weight"} <= parameters.history[0].keys()
    assert layers.state_key != parameters.state_key


@pytest.mark.parametrize("first", [True, False])
def test_who_asks_between_step_and_log_takes_nothing_away(train, tiny, first, tmp_path):
    """A checkpoint, a summary, a picture in the same batch: the log still has its step."""

    class Asks(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "a.ckpt")
            monitor.summary()
            monitor.advice()

    monitor, spy = GradientClippingMonitor(), Spy()
    callbacks = [Asks(), monitor] if first else [monitor, Asks()]
    train(tiny, *callbacks, spy, **NORM)
    assert [row["step"] for row in monitor.history] == [1, 3, 5]
    for row in monitor.history:
        assert row["grad/norm"] == pytest.approx(spy.norms[row["step"]], rel=1e-5)
        assert "grad/norm/head" in row
        assert "grad/update_ratio" in row


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training")
def test_more_steps_of_the_same_trainer_go_on_and_another_training_begins_afresh(train, tiny):
    monitor = GradientClippingMonitor()
    trainer, _ = train(tiny, monitor, **NORM)
    assert monitor.ledgers[0].steps == 6
    trainer.fit_loop.epoch_loop.max_steps = 10
    trainer.fit(trainer.lightning_module)
    assert monitor.ledgers[0].steps == 10
    assert [row["step"] for row in monitor.history] == [1, 3, 5, 7, 9]
    train(BoringModel, monitor, **QUIET)
    assert monitor.ledgers[0].steps == 6
    assert [row["step"] for row in monitor.history] == [1, 3, 5]
    assert "grad/norm/layer" in monitor.history[-1]


@pytest.mark.parametrize("fn", ["validate", "test"])
def test_evaluation_alone_is_left_alone(quiet_trainer, fn):
    monitor = GradientClippingMonitor()
    trainer = quiet_trainer(callbacks=[monitor], limit_val_batches=1, limit_test_batches=1)
    getattr(trainer, fn)(BoringModel(), verbose=False)
    assert monitor.history == []
    assert "_clip_gradients" not in vars(trainer.precision_plugin)
    assert monitor.summary() == "no gradient norm was seen"
    assert monitor.advice() == "no gradient norm was seen"
    with pytest.raises(InputError, match="expected one after training steps"):
        monitor.figure()


# -- what may go wrong -----------------------------------------------------------------------------


def test_says_once_where_it_cannot_see_and_logs_nothing(train, tiny):
    """As FSDP1's plugin, which clips by itself or refuses to."""
    engine = type("Engine", (Precision,), {"clip_grad_by_norm": lambda *_: None})()
    monitor, spy = GradientClippingMonitor(), Spy()
    for _ in range(2):  # trainings
        with pytest.warns(UserWarning, match="Engine clips gradients in its own way") as warnings:
            train(tiny, monitor, spy, plugins=[engine], gradient_clip_val=1.0)
        assert len([w for w in warnings if "GradientClippingMonitor" in str(w.message)]) == 1
    assert spy.logged[5] == {}
    assert monitor.history == []
    assert monitor.summary() == "no gradient norm was seen"


class Engine:
    """As DeepSpeed's engine: it has a norm once it has made a step."""

    def __init__(self):
        self.steps = 0

    def get_global_grad_norm(self):
        return 1.5 * self.steps if self.steps else None


class Deep(SingleDeviceStrategy):
    """As DeepSpeed's strategy, with a plugin that clips nothing because the engine does."""

    def __init__(self):
        plugin = type("DeepPrecision", (Precision,), {"clip_gradients": lambda *_, **__: None})()
        super().__init__("cpu", precision_plugin=plugin)
        self.deepspeed_engine = Engine()

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.deepspeed_engine.steps += 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_deepspeeds_word_is_taken_for_the_norm(train, tiny, accumulate):
    monitor, spy = GradientClippingMonitor(), Spy()
    options = {"strategy": Deep(), "accumulate_grad_batches": accumulate, **NORM}
    train(tiny, monitor, spy, **options)
    assert [(row["step"], row["grad/norm"]) for row in monitor.history] == [(1, 3.0), (3, 6.0), (5, 9.0)]
    assert spy.logged[5]["grad/norm"] == 9.0
    assert "not clipped" not in monitor.advice()  # it is: by the engine
    assert "no clipping in" not in monitor.summary()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_without_gradients_is_no_step(train, tiny):
    class Skips(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx else None

    monitor = GradientClippingMonitor()
    train(Skips, monitor, **NORM)
    assert monitor.ledgers[0].steps == 5


@pytest.mark.parametrize("factor", [math.inf, math.nan])
@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_gradients_that_are_not_finite_are_counted_apart(train, tiny, factor, clipping):
    class Explodes(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (factor if batch_idx == 3 else 1)

    monitor = GradientClippingMonitor()
    options = {**CLIPPINGS[clipping], "max_steps": 4, **QUIET}
    if clipping == "norm":
        options["gradient_clip_val"] = 1e-4
    train(Explodes, monitor, **options)
    ledger = monitor.ledgers[0]
    assert (ledger.steps, ledger.clipped, ledger.nonfinite) == (4, 0 if clipping == "none" else 3, 1)
    assert monitor.history[-1]["grad/nonfinite_steps"] == 1
    assert not math.isfinite(monitor.history[-1]["grad/norm"])
    assert re.search("1 (of 4 steps were )?not finite", monitor.advice())


@pytest.mark.parametrize("factor", [math.nan, 0.0])
@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_a_training_of_nothing_but_nan_or_zero_is_no_worse_for_being_watched(
    train, tiny, tmp_path, factor, clipping
):
    class Broken(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * factor

    monitor = GradientClippingMonitor(advise_after=2)
    options = {**QUIET, "max_steps": 4, "logger": CSVLogger(tmp_path, "", ""), **CLIPPINGS[clipping]}
    train(Broken, monitor, **options)
    assert monitor.ledgers[0].steps == 4
    assert len(monitor.history) == 2
    assert monitor.advice()


def test_fast_dev_run_of_one_step_that_overflows(train, tiny):
    """The first steps of half precision often do."""

    class Overflows(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * math.inf

    train(Overflows, GradientClippingMonitor(), fast_dev_run=True)


class Rare(ManualOptimBoringModel):
    """Steps in its own time: at every fourth batch, which are never log steps of every second."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(self.step(batch))
        if batch_idx % 4 == 0:
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()
            optimizer.zero_grad()


def test_manual_steps_between_log_steps_are_logged_at_the_next(train):
    monitor = GradientClippingMonitor()
    train(Rare, monitor, max_steps=-1, max_epochs=1, limit_train_batches=12, **QUIET)
    assert monitor.ledgers[0].steps == 3
    assert [row["step"] for row in monitor.history] == [1, 5, 9]
    assert all(row["grad/norm_clipped"] <= 0.1 * (1 + 1e-6) for row in monitor.history)


def test_without_log_steps_nothing_is_logged_and_nothing_lost(train, tiny, monkeypatch):
    monkeypatch.setattr("lightning_seq.callbacks.gradient_clipping._MOST_PENDING", 4)
    monitor, spy = GradientClippingMonitor(), Spy()
    train(tiny, monitor, spy, log_every_n_steps=0, max_steps=10)
    assert monitor.history == []
    assert [row.norm for row in monitor.ledgers[0].rows] == pytest.approx(spy.norms, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "layers"}, "got group_by='layers'"),
        ({"advise_after": 0}, "got advise_after=0, expected a step, 1 or more, or None"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GradientClippingMonitor(**options)


# -- advice ----------------------------------------------------------------------------------------


def said(caplog):
    return [r.message for r in caplog.records if r.message.startswith("GradientClippingMonitor: ")]


@pytest.mark.parametrize(("after", "steps", "times"), [(4, 10, 2), (4, 2, 1), (None, 10, 1), (10, 10, 1)])
def test_advises_once_in_time_and_once_at_the_end(train, tiny, tmp_path, caplog, after, steps, times):
    caplog.set_level(logging.INFO)
    monitor = GradientClippingMonitor(advise_after=after)
    options = {"max_steps": steps, "logger": CSVLogger(tmp_path, "", ""), **QUIET, **NORM}
    train(tiny, monitor, **options)
    lines = said(caplog)
    assert len(lines) == times
    assert f"{steps} steps" in lines[-1]
    assert lines[-1].endswith(monitor.advice())
    assert len(list((tmp_path / "figures").glob("grad_clipping-*.png"))) == times
    if times == 2:
        assert "4 steps" in lines[0]


def test_advice_of_several_optimizers_is_a_line_each(train):
    class Two(ManualOptimBoringModel):
        def configure_optimizers(self):
            return [torch.optim.SGD([p], 0.1) for p in self.parameters()]

        def training_step(self, batch, batch_idx):
            self.manual_backward(self.step(batch))
            for optimizer in self.optimizers():
                self.clip_gradients(optimizer, 0.1, "norm")
                optimizer.step()
                optimizer.zero_grad()

    monitor = GradientClippingMonitor()
    train(Two, monitor, **QUIET)
    first, second = monitor.advice().splitlines()
    assert first.startswith("optimizer 0: clipping at 0.1")
    assert second.startswith("optimizer 1: clipping at 0.1")


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_books_go_on_from_a_checkpoint_that_is_only_weights(train, tiny, quiet_trainer, tmp_path):
    first = GradientClippingMonitor()
    options = {"log_every_n_steps": 3, **QUIET, **NORM}
    trainer = quiet_trainer(callbacks=[first], max_steps=4, **options)
    trainer.fit(tiny())
    saved = first.ledgers[0]
    assert saved.steps == 4
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    loaded = torch.load(path, weights_only=True)
    assert loaded["callbacks"][first.state_key]["ledgers"][0]["steps"] == 4

    second = GradientClippingMonitor()
    again = quiet_trainer(callbacks=[second], max_steps=8, **options)
    again.fit(tiny(), ckpt_path=path, weights_only=True)
    ledger = second.ledgers[0]
    assert ledger.steps == 8
    assert list(ledger.rows)[:4] == list(saved.rows)
    assert ledger.clipped == sum(row.clipped for row in ledger.rows)
    assert sum(share for _, share in ledger.causes()) == pytest.approx(1)


rows = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 100), st.sampled_from([math.inf, math.nan])),
        st.floats(0.1, 1),
        st.booleans(),
    ),
    max_size=250,
)


@settings(max_examples=50, deadline=None)
@given(rows, st.integers(0, 250))
def test_ledger_counts_what_it_was_given_and_resumes_anywhere(rows, at):
    through, first, resumed = ClippingLedger(), ClippingLedger(), ClippingLedger()
    for i, (norm, left, cut) in enumerate(rows):
        if i == at:
            resumed.load_state_dict(first.state_dict())
        row = Row(norm, norm * (left if cut else 1), 1.0)
        squares = {"a": 0.25, "b": 0.75}
        through.add(row, squares)
        (first if i < at else resumed).add(row, squares)
    truly = [math.isfinite(n) and cut and left < 1 and n * left < n for n, left, cut in rows]
    assert through.clipped == sum(truly)
    assert through.nonfinite == sum(not math.isfinite(n) for n, _, _ in rows)
    assert through.steps == len(rows)
    assert through.clipped_share == pytest.approx(np.mean(truly) if truly else 0)
    assert through.clipped_share_recent == pytest.approx(np.mean(truly[-100:]) if truly else 0)
    if at < len(rows):
        for one, other in zip(through.state_dict().values(), resumed.state_dict().values(), strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            else:
                assert one == other


def test_ledger_keeps_the_last_norms_and_counts_all():
    ledger = ClippingLedger()
    for step in range(KEPT + 50):
        ledger.add(Row(step + 1.0, 1.0, 1.0), {"a": 3.0, "b": 1.0})
    assert (ledger.steps, ledger.clipped, len(ledger.rows)) == (KEPT + 50, KEPT + 49, KEPT)
    assert ledger.rows[0].norm == 51
    assert ledger.causes() == [("a", pytest.approx(0.75)), ("b", pytest.approx(0.25))]


def test_autoclip_beside_it_is_named_in_the_advice(train, tiny):
    monitor = GradientClippingMonitor()
    train(tiny, AutoClip(30), monitor, max_steps=12, **QUIET)
    line = monitor.advice()
    assert "clipping at 0." in line
    assert " to 0." in line
    assert "gradient_clip_val" not in line  # which it would refuse
