"""Monitors run a model as its own step calls it."""

import logging
import random

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from transformers import BartConfig, BartForConditionalGeneration

from lightning_seq.callbacks import AttentionLogger, RecurrentStateMonitor, TimeGradientMonitor
from lightning_seq.models import TransformerLanguageModel
from lightning_seq.networks.attention_capture import capture_attention
from lightning_seq.networks.recurrent_measures import summarize
from lightning_seq.networks.recurrent_states import recurrent_states
from tests.callbacks.conftest import VOCAB, Attention, TinyModel

LENGTHS = torch.tensor([12, 8, 10, 12, 9, 11])


class Reader(nn.Module):
    """An LSTM between an embedding and a head, and attention beside it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 8)
        self.attention = Attention(8, 2)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, VOCAB)

    def forward(self, tokens, lengths=None):
        x = self.embedding(tokens)
        x = x + self.attention(x)
        if lengths is None:
            return self.head(self.lstm(x)[0])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


class Base(LightningModule):
    """A model whose only network is `reader`; how it is called, and with what, is for the subclasses."""

    configure_optimizers = TinyModel.configure_optimizers
    learning_rate = 0.05

    def __init__(self):
        super().__init__()
        self.reader = Reader()

    def loss(self, logits, targets):
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch), batch_size=3)

    def rows(self):
        return torch.randint(0, VOCAB, (6, 12), generator=torch.Generator().manual_seed(3))

    def train_dataloader(self):
        return DataLoader([self.item(i, row) for i, row in enumerate(self.rows())], batch_size=3)

    val_dataloader = train_dataloader


class ByName(Base):
    def item(self, i, row):
        return {"source": row, "following": row.roll(-1)}

    def forward(self, source, following):
        logits = self.reader(source)
        return {"loss": self.loss(logits, following), "logits": logits}

    def step(self, batch):
        return self(**batch)["loss"]


class WithLengths(Base):
    def item(self, i, row):
        return row, LENGTHS[i]

    def forward(self, x, lengths):
        return self.reader(x, lengths)

    def step(self, batch):
        x, lengths = batch
        logits = self(x, lengths.cpu())
        targets = torch.where(torch.arange(1, 12) < lengths[:, None], x[:, 1:], -100)
        return self.loss(logits[:, :11], targets[:, : logits.size(1)])


class WithListedLengths(WithLengths):
    def step(self, batch):
        x, lengths = batch
        logits = self(x, lengths=lengths.tolist())
        return self.loss(logits[:, : 8 - 1], x[:, 1:8])


class WholeBatch(Base):
    def validation_step(self, batch):
        super().validation_step(batch, 0)

    def item(self, i, row):
        return {"text": {"ids": row}, "length": LENGTHS[i]}

    def forward(self, batch):
        return self.reader(batch["text"]["ids"], batch["length"].cpu())

    def step(self, batch):
        return self.loss(self.forward(batch)[:, :7], batch["text"]["ids"][:, 1:8])  # past its hooks


class Submodule(Base):
    """Has no forward of its own, takes its batch apart, and draws random numbers before it calls."""

    def validation_step(self, batch, i, loader=0):
        super().validation_step(batch, i)

    def item(self, i, row):
        return [row, (LENGTHS[i], row.roll(-1))]

    def step(self, batch):
        random.random()
        torch.rand(1)
        _, targets = batch.pop()
        return self.loss(self.reader(batch[0]), targets)


class ByHand(Base):
    """Cannot be called whole: its step runs the parts."""

    def item(self, i, row):
        return {"a": row}

    def step(self, batch):
        x = self.reader.embedding(batch["a"])
        x = self.reader.lstm(x + self.reader.attention(x))[0]
        return self.loss(self.reader.head(x), batch["a"].roll(-1, 1))


def call_reader(module, batch):
    return module.reader(batch["a"])


MONITORS = [AttentionLogger, TimeGradientMonitor, RecurrentStateMonitor]
CASES = [(model, None) for model in (ByName, WithLengths, WithListedLengths, WholeBatch, Submodule)]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize(("model", "call"), [*CASES, (ByHand, call_reader)])
def test_every_way_of_calling(train, model, call, monitor):
    watcher = monitor(call=call)
    without, weights = train(model, max_steps=4, val_check_interval=2)
    trainer, with_it = train(model, watcher, max_steps=4, val_check_interval=2)
    assert torch.equal(weights, with_it)
    assert trainer.callback_metrics["val_loss"] == without.callback_metrics["val_loss"]
    assert [entry["step"] for entry in watcher.history] == [0, 2, 4]
    call, rows = watcher.network_call, trainer.lightning_module.rows()
    sequences, time = call.inputs.shape
    assert (sequences, time) == {
        AttentionLogger: (1, 12),
        TimeGradientMonitor: (
            3,
            11 if call.lengths() is None else 7,
        ),  # the shortest has 8, and one is the target
        RecurrentStateMonitor: (3, 12),
    }[monitor]
    assert torch.equal(call.inputs, rows[:sequences, :time])
    if call.lengths() is not None:
        assert call.lengths().tolist() == LENGTHS[:sequences].clamp(max=time).tolist()


@pytest.mark.parametrize("model", [ByName, WithLengths, WithListedLengths, WholeBatch, Submodule])
def test_sequences_and_tokens_are_cut_with_all_that_belongs_to_them(train, model):
    watcher = RecurrentStateMonitor(n_sequences=2, max_tokens=5)
    trainer, _ = train(model, watcher, max_steps=2, val_check_interval=2)
    call = watcher.network_call
    assert torch.equal(call.inputs, trainer.lightning_module.rows()[:2, :5])
    assert call.lengths() is None or call.lengths().tolist() == [5, 5]


def test_numbers_are_those_of_the_same_sequences_without_padding(train):
    attention, gradient, states = (
        AttentionLogger(),
        TimeGradientMonitor(1),
        RecurrentStateMonitor(n_sequences=2),
    )
    trainer, _ = train(WithLengths, attention, gradient, states, max_steps=2, val_check_interval=2)
    model = trainer.lightning_module.eval()
    rows = model.rows()
    assert gradient.history[-1]["lags"][-1] == 6
    found = summarize(recurrent_states(model.reader, rows[:2], LENGTHS[:2]))
    assert states.history[-1] == pytest.approx({"step": 2, **{f"recurrent/{k}": x for k, x in found.items()}})
    with torch.no_grad(), capture_attention(model.reader) as captured:
        model.reader(rows[:1], LENGTHS[:1])
    torch.testing.assert_close(
        torch.tensor(attention.view.layers[0].maps), captured.calls[0].probabilities[0]
    )


@pytest.mark.parametrize("monitor", MONITORS)
def test_what_cannot_be_repeated_is_said_in_one_line(train, monitor):
    said = "how ByHand calls its network cannot be repeated, as it calls reader.embedding first"
    with pytest.warns(UserWarning, match=f"{monitor.__name__} logs nothing: {said}.*give call=") as caught:
        train(ByHand, monitor(), max_steps=4, val_check_interval=2)
    assert sum(monitor.__name__ in str(w.message) for w in caught) == 1


class Opaque:
    def __init__(self, ids):
        self.ids = ids


class OfItsOwnKind(Base):
    def item(self, i, row):
        return row

    def forward(self, batch):
        return self.reader(batch.ids)

    def step(self, batch):
        return self.loss(self(Opaque(batch)), batch.roll(-1, 1))


class Fails(Submodule):
    def validation_step(self, batch, batch_idx):
        raise KeyError("nothing")


class StepsByItself(Submodule):
    validation_step = LightningModule.validation_step

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.step(batch))
        optimizer.step()


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (OfItsOwnKind, "failed: AttributeError"),
        (Fails, r"as KeyError\('nothing'\): give call="),
        (StepsByItself, "its training_step steps the optimizer itself: give call="),
    ],
)
def test_other_steps_that_cannot_be_repeated(train, model, said):
    options = {"limit_val_batches": 0, "val_check_interval": 1.0}
    with pytest.warns(UserWarning, match=f"RecurrentStateMonitor logs nothing: .*{said}"):
        train(model, RecurrentStateMonitor(every_n_steps=2), max_steps=4, **options)


class Translator(LightningModule):
    """BART: sources of 9 tokens, labels of 5."""

    configure_optimizers = TinyModel.configure_optimizers
    learning_rate = 1e-3

    def __init__(self):
        super().__init__()
        sizes = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16}
        layers = {"encoder_layers": 1, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        self.model = BartForConditionalGeneration(BartConfig(vocab_size=VOCAB, **sizes, **layers, **heads))

    def forward(self, input_ids, attention_mask=None, labels=None):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch).loss, batch_size=3)

    def train_dataloader(self):
        rows = torch.randint(3, VOCAB, (6, 14), generator=torch.Generator().manual_seed(3))
        items = [
            {"input_ids": r[:9], "attention_mask": torch.ones(9, dtype=torch.long), "labels": r[9:]}
            for r in rows
        ]
        return DataLoader(items, batch_size=3)

    val_dataloader = train_dataloader


class OwnStep(Translator):
    def forward(self, input_ids):
        raise AssertionError("is not how it is called")

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss, batch_size=3)


@pytest.mark.parametrize("model", [Translator, OwnStep])
def test_cross_attention_is_of_labels_and_source(train, model):
    watcher = AttentionLogger(n_sequences=2)
    _, without = train(model, val_check_interval=2)
    _, with_it = train(model, watcher, val_check_interval=2)
    assert torch.equal(without, with_it)
    shapes = {layer.module.rpartition("model.")[2]: layer.maps.shape for layer in watcher.view.layers}
    assert shapes == {
        "encoder.layers.0.self_attn": (2, 9, 9),
        "decoder.layers.0.self_attn": (2, 5, 5),
        "decoder.layers.0.encoder_attn": (2, 5, 9),
    }


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_resumed_training_repeats_the_same_call(train, tmp_path, monitor):
    first, second = monitor(), monitor()
    trainer, _ = train(WholeBatch, first, max_steps=4, val_check_interval=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][first.state_key]
    second.load_state_dict(saved)
    assert torch.equal(second.network_call.inputs, first.network_call.inputs)
    again, before = (
        probe.look(trainer, trainer.lightning_module.eval(), probe._example) for probe in (second, first)
    )
    assert all(again[name] == pytest.approx(before[name], nan_ok=True) for name in before)


def test_a_model_that_is_called_with_its_inputs_alone_as_a_last_resort(train, tiny, caplog):
    class Silent(tiny):
        def validation_step(self, batch, batch_idx):
            pass

    with caplog.at_level(logging.INFO):
        train(Silent, AttentionLogger(), max_steps=4)
    said = "AttentionLogger calls Silent(inputs); how Silent calls its network cannot be repeated"
    assert sum(said in record.message for record in caplog.records) == 1


def test_documents_that_are_packed_stay_apart(train):
    class Packed(TransformerLanguageModel):
        def train_dataloader(self):
            rows = torch.randint(0, VOCAB, (6, 13), generator=torch.Generator().manual_seed(3))
            ids = (torch.arange(12) >= 7).long()
            items = [{"inputs": r[:-1], "targets": r[1:], "document_ids": ids} for r in rows]
            return DataLoader(items, batch_size=3)

        val_dataloader = train_dataloader

    watcher = AttentionLogger()
    train(lambda: Packed(VOCAB, 8, 1, 2, context_length=12), watcher, val_check_interval=2)
    maps = watcher.view.layers[0].maps
    assert (maps[:, 7:, :7] == 0).all()
    assert maps[:, 8, 7:9].min() > 0
