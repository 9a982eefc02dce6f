"""Optimizers and schedules as hyperparameters of every model; averaged weights."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

import lightning_seq
from lightning_seq.callbacks import LastCheckpoint
from lightning_seq.errors import InputError
from lightning_seq.models import GRULanguageModel, LanguageModel, LSTMLanguageModel, TransformerLanguageModel
from tests.models.training import SMALL, Batches, build, lanes, trainer, weights

NT_ASGD = {"optimizer": "nt_asgd", "learning_rate": 2.0, "non_monotone_interval": 1, "tie_weights": True}


@pytest.mark.parametrize("cls", SMALL)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "nt_asgd", "muon"])
def test_every_optimizer_learns_one_batch_by_heart(cls, optimizer):
    rate = {"adamw": 0.03, "sgd": 2.0, "nt_asgd": 2.0, "muon": 0.03}[optimizer]
    batch = lanes(steps=1, continues=False).batches
    run = trainer(max_steps=70, gradient_clip_val=1.0)
    run.fit(build(cls, optimizer=optimizer, learning_rate=rate), Batches(batch * 70))
    assert run.callback_metrics["train_loss"] < 1.5  # 2.6 at first


class Watch(pl.Callback):
    """Keeps the weights of each training step and of each validation."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_end(self, trainer, module, *args):
        self.trained.append(weights(module))

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append(weights(module))


def worse(loss):
    """A callback under which every validation is worse than the one before: averaging begins soon."""

    class Worse(pl.Callback):
        def on_train_start(self, trainer, module):
            optimizer = trainer.optimizers[0]
            validated = optimizer.validated
            optimizer.validated = lambda _: validated(loss + trainer.global_step)

    return Worse()


def fit(model, *callbacks, ckpt_path=None, **settings):
    run = trainer(val_check_interval=1, max_steps=6, callbacks=[worse(1.0), *callbacks], **settings)
    run.fit(
        model, lanes(), lanes(seed=3), ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True
    )
    return run


def test_validation_and_the_end_of_training_see_the_averaged_weights():
    watch, model = Watch(), build(LSTMLanguageModel, **NT_ASGD)
    fit(model, watch)
    trained, validated = watch.trained, watch.validated
    # loss 2, 3, 4: worse than the best but the last is the third validation, after step 3
    for step in range(3):
        assert torch.equal(validated[step], trained[step])
    for step in range(3, 6):
        mean = torch.stack(trained[2 : step + 1]).mean(0)
        torch.testing.assert_close(validated[step], mean)
        assert not torch.allclose(validated[step], trained[step], atol=1e-4)
    assert torch.equal(weights(model), validated[-1])


def test_checkpoints_hold_the_averaged_weights_and_resume_from_the_others_to_the_bit(tmp_path):
    whole, watch = build(LSTMLanguageModel, **NT_ASGD), Watch()
    fit(whole, watch)

    class SaveAt(pl.Callback):
        def __init__(self, step):
            self.step = step

        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == self.step:
                trainer.save_checkpoint(tmp_path / "training.ckpt")

        def on_validation_end(self, trainer, module):
            if trainer.global_step == self.step:
                trainer.save_checkpoint(tmp_path / "validation.ckpt")

    interrupted = build(LSTMLanguageModel, **NT_ASGD)
    fit(interrupted, SaveAt(5))
    mean = torch.stack(watch.trained[2:5]).mean(0)
    for name in ("training", "validation"):
        loaded = lightning_seq.load(tmp_path / f"{name}.ckpt")
        torch.testing.assert_close(weights(loaded), mean)
        assert loaded.network.head.linear.weight is loaded.network.embedding.weight
        resumed = build(LSTMLanguageModel, **NT_ASGD)
        if name == "validation":  # where an epoch's steps go on with the very next batch
            after = Watch()
            run = trainer(val_check_interval=1, max_steps=6, callbacks=[worse(1.0), after])
            batches, path = Resumed(lanes().batches, 5), tmp_path / f"{name}.ckpt"
            run.fit(resumed, batches, lanes(seed=3), ckpt_path=path, weights_only=True)
            assert len(after.trained) == 1
            assert torch.equal(after.trained[0], watch.trained[5])
            assert torch.equal(weights(resumed), weights(whole))


def test_weights_alone_are_saved_while_averaging(tmp_path):
    """Without optimizer states, as ModelCheckpoint(save_weights_only=True) saves."""

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    watch, model = Watch(), build(LSTMLanguageModel, **NT_ASGD)
    fit(model, watch, Save())
    mean = torch.stack(watch.trained[2:]).mean(0)
    torch.testing.assert_close(weights(lightning_seq.load(tmp_path / "weights.ckpt")), mean)


class Resumed(Batches):
    """As a resumable loader does, begins where the checkpoint left off."""

    def __init__(self, batches, start):
        super().__init__(batches)
        self.start = start

    def __iter__(self):
        return iter(self.batches[self.start :])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """So that Lightning takes it for one that resumes."""


def test_plateau_divides_by_four_when_validation_brings_no_new_best():
    rates = []

    class Rates(pl.Callback):
        def on_validation_end(self, trainer, module):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = build(GRULanguageModel, optimizer="sgd", schedule="plateau", learning_rate=1e-9)
    run = trainer(val_check_interval=2, callbacks=[Rates()])
    run.fit(model, lanes(), lanes(seed=1))  # nothing is learnt, so no validation after the first is better
    assert rates == pytest.approx([1e-9, 0.25e-9, 0.0625e-9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, r"optimizer is 'adam' \(did you mean 'adamw'\?\)"),
        ({"momentum": 0.9}, "momentum is 0.9, and optimizer 'adamw' does not use it"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum is 1.0: give a number in \[0, 1\)"),
        ({"non_monotone_interval": 5}, "non_monotone_interval is 5, and optimizer 'adamw' does not use it"),
        ({"decay_factor": 0.5}, "decay_factor is 0.5, and schedule 'constant' does not use it"),
        ({"schedule": "inverse_sqrt"}, "warmup_steps is 0: give 1 or more"),
        ({"schedule": "step"}, "needs decay_interval"),
        ({"schedule": "wsd", "decay_steps": 99}, r"decay_steps 99 do not fit into trainer\.max_steps 6"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        trainer().fit(build(GRULanguageModel, **options), lanes())


def test_a_subclass_may_bring_its_own_optimizer():
    class Own(LSTMLanguageModel):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    torch.manual_seed(0)
    mine = Own(13, 8, 8)
    trainer().fit(mine, lanes(), lanes(seed=1))
    theirs = build(LSTMLanguageModel, optimizer="sgd", learning_rate=0.5, weight_decay=0.0)
    trainer().fit(theirs, lanes())
    torch.testing.assert_close(weights(mine), weights(theirs))


def test_lightnings_own_average_of_the_weights_works(tmp_path):
    """EMAWeightAveraging: used in validation and in best checkpoints, left alone in training."""
    plain, averaged = Watch(), Watch()
    trainer(val_check_interval=2, callbacks=[plain]).fit(
        build(TransformerLanguageModel), lanes(), lanes(seed=1)
    )
    model = build(TransformerLanguageModel)
    run = trainer(
        val_check_interval=2,
        enable_checkpointing=True,
        callbacks=[averaged, EMAWeightAveraging(decay=0.5), LastCheckpoint(str(tmp_path))],
    )
    run.fit(model, lanes(), lanes(seed=1))
    assert all(torch.equal(x, y) for x, y in zip(plain.trained, averaged.trained, strict=True))
    assert not torch.allclose(plain.validated[-1], averaged.validated[-1], atol=1e-5)
    saved = lightning_seq.load(tmp_path / "last.ckpt")
    torch.testing.assert_close(weights(saved), averaged.validated[-1])


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "none"])
def test_packed_documents_reach_the_network_apart(positions):
    model = build(TransformerLanguageModel, positions=positions).eval()
    batch = {k: v for k, v in lanes(steps=1).batches[0].items() if k != "continues"}
    batch["document_ids"] = torch.tensor([[0] * 3 + [1] * 5]).expand(4, -1)
    together = trainer().predict(model, Batches([batch]))[0]
    alone = {k: v[:, 3:] for k, v in batch.items() if k != "document_ids"}
    torch.testing.assert_close(together[:, 3:], trainer().predict(model, Batches([alone]))[0])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_networks_local_variable_is_no_argument(compiled):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 13)

        def forward(self, tokens, state=None, targets=None):
            document_ids = tokens[..., None].float()  # a local name
            return self.linear(document_ids), None

    batch = {k: v for k, v in lanes(steps=1).batches[0].items() if k != "continues"}
    batch["document_ids"] = torch.zeros_like(batch["inputs"])
    net = torch.compile(Net(), backend="eager") if compiled else Net()
    with pytest.raises(InputError, match="the batch has document_ids, and "):
        trainer(max_steps=1).fit(LanguageModel(net), Batches([batch]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": float("inf")}, "learning_rate is inf: give a number above 0"),
        ({"betas": (0.9,)}, r"betas are \(0.9,\): give two numbers in"),
        ({"betas": (0.9, 0.95, 0.99)}, "betas are .*: give two numbers in"),
        ({"warmup_steps": 2.5}, "warmup_steps is 2.5: give a whole number from 0 on"),
        ({"schedule": "step"}, "schedule 'step' needs decay_interval"),
        ({"schedule": "inverse_sqrt"}, "warmup_steps is 0: give 1 or more"),
        ({"schedule": "cosine", "patience": 3}, "patience is 3, and schedule 'cosine' does not use it"),
    ],
)
def test_what_no_training_can_use_is_refused_before_there_is_one(options, message):
    with pytest.raises(InputError, match=message):
        build(LSTMLanguageModel, **options)


@pytest.mark.parametrize(("warmup_steps", "said"), [(6, False), (11, True)])
def test_a_warm_up_longer_than_the_training_is_told(warmup_steps, said, caplog):
    caplog.set_level("INFO")
    trainer().fit(build(LSTMLanguageModel, schedule="cosine", warmup_steps=warmup_steps), lanes())
    line = f"warmup_steps is {warmup_steps} and trainer.max_steps 6: the learning rate only rises, to 50%"
    assert (line in caplog.text) == said


def test_no_batches_to_accumulate_is_refused():
    with pytest.raises(InputError, match=r"trainer\.accumulate_grad_batches is 0: give 1 or more"):
        trainer(accumulate_grad_batches=0).fit(build(LSTMLanguageModel), lanes())
