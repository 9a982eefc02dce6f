import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from lightning_seq.callbacks import GradientClippingMonitor
from lightning_seq.errors import InputError

CLIPPINGS = {
    "norm": {"gradient_clip_val": 0.28},
    "value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "none": {},
}


class Spy(Callback):
    """Reads the gradients themselves, as Lightning leaves them before clipping, and what was logged."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.logged: dict[int, dict[str, float]] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(gradient_norm(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("grad/")}
        if not trainer.fit_loop._should_accumulate():
            self.logged.setdefault(step, values)


def gradient_norm(module):
    return math.sqrt(
        sum(float(p.grad.double().square().sum()) for p in module.parameters() if p.grad is not None)
    )


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str
)
def test_weights_are_bit_identical(train, tiny, clipping, options):
    options = {**CLIPPINGS[clipping], **options}
    _, without = train(tiny, **options)
    _, with_it = train(tiny, GradientClippingMonitor(), **options)
    assert torch.equal(without, with_it)


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_logs_the_true_norms_at_log_steps(train, tiny, clipping, accumulate):
    monitor, spy = GradientClippingMonitor(), Spy()
    train(tiny, monitor, spy, accumulate_grad_batches=accumulate, **CLIPPINGS[clipping])
    assert len(spy.norms) == 6
    assert spy.logged[0] == {}  # not a log step
    for step in (1, 3, 5):
        assert spy.logged[step]["grad/norm"] == pytest.approx(spy.norms[step], rel=1e-5)
    if clipping == "none":
        assert set(spy.logged[5]) == {"grad/norm"}
        assert monitor.steps == 6
        assert "no clipping in 6 steps" in monitor.summary()
    else:
        assert spy.logged[5]["grad/norm_clipped"] <= spy.norms[5] * (1 + 1e-6)
        assert spy.logged[5]["grad/clipped_share"] == pytest.approx(monitor.clipped_steps / 6)


def test_counts_the_clipped_steps_of_a_plain_loop(train, tiny):
    monitor, spy = GradientClippingMonitor(), Spy()
    train(tiny, monitor, spy, max_steps=16, gradient_clip_val=0.28)
    expected = sum(norm > 0.28 for norm in spy.norms)
    assert 0 < expected < 16
    assert (monitor.steps, monitor.clipped_steps) == (16, expected)
    assert spy.logged[15]["grad/clipped_share"] == pytest.approx(expected / 16)
    clipped = [spy.logged[step]["grad/norm_clipped"] for step in range(1, 16, 2)]
    before = [spy.norms[step] for step in range(1, 16, 2)]
    assert clipped == pytest.approx([min(norm, 0.28) for norm in before], rel=1e-5)


def test_clipping_by_value_sees_both_norms(train, tiny):
    class Clamped(tiny):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            grads = [p.grad.clamp(-0.01, 0.01) for p in self.parameters() if p.grad is not None]
            self.expected = float(torch.nn.utils.get_total_norm(grads))
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    spy = Spy()
    trainer, _ = train(Clamped, GradientClippingMonitor(), spy, **CLIPPINGS["value"])
    assert spy.logged[5]["grad/norm_clipped"] == pytest.approx(trainer.lightning_module.expected, rel=1e-6)
    assert spy.logged[5]["grad/clipped_share"] == 1


def test_the_logger_gets_them_at_its_steps(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    train(tiny, GradientClippingMonitor(), logger=logger, gradient_clip_val=0.28)
    rows = [row for row in logger.experiment.metrics if "grad/norm" in row]
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    steps = [int(line.split(",")[columns.index("step")]) for line in lines]
    norms = [line.split(",")[columns.index("grad/norm")] for line in lines]
    assert [step for step, norm in zip(steps, norms, strict=True) if norm] == [1, 3, 5]
    assert not rows  # all were written


def test_works_on_the_modules_of_others(train):
    monitor = GradientClippingMonitor()
    train(BoringModel, monitor, gradient_clip_val=0.01, val_check_interval=1.0)
    assert (monitor.steps, monitor.clipped_steps) == (6, 6)
    assert monitor.summary().endswith("100% of 6 steps clipped at 0.01")
    assert len(monitor.summary()) <= 80


def test_the_seam_is_closed_after_training_and_after_an_exception(train, tiny):
    class Breaks(tiny):
        def training_step(self, batch, batch_idx):
            if self.global_step == 2:
                assert "clip_gradients" in vars(self.trainer.precision_plugin)
                self.plugin = self.trainer.precision_plugin
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    trainer, _ = train(tiny, GradientClippingMonitor())
    assert not {"clip_gradients", "clip_grad_by_norm"} & vars(trainer.precision_plugin).keys()
    model = Breaks()
    with pytest.raises(ZeroDivisionError):
        train(lambda: model, GradientClippingMonitor())
    assert not {"clip_gradients", "clip_grad_by_norm"} & vars(model.plugin).keys()


def test_two_monitors_are_refused(train, tiny):
    with pytest.raises(InputError, match="got 2 GradientClippingMonitor callbacks, expected one"):
        train(tiny, GradientClippingMonitor(), type("Mine", (GradientClippingMonitor,), {})())


@pytest.mark.parametrize(
    ("make", "plugins", "reason"),
    [
        ("own_clipping", [], "configure_gradient_clipping clips in its own way"),
        ("manual", [], "optimizes manually"),
        ("plugin", [type("Engine", (Precision,), {"clip_grad_by_norm": lambda *_: None})()], "Engine clips"),
    ],
)
def test_says_once_where_it_cannot_see_and_logs_nothing_wrong(train, tiny, make, plugins, reason):
    class OwnClipping(tiny):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)

    monitor, spy = GradientClippingMonitor(), Spy()
    model = {"own_clipping": OwnClipping, "manual": ManualOptimBoringModel, "plugin": tiny}[make]
    with pytest.warns(UserWarning, match=reason) as warnings:
        train(model, monitor, spy, plugins=plugins, val_check_interval=1.0)
    assert len([w for w in warnings if "GradientClippingMonitor" in str(w.message)]) == 1
    assert spy.logged[5] == {}
    assert monitor.summary() == "no gradient norm was logged"


def test_fused_optimizers_in_half_precision_are_unscaled(train, tiny):
    class Fused(tiny):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), self.learning_rate, fused=True)

    spy = Spy()
    trainer, _ = train(Fused, GradientClippingMonitor(), spy, plugins=[MixedPrecision("16-mixed", "cpu")])
    scale = trainer.precision_plugin.scaler.get_scale()
    assert scale > 1
    assert spy.logged[5]["grad/norm"] == pytest.approx(spy.norms[5] / scale, rel=1e-3)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_without_gradients_is_no_step(train, tiny):
    class Skips(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx else None

    monitor = GradientClippingMonitor()
    train(Skips, monitor, gradient_clip_val=0.28)
    assert monitor.steps == 5


def test_non_finite_gradients_are_not_counted_as_clipped(train, tiny):
    class Explodes(tiny):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.inf if batch_idx == 3 else 1)

    monitor = GradientClippingMonitor()
    train(Explodes, monitor, max_steps=4, gradient_clip_val=1e-4, val_check_interval=1.0)
    assert (monitor.steps, monitor.clipped_steps) == (4, 3)


def test_state_is_plain_numbers_and_goes_on(train, tiny):
    first, second = GradientClippingMonitor(), GradientClippingMonitor()
    train(tiny, first, gradient_clip_val=0.01)
    state = first.state_dict()
    assert state == {"steps": 6, "clipped_steps": 6}
    assert all(type(value) is int for value in state.values())
    second.load_state_dict(state)
    train(tiny, second, gradient_clip_val=1e6)
    assert (second.steps, second.clipped_steps) == (12, 6)
    assert "50% of 12 steps" in second.summary()
