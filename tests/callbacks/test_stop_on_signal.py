"""StopOnSignal: whole steps only, and nothing lost. Several ranks: tests/faults."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_seq.callbacks import LastCheckpoint, StopOnSignal
from lightning_seq.models import LSTMLanguageModel
from tests.models.training import SMALL, VOCAB, Batches, lanes, trainer


@pytest.fixture(autouse=True)
def ctrl_c():
    """A shell may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Send(Callback):
    """Sends signals to its own process, in the middle of a batch."""

    def __init__(self, at, *signals):
        self.at, self.signals = at, signals

    def on_before_backward(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            for each in self.signals:
                os.kill(os.getpid(), each)


class SendInValidation(Send):
    def on_before_backward(self, *args):
        pass

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *args):
        if not trainer.sanity_checking and batch_idx == self.at:
            os.kill(os.getpid(), self.signals[0])


class Resumable(Batches):
    """Goes on where it was."""

    begin = at = 0

    def __iter__(self):
        for self.at in range(self.begin + 1, len(self) + 1):  # noqa: B020
            yield self.batches[self.at - 1]
        self.begin = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.begin = state["at"]


def fit(tmp_path, *callbacks, ckpt_path=None, **options):
    torch.manual_seed(0)
    model = LSTMLanguageModel(VOCAB, **SMALL[LSTMLanguageModel])
    batches = Resumable(lanes(12).batches)
    ours = [*callbacks, StopOnSignal(), LastCheckpoint(tmp_path)]
    fitting = trainer(max_epochs=1, max_steps=-1, callbacks=ours, enable_checkpointing=True, **options)
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        fitting.fit(model, batches, lanes(4), ckpt_path=ckpt_path)
    finally:
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    return fitting, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("each", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("accumulate", "at", "stops_after"), [(1, 4, 5), (3, 4, 2), (3, 5, 2), (5, 11, 3)])
def test_a_training_stops_after_a_whole_step_and_goes_on_from_there(
    each, accumulate, at, stops_after, tmp_path
):
    options = {"accumulate_grad_batches": accumulate}
    _, undisturbed = fit(tmp_path / "undisturbed", **options)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, Send(at, each), **options)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == stops_after
    _, weights = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert all(map(torch.equal, weights, undisturbed))


def test_a_validation_is_left_and_made_again(tmp_path):
    options = {"val_check_interval": 6}
    _, undisturbed = fit(tmp_path / "undisturbed", **options)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, SendInValidation(1, signal.SIGTERM), **options)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    fitting, weights = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", **options)
    assert all(map(torch.equal, weights, undisturbed))
    assert "val_loss" in fitting.callback_metrics


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Send(4, signal.SIGINT, signal.SIGINT))
    assert isinstance(ended.value.__context__, KeyboardInterrupt)


def test_a_shell_that_ignores_ctrl_c_is_heeded(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fitting, _ = fit(tmp_path, Send(4, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert fitting.global_step == 12


def test_a_scheduler_that_is_not_to_requeue_is_not_listened_to(tmp_path, monkeypatch):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(True))
    for name, value in {"JOB_ID": "1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    try:
        fitting, _ = fit(
            tmp_path, Send(4, signal.SIGUSR1), plugins=[SLURMEnvironment(auto_requeue=False)], devices=1
        )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [True]
    assert fitting.global_step == 12
