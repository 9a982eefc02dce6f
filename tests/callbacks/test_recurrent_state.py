import logging
import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_seq.callbacks.recurrent_state import RecurrentStateMonitor
from lightning_seq.callbacks.recurrent_state_figure import draw_recurrent_states
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels
from lightning_seq.models import GRULanguageModel, LSTMLanguageModel, MinGRULanguageModel, RNNLanguageModel
from lightning_seq.networks.recurrent_measures import summarize
from lightning_seq.networks.recurrent_states import recurrent_states
from tests.callbacks.conftest import VOCAB, TinyModel
from tests.ranks import run_ranks

LSTM_KEYS = {
    *(f"{gate}_{end}" for gate in ("forget", "input", "output") for end in ("open", "closed")),
    *("half_life", "half_life_p90", "hidden_norm", "cell_norm", "dead_units"),
}


class Ours:
    """Gives a language model of this package the data of the tiny one."""

    train_dataloader, val_dataloader = TinyModel.train_dataloader, TinyModel.val_dataloader

    def on_train_start(self):
        super().on_train_start()
        self.frozen = self.network.embedding
        self.frozen.eval()


class OurLSTM(Ours, LSTMLanguageModel):
    pass


class OurGRU(Ours, GRULanguageModel):
    pass


class OurRNN(Ours, RNNLanguageModel):
    pass


class OurMinGRU(Ours, MinGRULanguageModel):
    pass


def awd():
    return OurLSTM(VOCAB, 8, 8, 2, dropout=0.2, weight_drop=0.3, layer_norm=True, variational_dropout=True)


class Modes(Callback):
    """Checks that each submodule keeps the mode that it was in."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        modes = [m.training for m in pl_module.modules()]
        assert modes == [m is not pl_module.frozen for m in pl_module.modules()]


def logged(trainer):
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("recurrent/")}


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_weights_are_bit_identical(train, tiny, every, precision):
    _, without = train(lambda: tiny("lstm"), precision=precision)
    monitor = RecurrentStateMonitor(every)
    _, with_it = train(lambda: tiny("lstm"), monitor, Modes(), precision=precision)
    assert torch.equal(without, with_it)
    assert [entry["step"] for entry in monitor.history] == ([0, 4] if every is None else [*range(7)])


@pytest.mark.parametrize(
    "make",
    [
        awd,
        lambda: OurLSTM(VOCAB, 8, 8, 2, dropout=0.2, weight_drop=0.3),
        lambda: OurGRU(VOCAB, 8, 8, 2, dropout=0.2),
        lambda: OurRNN(VOCAB, 8, 8, 1, nonlinearity="relu"),
        lambda: OurMinGRU(VOCAB, 8, 8, 2, dropout=0.2),
    ],
)
def test_our_models_train_bit_identically_too(train, make):
    _, without = train(make)
    monitor = RecurrentStateMonitor(2)
    _, with_it = train(make, monitor, Modes())
    assert torch.equal(without, with_it)
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4, 6]


def test_logs_every_layer_and_a_picture_at_validation(train, tmp_path):
    monitor, logger = RecurrentStateMonitor(), CSVLogger(tmp_path, "", "")
    trainer, _ = train(awd, monitor, logger=logger, max_steps=8)
    metrics = logged(trainer)
    assert set(metrics) == {f"recurrent/layer{i}/{key}" for i in range(2) for key in LSTM_KEYS}
    assert monitor.history[-1] == pytest.approx({"step": 8, **metrics})
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == ["recurrent_states-000003.png", "recurrent_states-000007.png"]
    assert "recurrent/layer1/half_life_p90" in (tmp_path / "metrics.csv").read_text()


def test_the_numbers_are_those_of_the_model_as_it_is(train):
    monitor = RecurrentStateMonitor(n_sequences=2, max_tokens=5)
    trainer, _ = train(awd, monitor, max_steps=8)
    model = trainer.lightning_module
    tokens = model.val_dataloader().dataset.rows[:2, :5]
    expected = summarize(recurrent_states(model, tokens))
    expected = {f"recurrent/{key}": pytest.approx(value) for key, value in expected.items()}
    assert monitor.history[-1] == {"step": 8, **expected}


def test_every_n_steps_reaches_the_logger_once_each_at_its_step(train, tiny, tmp_path):
    monitor, logger = RecurrentStateMonitor(every_n_steps=3), CSVLogger(tmp_path, "", "")
    trainer, _ = train(lambda: tiny("lstm"), monitor, logger=logger, max_steps=10, log_every_n_steps=2)
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    at, step = columns.index("recurrent/layer0/half_life"), columns.index("step")
    rows = [line.split(",") for line in lines if line.split(",")[at]]
    assert [int(row[step]) for row in rows] == [2, 5, 8]  # Lightning counts from 0
    assert [entry["step"] for entry in monitor.history] == [0, 3, 6, 9]
    key = "recurrent/layer0/half_life"
    assert [float(row[at]) for row in rows] == pytest.approx([entry[key] for entry in monitor.history[1:]])
    assert logged(trainer)[key] == pytest.approx(monitor.history[-1][key])


def test_pictures_come_as_the_measurements_triple_and_at_the_end(train, tiny, tmp_path):
    logger = CSVLogger(tmp_path, "", "")
    train(lambda: tiny("lstm"), RecurrentStateMonitor(1), logger=logger, max_steps=9)
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [f"recurrent_states-{step:06d}.png" for step in (0, 4, 8)]  # step 0 is one, too


def test_a_training_that_breaks_leaves_its_picture(train, tiny, tmp_path):
    class Breaks(tiny):
        def training_step(self, batch, batch_idx):
            assert batch_idx < 6
            return super().training_step(batch, batch_idx)

    with pytest.raises(AssertionError):
        train(
            lambda: Breaks("lstm"), RecurrentStateMonitor(1), logger=CSVLogger(tmp_path, "", ""), max_steps=9
        )
    assert (tmp_path / "figures" / "recurrent_states-000005.png").exists()


def test_every_n_steps_counts_optimizer_steps_and_needs_no_validation(train, tiny):
    monitor = RecurrentStateMonitor(every_n_steps=2)
    options = {"limit_val_batches": 0, "val_check_interval": 1.0, "num_sanity_val_steps": 0}
    train(lambda: tiny("lstm"), monitor, accumulate_grad_batches=2, max_steps=6, **options)
    assert [entry["step"] for entry in monitor.history] == [2, 4, 6]


def test_looks_at_the_same_examples_every_time_from_no_past(train, tiny):
    seen = []

    class Watched(tiny):
        def forward(self, tokens):
            if tokens.size(1) == 5:
                seen.append((tokens.clone(), self.training))
            return super().forward(tokens)

    monitor = RecurrentStateMonitor(n_sequences=2, max_tokens=5)
    trainer, _ = train(lambda: Watched("lstm"), monitor, max_steps=8)
    rows = trainer.lightning_module.val_dataloader().dataset.rows[:2, :5]
    assert len(seen) == 3  # the start and two validations, and not the sanity check
    assert all(torch.equal(tokens, rows) and not training for tokens, training in seen)


def test_the_carried_state_of_a_training_is_left_alone(train):
    class Carries(OurLSTM):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "continues": torch.ones(len(batch["inputs"]), dtype=torch.bool)}

    _, without = train(lambda: Carries(VOCAB, 8, 8, 1))
    _, with_it = train(lambda: Carries(VOCAB, 8, 8, 1), RecurrentStateMonitor(1))
    assert torch.equal(without, with_it)


@pytest.mark.parametrize("wrap", [lambda b: b["inputs"], lambda b: (b["inputs"], 1), lambda b: [b["inputs"]]])
def test_takes_the_batches_of_others(train, tiny, wrap):
    class Others(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return wrap(batch) if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    trainer, _ = train(lambda: Others("lstm"), RecurrentStateMonitor())
    assert set(logged(trainer)) == {f"recurrent/layer0/{key}" for key in LSTM_KEYS}


@pytest.mark.parametrize("every", [None, 2])
def test_without_recurrent_layers_it_says_so_once_and_stays_quiet(train, tiny, caplog, every):
    monitor = RecurrentStateMonitor(every)
    with caplog.at_level(logging.INFO):
        trainer, _ = train(tiny, monitor, max_steps=8)
    assert sum("runs no nn.LSTM" in record.message for record in caplog.records) == 1
    assert not logged(trainer)
    with pytest.raises(InputError, match="has measured nothing yet"):
        monitor.figure()


def test_unknown_batches_and_failing_models_end_no_training(train, tiny):
    class Odd(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {"words": batch} if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    class TwoInputs(tiny):
        def forward(self, tokens, more=None):
            if tokens.size(1) == 5:
                raise TypeError("missing an input")
            return super().forward(tokens)

    for model, reason in ((Odd, "got dict"), (TwoInputs, "missing an input")):
        with pytest.warns(UserWarning, match=reason) as warnings:
            train(lambda model=model: model("lstm"), RecurrentStateMonitor(max_tokens=5), max_steps=8)
        assert len([w for w in warnings if "RecurrentStateMonitor" in str(w.message)]) == 1


def test_vectors_are_no_sequences(train):
    with pytest.warns(UserWarning, match="got inputs of shape"):
        train(lambda: VectorModel(), RecurrentStateMonitor(), max_steps=4)


class VectorModel(BoringModel):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch if self.trainer.training else batch[:, 0]

    def validation_step(self, batch, batch_idx):
        pass


def test_works_in_validation_alone(train, tiny):
    trainer, _ = train(
        lambda: tiny("lstm"), RecurrentStateMonitor(), limit_val_batches=0, val_check_interval=1.0
    )
    assert not logged(trainer)
    trainer.limit_val_batches = 1
    (metrics,) = trainer.validate(trainer.lightning_module, verbose=False)
    assert 0 < metrics["recurrent/layer0/half_life"] < math.inf


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks
def test_compiled_models_train_the_same_and_are_not_compiled_again(train):
    def make():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = OurMinGRU(VOCAB, 8, 8, 2)
        for block in model.network.blocks:
            block.compile(backend="eager")
        return model

    _, without = train(make)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    monitor = RecurrentStateMonitor(2)
    _, with_it = train(make, monitor)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    assert torch.equal(without, with_it)
    assert [entry["step"] for entry in monitor.history] == [0, 2, 4, 6]


def test_the_history_is_plain_numbers_and_a_resumed_training_goes_on_with_it(tmp_path, tiny):
    def trainer(monitor, steps):
        return Trainer(
            accelerator="cpu",
            max_steps=steps,
            val_check_interval=8,
            log_every_n_steps=4,
            callbacks=[monitor],
            logger=CSVLogger(tmp_path, "", str(steps)),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )

    first, second = RecurrentStateMonitor(), RecurrentStateMonitor()
    started = trainer(first, 8)
    started.fit(tiny("lstm"))
    started.save_checkpoint(tmp_path / "half.ckpt")
    before, entry = first.state_dict()["history"]
    assert {type(value) for value in entry.values()} == {int, float}
    loaded = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert loaded["callbacks"]["RecurrentStateMonitor"] == first.state_dict()

    trainer(second, 16).fit(tiny("lstm"), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert [each["step"] for each in second.history] == [0, 8, 16]
    assert second.history[:2] == [before, entry]
    assert [p.name for p in (tmp_path / "16" / "figures").iterdir()] == ["recurrent_states-000016.png"]


def test_validating_a_step_again_replaces_its_numbers(train, tiny):
    monitor = RecurrentStateMonitor()
    trainer, _ = train(lambda: tiny("lstm"), monitor, max_steps=4)
    trainer.validate(trainer.lightning_module, verbose=False)
    assert [entry["step"] for entry in monitor.history] == [0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0: give 1 or more"),
        ({"n_sequences": 0}, "n_sequences is 0: give 1 or more"),
        ({"max_tokens": 1}, "max_tokens is 1: give 2 or more"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RecurrentStateMonitor(**options)


# -- several ranks ------------------------------------------------------------------------------------


def train_on_a_rank(folder):
    monitor = RecurrentStateMonitor(n_sequences=2)
    without, with_it = (fit_on_a_rank(folder, callbacks) for callbacks in ([], [monitor]))
    return torch.equal(without, with_it), [entry["step"] for entry in monitor.history]


def fit_on_a_rank(folder, callbacks):
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=4,
        val_check_interval=2,
        log_every_n_steps=1,
        callbacks=callbacks,
        logger=CSVLogger(folder, "", str(len(callbacks))),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    model = TinyModel("lstm")
    trainer.fit(model)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.slow
def test_two_ranks_train_the_same_and_one_of_them_writes(tmp_path):
    assert run_ranks(train_on_a_rank, str(tmp_path)) == [(True, [0, 2, 4])] * 2
    assert len(list((tmp_path / "1" / "figures").iterdir())) == 2
    assert (tmp_path / "1" / "metrics.csv").read_text().count("recurrent/layer0/forget_open") == 1


# -- the picture --------------------------------------------------------------------------------------


def history_of(module, count=3):
    numbers = summarize(recurrent_states(module, torch.randn(2, 8, 4)))
    entry = {f"recurrent/{key}": value for key, value in numbers.items()}
    return [{"step": 100 * (i + 1), **entry} for i in range(count)]


def texts_of(figure):
    axes = [text for each in figure.axes for text in (*each.texts, each.xaxis.label)]
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    return " | ".join(text.get_text() for text in (*figure.texts, *axes, *legends))


def test_the_picture_names_what_it_shows():
    figure = draw_recurrent_states(history_of(nn.LSTM(4, 6, 2, batch_first=True)))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"layer {i}, {gate}" for i in range(2) for gate in ("forget", "input", "output")]
    text = texts_of(figure)
    for part in ("step 300", "Half-life", "cell", "closed: gate below 0.05", "layer 1", "training step"):
        assert part in text
    assert "saturated" not in text
    assert figure.axes[1].get_yscale() == "log"
    assert "tokens" in figure.axes[1].get_ylabel()


def test_the_picture_of_layers_without_gates_has_their_states():
    figure = draw_recurrent_states(history_of(nn.RNN(4, 6, batch_first=True)))
    text = texts_of(figure)
    assert "saturated: state beyond ±0.95" in text
    assert "Half-life" not in text
    assert "gate" not in text.replace("without gates", "")
    text = texts_of(draw_recurrent_states(history_of(nn.RNN(4, 6, nonlinearity="relu", batch_first=True))))
    assert "zero: state of exactly 0" in text


def test_rows_are_filled_as_far_as_the_shares_say():
    shares = {"forget_closed": 0.25, "forget_open": 0.5}
    entry = {f"recurrent/layer0/{key}": value for key, value in shares.items()}
    figure = draw_recurrent_states([{"step": 1, **entry}, {"step": 2, **entry}])
    edges = []
    for area in figure.axes[0].collections:
        y = area.get_paths()[0].vertices[:, 1]
        edges.append((y.min(), y.max()))
    (bottom, closed), between, (opened, top) = edges
    assert between == (closed, opened)
    assert (closed - bottom, top - opened) == pytest.approx((0.25 * (top - bottom), 0.5 * (top - bottom)))
    assert top > bottom
    assert "25% / 50%" in texts_of(figure)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("count", "make"), [(1, nn.LSTM), (2, nn.GRU), (200, nn.RNN), (1, nn.RNN)])
def test_any_number_of_measurements_can_be_drawn(count, make):
    pixels(draw_recurrent_states(history_of(make(4, 6, 2, batch_first=True, bidirectional=True), count)))


@pytest.mark.filterwarnings("error")
def test_a_diverged_model_can_be_drawn():
    entries = history_of(nn.LSTM(4, 6, batch_first=True))
    keys = [key for key in entries[0] if key != "step"]
    entries[-1].update(dict.fromkeys(keys, math.nan))
    pixels(draw_recurrent_states(entries))
    pixels(draw_recurrent_states(entries[-1:]))
    entries[0].update(dict.fromkeys(keys, 0.0))
    entries[1].update(dict.fromkeys(keys, math.inf))
    pixels(draw_recurrent_states(entries))
