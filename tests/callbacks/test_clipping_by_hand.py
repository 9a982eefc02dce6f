"""Clipping by hand is measured, or said to be out of sight: never are gradients called not clipped."""

import pytest
from lightning.pytorch import Callback
from torch.nn.utils import clip_grad_norm_

from lightning_seq.callbacks import GradientClippingMonitor
from tests.callbacks.conftest import TinyModel

LIMIT = 0.01


def clip(module):
    clip_grad_norm_(module.parameters(), LIMIT)


class AfterBackward(TinyModel):
    def on_after_backward(self):
        clip(self)


class Backward(TinyModel):
    def backward(self, loss):
        loss.backward()
        clip(self)


class BeforeStep(TinyModel):
    def on_before_optimizer_step(self, optimizer):
        clip(self)


class AroundStep(TinyModel):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer_closure()
        clip(self)
        optimizer.step()


class StepHook(TinyModel):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(lambda *_: clip(self))
        return optimizer


class ParameterHooks(TinyModel):
    def on_fit_start(self):
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-LIMIT, LIMIT))


class OwnClipping(TinyModel):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        clip(self)


class Clips(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        clip(pl_module)


WHERE = {
    AfterBackward: "AfterBackward.on_after_backward",
    Backward: "Backward.backward",
    BeforeStep: "BeforeStep.on_before_optimizer_step",
    AroundStep: "AroundStep.optimizer_step",
    StepHook: "a hook of the optimizer's step",
    ParameterHooks: "a hook of a parameter",
}


@pytest.mark.filterwarnings("ignore:The optimizer step method was called")
@pytest.mark.parametrize("make", WHERE, ids=lambda make: make.__name__)
def test_what_clips_in_a_hook_is_named(train, make):
    monitor = GradientClippingMonitor()
    train(make, monitor)
    assert (
        f"no clipping was measured; clipping in {WHERE[make]} cannot be measured (6 steps)"
        in monitor.advice()
    )
    assert f"after {WHERE[make]}" in monitor.advice()
    assert "gradient_clip_val" not in monitor.advice()
    assert "no clipping seen in 6 steps" in monitor.summary()


def test_a_callback_that_clips_is_named(train, tiny):
    monitor = GradientClippingMonitor()
    train(tiny, monitor, Clips())
    assert (
        "no clipping was measured; clipping in Clips.on_before_optimizer_step cannot be measured"
        in monitor.advice()
    )


def test_beside_gradient_clip_val_the_norms_are_said_to_come_after_the_hook(train):
    monitor = GradientClippingMonitor()
    train(AfterBackward, monitor, gradient_clip_val=1.0)
    assert "clipping at 1 is a no-op" in monitor.advice()
    assert "after AfterBackward.on_after_backward" in monitor.advice()


def test_clipping_in_configure_gradient_clipping_is_measured(train):
    monitor = GradientClippingMonitor()
    train(OwnClipping, monitor)
    assert "a threshold of the module's own cuts 100.0% of 6 steps" in monitor.advice()
    after = [row.norm_clipped for row in monitor.ledgers[0].rows]
    assert after == pytest.approx([LIMIT] * 6, rel=1e-3)


def test_where_nothing_can_clip_nothing_is_in_doubt(train, tiny):
    class Logs(Callback):
        def on_train_batch_end(self, *args):
            pass

    monitor = GradientClippingMonitor()
    train(tiny, monitor, Logs())
    assert monitor.advice().startswith("gradients are not clipped (6 steps)")
