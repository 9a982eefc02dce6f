import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

TEXT = "".join(chr(97 + i * i % 23) for i in range(700))
BATCHES = 17  # of an epoch: 699 targets in batches of 4 x 10


class Recorder(LightningModule):
    """Trains on next to nothing and keeps what it was given."""

    def __init__(self, raise_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.raise_at = raise_at
        self.seen = []

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.raise_at:
            raise RuntimeError("as the test wants it")
        continues = batch["continues"].tolist() if "continues" in batch else None
        self.seen.append((batch["inputs"].tolist(), batch["targets"].tolist(), continues))
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        _ = self.trainer.estimated_stepping_batches  # makes the loader before its state is restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveOnException(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.folder / "exception.ckpt")


@pytest.fixture
def run(list_data, quiet_trainer, tmp_path):
    def run(batching, ckpt_path=None, raise_at=None, callbacks=(), reset_probability=0.25, **options):
        data = list_data(
            TEXT, batching=batching, batch_size=4, context_length=10, reset_probability=reset_probability
        )
        model = Recorder(raise_at)
        saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        trainer = quiet_trainer(callbacks=list(callbacks), enable_checkpointing=saves, **options)
        try:
            trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        except RuntimeError:
            assert raise_at is not None
        return model.seen

    return run


STOPS = {
    "mid-epoch": ({"every_n_train_steps": 5}, {}, 5),
    "mid second epoch": ({"every_n_train_steps": 22}, {}, 22),
    "last batch": ({"every_n_train_steps": 17}, {}, 17),
    "epoch end": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}, 17),
    "after validation": ({"every_n_epochs": 1, "save_on_train_epoch_end": False}, {}, 17),
    "accumulation": ({"every_n_train_steps": 3}, {"accumulate_grad_batches": 2}, 6),
    "reloading": ({"every_n_train_steps": 22}, {"reload_dataloaders_every_n_epochs": 1}, 22),
    "limited": ({"every_n_train_steps": 7}, {"limit_train_batches": 6}, 7),
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
@pytest.mark.parametrize("stop", STOPS)
def test_a_resumed_run_consumes_what_an_uninterrupted_one_does(run, tmp_path, batching, stop):
    saving, options, consumed = STOPS[stop]
    options = {"max_epochs": 3, **options}
    whole = run(batching, **options)
    per_epoch = options.get("limit_train_batches", BATCHES)
    assert len(whole) == 3 * per_epoch

    def saver():
        return ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, **saving)

    assert run(batching, callbacks=[saver()], **options) == whole
    earliest = min((tmp_path / "saved").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    assert run(batching, earliest, callbacks=[saver()], **options) == whole[consumed:]


@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
@pytest.mark.parametrize("raise_at", [4, 16, 17, 20])
def test_a_batch_lost_to_an_exception_is_trained_on_after_all(run, tmp_path, batching, raise_at):
    whole = run(batching, max_epochs=2)
    done = run(batching, raise_at=raise_at, callbacks=[SaveOnException(tmp_path)], max_epochs=2)
    rest = run(batching, tmp_path / "exception.ckpt", max_epochs=2)
    assert len(done) == raise_at
    assert done + rest == whole


def test_lanes_continue_except_at_the_start_of_an_epoch(run):
    seen = run("contiguous", max_epochs=2, reset_probability=0.0)
    assert [continues for *_, continues in seen] == ([[False] * 4] + [[True] * 4] * 16) * 2
    assert all(continues is None for *_, continues in run("blocks", max_epochs=1))


def test_epochs_differ_unless_one_overfits(run):
    seen = run("blocks", max_epochs=2)
    assert seen[:17] != seen[17:]
    seen = run("blocks", max_epochs=2, overfit_batches=3)
    assert seen[:3] == seen[3:]


def test_without_a_trainer_a_loader_counts_epochs_itself(list_data):
    loader = list_data(TEXT, batching="blocks", batch_size=4, context_length=10).train_dataloader()
    epochs = [[batch["inputs"].tolist() for batch in loader] for _ in range(2)]
    assert len(epochs[0]) == len(loader) == BATCHES
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("position", [5, 17])
def test_without_a_trainer_a_state_goes_on_where_it_stood(list_data, position):
    loader = list_data(TEXT, batch_size=4, context_length=10).train_dataloader()
    epochs = [[batch["inputs"].tolist() for batch in loader] for _ in range(2)]

    first = list_data(TEXT, batch_size=4, context_length=10)
    half = iter(first.train_dataloader())
    for _ in range(position):
        next(half)
    state = first.state_dict()
    assert (state["epoch"], state["position"]) == (0, position)

    second = list_data(TEXT, batch_size=4, context_length=10)
    second.load_state_dict(state)
    rest = [batch["inputs"].tolist() for batch in second.train_dataloader()]
    assert rest == (epochs[1] if position == BATCHES else epochs[0][position:])


def test_making_an_iterator_has_no_side_effect(list_data):
    loader = list_data(TEXT, batch_size=4, context_length=10).train_dataloader()
    next(iter(loader))
    before = loader.state_dict()
    iter(loader)
    assert loader.state_dict() == before
