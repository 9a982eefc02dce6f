import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.demos.transformer import LightningTransformer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lightning_seq.callbacks.time_gradient import TimeGradientMonitor
from lightning_seq.callbacks.time_gradient_example import example_of
from lightning_seq.data import CopyTask
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel
from lightning_seq.networks.base import IGNORE_INDEX
from lightning_seq.networks.time_gradient import time_gradient
from tests.ranks import run_ranks

KEYS = {f"time_gradient/{name}" for name in ("decay_per_step", "half_life", "horizon")}


class Modes(Callback):
    """Checks, before every step, that each submodule is in the mode it was in before the probe."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert [m.training for m in pl_module.modules()] == [
            m is not pl_module.frozen for m in pl_module.modules()
        ]


def logged(trainer):
    return {key: float(value) for key, value in trainer.callback_metrics.items() if "time_gradient" in key}


# -- training goes on as it would without -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("attention", {}),
        ("attention", {"every_n_steps": 2}),
        ("lstm", {"every_n_steps": 2}),
        ("lstm", {"exact": True}),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_weights_are_bit_identical(train, tiny, kind, options, precision):
    _, without = train(lambda: tiny(kind), precision=precision)
    monitor = TimeGradientMonitor(**options)
    _, with_it = train(lambda: tiny(kind), monitor, Modes(), precision=precision)
    steps = [0, 2, 4, 6] if "every_n_steps" in options else [0, 4]
    assert [entry["step"] for entry in monitor.history] == steps
    assert torch.equal(without, with_it)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("make", [LSTMLanguageModel, TransformerLanguageModel])
def test_our_models_train_the_same_and_carry_their_state_on(make, accumulate, tmp_path):
    sizes = {"embedding_dim": 8, "dropout": 0.2}
    sizes |= {"hidden_size": 8} if make is LSTMLanguageModel else {"num_layers": 1, "num_heads": 2}

    def weights(*callbacks):
        seed_everything(1, verbose=False)
        data = CopyTask(length=2, delay=6, batch_size=4, evaluation_samples=8)
        model = make(data.vocab_size, **sizes)
        trainer = quiet(tmp_path, list(callbacks), accumulate_grad_batches=accumulate)
        trainer.fit(model, data)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    monitor = TimeGradientMonitor(every_n_steps=2)
    assert torch.equal(weights(), weights(monitor))
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4]
    assert monitor.history[0]["lags"][-1] == 9  # from the last symbol that is asked for to the first of all


def quiet(folder, callbacks, **options):
    defaults = {"max_steps": 4, "val_check_interval": 2, "logger": False}
    return Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
        **{**defaults, **options},
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks
def test_compiled_models_train_the_same_and_are_not_compiled_again(train, tiny):
    class Compiled(tiny):
        """With the embedding, which the probe hooks, inside the graph."""

        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(self.embedding, self.body, self.head)
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            self.network.compile(backend="eager")

        def forward(self, tokens):
            return self.network(tokens)

    _, without = train(Compiled)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    monitor = TimeGradientMonitor(every_n_steps=2)
    _, with_it = train(Compiled, monitor)
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4, 6]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    assert torch.equal(without, with_it)


def fit_on_a_rank(folder, watched):
    from tests.callbacks.conftest import TinyModel

    seed_everything(1, verbose=False)
    monitors = [TimeGradientMonitor(n_sequences=2)] if watched else []
    logger = CSVLogger(folder, "", "") if watched else False
    trainer = quiet(folder, monitors, devices=2, strategy="ddp", logger=logger)
    model = TinyModel()
    trainer.fit(model)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, [monitor.history for monitor in monitors], logged(trainer)


@pytest.mark.slow
def test_two_ranks_train_the_same_and_one_of_them_draws(tmp_path):
    without = run_ranks(fit_on_a_rank, tmp_path, False)
    with_it = run_ranks(fit_on_a_rank, tmp_path, True)
    assert torch.equal(without[0][0], with_it[0][0])
    assert torch.equal(with_it[0][0], with_it[1][0])
    (first,), (second,) = with_it[0][1], with_it[1][1]
    assert [e["step"] for e in first] == [e["step"] for e in second] == [0, 2, 4]
    assert first[0]["curve"] != second[0]["curve"]  # each has its own data
    assert with_it[0][2]["time_gradient/decay_per_step"] == pytest.approx(first[-1]["decay_per_step"])
    assert len(list((tmp_path / "figures").iterdir())) == 2


# -- what it measures ---------------------------------------------------------------------------------


def test_logs_what_it_finds_and_draws_ever_more_seldom(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    monitor = TimeGradientMonitor(n_sequences=3)
    trainer, _ = train(lambda: tiny("lstm"), monitor, logger=logger, max_steps=24, val_check_interval=2)
    model = trainer.lightning_module
    rows = torch.stack([model.val_dataloader().dataset[i]["inputs"] for i in range(3)])
    following = torch.stack([model.val_dataloader().dataset[i]["targets"][-1] for i in range(3)])
    found = time_gradient(model, rows, following)
    assert monitor.history[-1] == {"step": 24, **vars(found)}
    assert [entry["step"] for entry in monitor.history] == list(range(0, 25, 2))
    assert logged(trainer) == {
        "time_gradient/decay_per_step": pytest.approx(found.decay_per_step),
        "time_gradient/half_life": pytest.approx(min(found.half_life, 11)),
        "time_gradient/horizon": pytest.approx(min(found.horizon, 11)),
    }
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [f"time_gradient_curves-{step:06d}.png" for step in (1, 9, 23)]
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("time_gradient/horizon")
    assert len([line for line in lines if line.split(",")[column]]) == 12


def test_a_gradient_that_does_not_vanish_is_logged_as_the_length_that_was_looked_at(train, tiny):
    monitor = TimeGradientMonitor(max_lag=7)
    trainer, _ = train(tiny, monitor)
    assert monitor.history[-1]["horizon"] == math.inf
    assert monitor.history[-1]["lags"] == list(range(8))
    assert logged(trainer)["time_gradient/horizon"] == 7
    assert monitor.summary().endswith("per token, over 1% at 7 tokens")


def test_validation_alone(train, tiny, tmp_path):
    trainer, _ = train(
        tiny, TimeGradientMonitor(every_n_steps=100), limit_val_batches=0, val_check_interval=1.0
    )
    assert not logged(trainer)
    trainer.limit_val_batches = 1
    (metrics,) = trainer.validate(trainer.lightning_module, verbose=False)
    assert metrics.keys() >= KEYS


def test_after_a_number_of_steps_without_any_validation(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    monitor = TimeGradientMonitor(every_n_steps=2)
    options = {"limit_val_batches": 0, "val_check_interval": 1.0, "accumulate_grad_batches": 2}
    trainer, _ = train(tiny, monitor, logger=logger, max_steps=4, **options)
    assert [entry["step"] for entry in monitor.history] == [2, 4]
    assert logged(trainer).keys() == KEYS
    assert "time_gradient/horizon" in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize("wrap", [lambda b: b["inputs"], lambda b: (b["inputs"], b["targets"]), tuple, dict])
def test_takes_the_batches_of_others(train, tiny, wrap):
    def wrapped(batch):
        if wrap is tuple:
            return batch["inputs"], 1
        return {"input_ids": batch["inputs"]} if wrap is dict else wrap(batch)

    class Others(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch if self.trainer.training else wrapped(batch)

        def validation_step(self, batch, batch_idx):
            pass

    trainer, _ = train(Others, TimeGradientMonitor())
    assert logged(trainer).keys() == KEYS


def test_the_example_ends_where_all_sequences_are_scored():
    inputs = torch.arange(40).view(4, 10)
    targets = inputs + 100
    for row, length in enumerate((10, 8, 9, 10)):
        targets[row, length:] = IGNORE_INDEX
    example = example_of({"inputs": inputs, "targets": targets}, 4, 128)
    assert torch.equal(example.inputs, inputs[:, :8])
    assert torch.equal(example.targets, inputs[:, 7] + 100)
    example = example_of({"inputs": inputs, "targets": targets}, 4, 5)
    assert torch.equal(example.inputs, inputs[:, 2:8])
    targets[:, :9] = IGNORE_INDEX
    example = example_of({"inputs": inputs, "targets": targets}, 4, 4)
    assert torch.equal(example.inputs, inputs[[0, 3], 5:])
    assert torch.equal(example.targets, torch.tensor([109, 139]))
    own = example_of(inputs, 2, 128)
    assert torch.equal(own.inputs, inputs[:2, :-1])
    assert torch.equal(own.targets, inputs[:2, -1])


@pytest.mark.parametrize(
    "batch",
    [
        None,
        torch.zeros(4),
        torch.zeros(2, 9),
        torch.zeros(2, 4, dtype=torch.long),
        {"inputs": torch.zeros(2, 9, dtype=torch.long), "targets": torch.full((2, 9), IGNORE_INDEX)},
        {"inputs": torch.zeros(0, 9, dtype=torch.long), "targets": torch.zeros(0, 9, dtype=torch.long)},
    ],
)
def test_no_example_where_there_is_none(batch):
    assert example_of(batch, 8, 128) is None


# -- what it cannot measure ---------------------------------------------------------------------------


def test_says_once_what_it_cannot_measure_and_ends_no_training(train, tiny):
    class Odd(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch if self.trainer.training else {"words": batch}

        def validation_step(self, batch, batch_idx):
            pass

    class Fails(tiny):
        def forward(self, tokens):
            if torch.is_grad_enabled() and not self.training:
                raise TypeError("missing an input")
            return super().forward(tokens)

    class Functional(tiny):
        def forward(self, tokens):
            return self.head(self.body(F.embedding(tokens, self.embedding.weight)))

    class Diverged(tiny):
        def on_train_start(self):
            self.head.weight.data.fill_(torch.nan)

    cases = (
        (Odd, {}, "expected batches .* got dict"),
        (
            Fails,
            {},
            r"Fails with inputs of shape \(3, 12\) failed: TypeError\('missing an input'\)",
        ),
        (Functional, {}, "does not call its first nn.Embedding: name as `at`"),
        (Diverged, {}, "the weights have diverged"),
        (tiny, {"exact": True}, "TinyModel runs none of them: leave exact out"),
    )
    for model, options, reason in cases:
        monitor = TimeGradientMonitor(**options)
        with pytest.warns(UserWarning, match=f"TimeGradientMonitor logs nothing: .*{reason}") as warnings:
            trainer, _ = train(model, monitor, max_steps=8)
        assert len([w for w in warnings if "TimeGradientMonitor" in str(w.message)]) == 1
        assert not logged(trainer)


def test_measures_again_once_the_weights_let_something_through(train, tiny):
    class StartsWithZeros(tiny):
        def __init__(self):
            super().__init__("lstm")
            torch.nn.init.zeros_(self.head.weight)

    monitor = TimeGradientMonitor()
    with pytest.warns(UserWarning, match="zeros that let nothing through"):
        train(StartsWithZeros, monitor)
    assert [entry["step"] for entry in monitor.history] == [4]


def test_modules_without_tokens_are_warned_of(train):
    with pytest.warns(UserWarning, match="expected batches with `inputs`"):
        train(BoringModel, TimeGradientMonitor(), val_check_interval=1.0)


class Demo(LightningTransformer):
    """Lightning's own example, whose logits come without the dimension of time."""

    def prepare_data(self):
        pass

    def train_dataloader(self):
        rows = torch.randint(0, 11, (12, 13), generator=torch.Generator().manual_seed(3))
        return DataLoader([(row[:-1], row[1:]) for row in rows], batch_size=3)

    val_dataloader = train_dataloader

    def validation_step(self, batch, batch_idx):
        self(*batch)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_lightnings_own_transformer(train):
    monitor = TimeGradientMonitor()
    _, without = train(lambda: Demo(vocab_size=11), val_check_interval=2)
    _, with_it = train(lambda: Demo(vocab_size=11), monitor, val_check_interval=2)
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4, 6]
    assert torch.equal(without, with_it)


# -- use ----------------------------------------------------------------------------------------------


def test_history_and_example_go_on_after_a_resume(train, tiny, tmp_path):
    first = TimeGradientMonitor()
    trainer, _ = train(tiny, first, max_steps=8)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]
    assert saved["TimeGradientMonitor"] == first.state_dict()

    class OtherData(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch if self.trainer.training else {name: x.flip(1) for name, x in batch.items()}

    second, other = TimeGradientMonitor(), TimeGradientMonitor(n_sequences=2)
    for monitor in (second, other):
        trainer = quiet(tmp_path, [monitor], max_steps=12, val_check_interval=4)
        trainer.fit(OtherData(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
        assert [entry["step"] for entry in monitor.history] == [0, 4, 8, 12]
        assert monitor.history[:3] == first.history
    assert torch.equal(second._example["inputs"], first._example["inputs"])
    assert len(other._example["inputs"]) == 2


def test_the_figure_has_a_line_for_each_measurement_up_to_a_few(train, tiny):
    monitor = TimeGradientMonitor(every_n_steps=2)
    assert monitor.summary() == "no gradient through time was measured"
    with pytest.raises(InputError, match="has measured nothing yet: give it to a Trainer"):
        monitor.figure()
    train(tiny, monitor)
    axes = monitor.figure().axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 4
    assert list(curves[-1].get_xdata()) == monitor.history[-1]["lags"][1:]
    assert list(curves[-1].get_ydata()) == monitor.history[-1]["curve"][1:]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels] == ["step 0", "step 6"]
    monitor.history = [{**monitor.history[-1], "step": step} for step in range(1000)]
    labels = [text.get_text().split(":")[0] for text in monitor.figure().axes[0].get_legend().get_texts()]
    assert labels == ["step 0", "step 999"]
    assert len(monitor.figure().axes[0].lines) < 30


def test_a_training_that_breaks_leaves_its_picture(train, tiny, tmp_path):
    class Breaks(tiny):
        def training_step(self, batch, batch_idx):
            if self.global_step == 7:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path, "", "")
    with pytest.raises(ZeroDivisionError):
        train(Breaks, TimeGradientMonitor(every_n_steps=1), logger=logger, max_steps=8)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [f"time_gradient_curves-{step:06d}.png" for step in (0, 4, 6)]


def test_the_name_of_what_embeds_the_inputs_is_checked_at_once(train, tiny):
    with pytest.raises(InputError, match=r"no submodule 'embeding' \(did you mean 'embedding'\?\)"):
        train(tiny, TimeGradientMonitor(at="embeding"))
    monitor = TimeGradientMonitor(at="embedding")
    train(tiny, monitor)
    assert monitor.history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_sequences": 0}, "n_sequences is 0: give 1 or more"),
        ({"every_n_steps": 0}, "every_n_steps is 0: give 1 or more"),
        ({"max_lag": 2}, "max_lag is 2: give 3 or more"),
    ],
)
def test_sizes_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TimeGradientMonitor(**options)
