"""What only a GPU can show: half precision, fused and cuDNN kernels, probes on them, NCCL."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_seq.callbacks import (
    AttentionLogger,
    GradientClippingMonitor,
    RecurrentStateMonitor,
    TimeGradientMonitor,
)
from lightning_seq.models import (
    LSTMLanguageModel,
    MinGRULanguageModel,
    TransformerLanguageModel,
)
from tests.models.test_spreading import Shared, fit
from tests.models.training import SMALL, VOCAB, lanes, trainer
from tests.ranks import run_ranks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
ACCELERATOR = "gpu"
FAMILIES = list(SMALL)
WATCHERS = (GradientClippingMonitor, TimeGradientMonitor, RecurrentStateMonitor, AttentionLogger)


class Losses(Callback):
    """The loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.values.append(float(outputs["loss"]))


def train(cls, options=None, callbacks=(), accelerator=None, **settings):
    torch.manual_seed(0)
    model = cls(VOCAB, **{**SMALL[cls], "learning_rate": 0.01, **(options or {})})
    losses = Losses()
    run = trainer(
        accelerator=accelerator or ACCELERATOR,
        devices=1,
        max_steps=6,
        gradient_clip_val=0.5,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=[losses, *callbacks],
        **settings,
    )
    run.fit(model, Shared(lanes().batches))
    return losses.values, model


@pytest.mark.parametrize("cls", FAMILIES)
def test_losses_are_those_of_a_cpu(cls):
    there, _ = train(cls)
    here, _ = train(cls, accelerator="cpu")
    assert there == pytest.approx(here, abs=2e-3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("cls", FAMILIES)
def test_half_precision_learns_the_same(cls, precision):
    half, _ = train(cls, precision=precision)
    full, _ = train(cls)
    assert half == pytest.approx(full, abs=0.1)


@pytest.mark.parametrize("cls", [TransformerLanguageModel, MinGRULanguageModel])
def test_compiled_networks_learn_the_same(cls):
    compiled, _ = train(cls, {"compile": True})
    eager, _ = train(cls)
    assert compiled == pytest.approx(eager, abs=2e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_optimizers_on_fused_kernels(optimizer, accumulate):
    options = {"optimizer": optimizer, "learning_rate": 0.01}
    settings = {"accumulate_grad_batches": accumulate}
    there, _ = train(TransformerLanguageModel, options, **settings)
    here, _ = train(TransformerLanguageModel, options, accelerator="cpu", **settings)
    assert there == pytest.approx(here, abs=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("cls", FAMILIES)
def test_watchers_change_nothing(cls, precision, tmp_path):
    """Their probes run backward through cuDNN's recurrent kernels, which refuse that in evaluation mode."""
    watchers = [watcher() for watcher in WATCHERS]
    watched, model = train(cls, callbacks=watchers, precision=precision, default_root_dir=str(tmp_path))
    alone, plain = train(cls, precision=precision)
    assert watched == alone
    weights = plain.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    norms = [row.norm for row in watchers[0].ledgers[0].rows]
    assert len(norms) == 6
    assert all(map(math.isfinite, norms))
    assert watchers[1].history


@pytest.mark.parametrize("cls", [LSTMLanguageModel, TransformerLanguageModel])
def test_text_is_generated_there(cls):
    _, model = train(cls)
    model.to("cuda" if ACCELERATOR == "gpu" else "cpu")
    ids = model.generate("1 2 3", max_new_tokens=8, seed=0).split()
    assert ids[:3] == ["1", "2", "3"]
    assert len(ids) == 11


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_spread_over_two_gpus(mesh):
    options = {"num_layers": 2}
    batches = lanes(continues=False).batches
    (alone,) = run_ranks(fit, TransformerLanguageModel, options, (1, 1), batches, world=1)
    found, _ = run_ranks(
        fit, TransformerLanguageModel, options, mesh, batches, {"accelerator": ACCELERATOR}, timeout=300
    )
    assert found["train_loss"] == pytest.approx(alone["train_loss"], abs=2e-3)
    assert found["val_loss"] == pytest.approx(alone["val_loss"], abs=2e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("cls", FAMILIES)
def test_ddp_over_nccl(cls):
    settings = {"accelerator": ACCELERATOR, "strategy": "ddp", "devices": 2}
    one, other = run_ranks(_ddp, cls, settings, timeout=300)
    alone, _ = train(cls, accelerator="cpu")
    assert one == other == pytest.approx(alone[-1], abs=2e-3)


def _ddp(cls, settings):
    torch.manual_seed(0)
    model = cls(VOCAB, **{**SMALL[cls], "learning_rate": 0.01})
    run = trainer(max_steps=6, gradient_clip_val=0.5, log_every_n_steps=1, **settings)
    run.fit(model, Shared(lanes().batches))
    return float(run.callback_metrics["train_loss"])
