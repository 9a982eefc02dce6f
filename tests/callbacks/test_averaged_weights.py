"""What is looked at in a validation sees the weights that are validated, whatever the order of callbacks."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging

from lightning_seq.callbacks import SampleLogger
from lightning_seq.callbacks.probe import Probe, sequences_of
from lightning_seq.models import LSTMLanguageModel
from tests.callbacks.conftest import VOCAB, TinyModel, Writer


class WeightProbe(Probe):
    """Finds the sum of all weights."""

    def __init__(self, every_n_steps=None):
        super().__init__(every_n_steps)

    def take(self, trainer, pl_module, batch):
        return {"inputs": sequences_of(batch)}

    def look(self, trainer, pl_module, example):
        return {"weights": weights(pl_module)}

    def pictures(self):
        return {}


class HalvesTheWeights(Callback):
    """Averages weights as others do: at the beginning and at the end of the whole validation."""

    def on_validation_start(self, trainer, pl_module):
        scale(pl_module, 0.5)

    def on_validation_end(self, trainer, pl_module):
        scale(pl_module, 2.0)


def scale(module, factor):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


def weights(module):
    return float(sum(p.detach().double().sum() for p in module.parameters()))


class Validated(Writer):
    """Keeps the sum of the weights that are validated, and writes it."""

    def __init__(self):
        super().__init__()
        self.validated, self.raw = [], []

    def training_step(self, batch, batch_idx):
        self.raw.append(weights(self))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if not self.trainer.sanity_checking and batch_idx == 0:
            self.validated.append(weights(self))

    def generate(self, prompt, **options):
        return str(weights(self))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "averaging", [lambda: EMAWeightAveraging(decay=0.5), WeightAveraging, HalvesTheWeights]
)
def test_probes_and_samples_see_the_weights_that_are_validated(train, averaging, first):
    probe, samples = WeightProbe(), SampleLogger()
    callbacks = [averaging(), probe, samples] if first else [probe, samples, averaging()]
    trainer, _ = train(Validated, *callbacks, max_steps=10)
    module = trainer.lightning_module
    assert len(module.validated) == 2
    found = [entry["weights"] for entry in probe.history if entry["step"]]
    assert found == module.validated
    assert [float(text) for _, _, text in samples.samples] == module.validated
    assert module.validated[0] != pytest.approx(module.raw[4], rel=1e-6)  # else nothing would be shown


def test_between_validations_the_weights_are_those_of_the_training(train):
    probe = WeightProbe(every_n_steps=3)
    trainer, _ = train(Validated, probe, EMAWeightAveraging(decay=0.5), max_steps=8)
    assert [entry["step"] for entry in probe.history if entry["step"]] == [3, 6]
    assert probe.history[-1]["weights"] == trainer.lightning_module.raw[6]


def test_the_mean_of_nt_asgd(train):
    class Ours(LSTMLanguageModel):
        train_dataloader, val_dataloader = TinyModel.train_dataloader, TinyModel.val_dataloader
        validated = ()

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if batch_idx == 0 and not self.trainer.sanity_checking:
                self.validated = (*self.validated, weights(self))

        def generate(self, prompt, **options):
            return str(weights(self))

    def make():
        options = {"optimizer": "nt_asgd", "non_monotone_interval": 1, "learning_rate": 30.0}
        return Ours(VOCAB, 4, 4, 1, weight_decay=0.0, **options)

    probe, samples = WeightProbe(), SampleLogger("0")
    trainer, _ = train(make, probe, samples, val_check_interval=2, max_steps=10)
    module = trainer.lightning_module
    assert [entry["weights"] for entry in probe.history if entry["step"]] == list(module.validated)
    assert [float(text) for _, _, text in samples.samples] == list(module.validated)
    assert trainer.optimizers[0].averaging


def test_a_look_between_two_batches_leaves_a_module_s_state_alone(train):
    class Counts(TinyModel):
        """Keeps a state from batch to batch, as an attribute and in a buffer."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.last = None

        def forward(self, tokens):
            self.calls += 1
            logits = super().forward(tokens)
            logits = logits if self.last is None else logits + self.last.mean()
            self.last = logits.detach()
            return logits

    class Runs(WeightProbe):
        def look(self, trainer, pl_module, example):
            pl_module(example["inputs"] * 0)
            return super().look(trainer, pl_module, example)

    without, _ = train(Counts)
    with_it, _ = train(Counts, Runs())
    assert with_it.callback_metrics["val_loss"] == without.callback_metrics["val_loss"]
    assert with_it.lightning_module.calls == without.lightning_module.calls > 0
    assert torch.equal(with_it.lightning_module.last, without.lightning_module.last)
