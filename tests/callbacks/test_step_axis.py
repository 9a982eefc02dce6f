"""Numbers and pictures of one moment stand at one step."""

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from lightning_seq.callbacks import (
    AttentionLogger,
    GradientClippingMonitor,
    SampleLogger,
    TimeGradientMonitor,
)
from tests.callbacks.conftest import TinyModel, Writer


class Run:
    """Takes what a run of Weights & Biases is given, and its step."""

    id = name = "run"

    def __init__(self):
        self.steps = {}
        self.summary = {}

    def log(self, values):
        values = dict(values)
        at = values.pop("trainer/global_step")
        for key in values:
            self.steps.setdefault(key, []).append(at)

    def define_metric(self, *args, **kwargs):
        pass

    def alert(self, *args, **kwargs):
        pass


class TwoOptimizers(Writer):
    """Each batch is a step of both."""

    def __init__(self):
        super().__init__("rnn")
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        body, head = (torch.optim.SGD(part.parameters(), 0.1) for part in (self.body, self.head))
        return body, head


@pytest.mark.parametrize(
    ("make", "every_n_batches"), [(TwoOptimizers, None), (lambda: Writer("rnn"), 3)], ids=["two", "one"]
)
def test_pictures_and_text_stand_where_the_numbers_do(train, make, every_n_batches):
    run = Run()
    optimizers = 2 if make is TwoOptimizers else 1
    every_n_steps = None if every_n_batches is None else every_n_batches * optimizers
    callbacks = [
        GradientClippingMonitor(advise_after=3),
        AttentionLogger(every_n_steps, page=False),
        TimeGradientMonitor(every_n_steps),
        SampleLogger("a"),
    ]
    logger = WandbLogger(experiment=run)
    train(
        make, *callbacks, logger=logger, log_every_n_steps=3, max_steps=6 * optimizers, val_check_interval=3
    )
    assert run.steps["val_loss"] == [2, 5]
    assert run.steps["samples"] == [2, 5]
    for pictures, numbers in {
        "attention/training": "saliency/entropy",
        "time_gradient/curves": "time_gradient/horizon",
        "grad/clipping": "grad/norm" if make is not TwoOptimizers else "grad/optimizer1/norm",
    }.items():
        assert set(run.steps[numbers]) >= {2, 5}
        assert set(run.steps[pictures]) <= {2, 5}, pictures
        assert run.steps[pictures][-1] == 5


class Swaps(TinyModel):
    """Has another tensor in the place of a parameter up to the first step, as FSDP2 after a validation."""

    def on_fit_start(self):
        self.kept = [self.head.weight]  # a parameter in a list is none of the module's own
        self.head.weight = torch.nn.Parameter(self.head.weight.detach().clone())

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 0:
            self.head.weight = self.kept[0]


def test_layers_keep_their_names_where_parameters_are_others_before_the_first_step(train):
    monitor = GradientClippingMonitor()
    train(Swaps, monitor)
    names = {key.removeprefix("grad/norm/") for key in monitor.history[-1] if key.startswith("grad/norm/")}
    assert names == {"embedding", "body.0", "body.2", "head"}
