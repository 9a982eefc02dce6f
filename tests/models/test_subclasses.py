"""Models that users derive from ours: they load again, whatever they fix or add."""

import pytest
import torch

import lightning_seq
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel
from tests.models.training import VOCAB, lanes, trainer, weights


class Narrow(LSTMLanguageModel):
    """Fixes an argument, adds one, and passes the rest on."""

    def __init__(self, vocab_size: int, width: int = 8, **kwargs):
        super().__init__(vocab_size, embedding_dim=width, hidden_size=2 * width, **kwargs)
        self.width = width
        self.save_hyperparameters()


class Silent(Narrow):
    """Another level, which saves nothing itself."""

    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(vocab_size, width=6, **kwargs)


class Small(TransformerLanguageModel):
    """Has no arguments but one."""

    def __init__(self, vocab_size: int):
        super().__init__(vocab_size, embedding_dim=16, num_layers=1, num_heads=2, context_length=32)


@pytest.mark.parametrize(
    ("make", "saved"),
    [
        (lambda: Narrow(VOCAB, 10, learning_rate=0.5), {"width": 10, "learning_rate": 0.5}),
        (lambda: Silent(VOCAB, tie_weights=True), {"tie_weights": True}),
        (lambda: Small(VOCAB), {}),
        (lambda: LSTMLanguageModel(VOCAB, 8, 8, dropout=0.5), {"dropout": 0.5, "forget_gate_bias": 1.0}),
    ],
)
def test_a_subclass_saves_its_own_arguments_and_loads_again(make, saved, tmp_path):
    torch.manual_seed(0)
    model = make()
    assert {"vocab_size": VOCAB, **saved}.items() <= dict(model.hparams).items()
    run = trainer(max_steps=1)
    run.fit(model, lanes())
    run.save_checkpoint(tmp_path / "a.ckpt")
    for load in (type(model).load_from_checkpoint, lightning_seq.load):
        options = {} if load is lightning_seq.load else {"weights_only": True}
        loaded = load(tmp_path / "a.ckpt", **options)
        assert type(loaded) is type(model)
        assert torch.equal(weights(loaded), weights(model))
