import csv
import logging

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lightning_seq.callbacks import AttentionLogger
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.figures import pixels
from lightning_seq.networks.attention_capture import capture_attention
from tests.callbacks.conftest import VOCAB


class Modes(Callback):
    """Checks, after every validation, that each submodule is in the mode it was in before."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert [m.training for m in pl_module.modules()] == [
            m is not pl_module.frozen for m in pl_module.modules()
        ]


@pytest.mark.parametrize("kind", ["attention", "lstm"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_weights_are_bit_identical(train, tiny, kind, precision):
    _, without = train(lambda: tiny(kind), precision=precision)
    _, with_it = train(lambda: tiny(kind), AttentionLogger(), Modes(), precision=precision)
    assert torch.equal(without, with_it)


MEASURED = (
    "entropy",
    "max_probability",
    "previous_token",
    "first_token",
    "induction",
    "distance",
    "max_logit",
)


def logged(trainer, prefix="attention/"):
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}


def test_logs_every_measure_of_every_head_pictures_and_a_page(train, tiny, tmp_path):
    logger, watcher = CSVLogger(tmp_path, "", ""), AttentionLogger()
    trainer, _ = train(tiny, watcher, logger=logger, max_steps=8)
    numbers = logged(trainer)
    heads = [f"layer0_head{h}" for h in range(2)] + [f"layer1_head{h}" for h in range(4)]
    assert {key for key in numbers if "/layer" in key} == {
        f"attention/{measure}/{head}" for measure in MEASURED for head in heads
    }
    for measure in MEASURED:
        each = [numbers[f"attention/{measure}/{head}"] for head in heads]
        assert numbers[f"attention/{measure}"] == pytest.approx(sum(each) / 6, abs=1e-5)
        assert numbers[f"attention/{measure}_min"] == pytest.approx(min(each))
        assert numbers[f"attention/{measure}_max"] == pytest.approx(max(each))
    assert {f"attention/{kind}_heads" for kind in ("induction", "previous_token", "first_token")} < set(
        numbers
    )
    assert watcher.history[-1] == pytest.approx({"step": 8, **numbers}, abs=1e-6)
    assert [entry["step"] for entry in watcher.history] == [0, 4, 8]
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == sorted(
        f"attention_{name}-00000{step}.{kind}"
        for step in (3, 7)  # as Lightning numbers them
        for name, kind in (("heads", "png"), ("map", "png"), ("training", "png"), ("page", "html"))
    )
    header = (tmp_path / "metrics.csv").read_text()
    assert "attention/induction/layer1_head3" in header
    assert "attention/max_logit_max" in header


def test_the_numbers_are_those_of_the_model_as_it_is(train, tiny):
    watcher = AttentionLogger(n_sequences=2, max_tokens=7)
    trainer, _ = train(tiny, watcher, max_steps=4)
    model = trainer.lightning_module.eval()
    tokens = model.val_dataloader().dataset.rows[:2, :7]
    with torch.no_grad(), capture_attention(model, max_sequences=2) as captured:
        model(tokens)
    expected = captured.calls[1].probabilities
    assert watcher.history[-1]["attention/max_probability/layer1_head2"] == pytest.approx(
        float(expected[:, 2, 1:].amax(-1).mean()), abs=1e-6
    )
    torch.testing.assert_close(torch.tensor(watcher.view.layers[1].maps), expected[0])


def test_layers_and_heads_may_be_chosen(train, tiny):
    watcher = AttentionLogger(layers=[1], heads=[0, 3])
    trainer, _ = train(tiny, watcher)
    found = {key.rpartition("/")[2] for key in logged(trainer) if "/layer" in key}
    assert found == {"layer1_head0", "layer1_head3"}
    assert [(layer.name, layer.heads) for layer in watcher.view.layers] == [("layer 1", (0, 3))]
    assert pixels(watcher.figure()).size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": [9]}, r"layers is \[9\], and there are 2: give numbers from 0 to 1"),
        ({"heads": [9]}, r"heads is \[9\], and there are 2: give numbers from 0 to 1"),
    ],
)
def test_layers_and_heads_that_are_not_there_are_told_of_once(train, tiny, options, said):
    with pytest.warns(UserWarning, match=f"AttentionLogger logs nothing: {said}") as caught:
        trainer, _ = train(tiny, AttentionLogger(**options), max_steps=8)
    assert len([w for w in caught if "AttentionLogger" in str(w.message)]) == 1
    assert not logged(trainer) | logged(trainer, "saliency/")


def test_every_n_steps_needs_no_validation_and_logs_at_its_step(train, tiny, tmp_path):
    watcher, logger = AttentionLogger(every_n_steps=3), CSVLogger(tmp_path, "", "")
    options = {"limit_val_batches": 0, "val_check_interval": 1.0, "num_sanity_val_steps": 0}
    train(tiny, watcher, logger=logger, max_steps=7, **options)
    assert [entry["step"] for entry in watcher.history] == [3, 6]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["attention/entropy"]]
    assert [int(row["step"]) for row in rows] == [2, 5]  # Lightning counts from 0


def test_an_rnn_is_shown_by_its_saliency(train, tiny, tmp_path):
    watcher, logger = AttentionLogger(), CSVLogger(tmp_path, "", "")
    trainer, _ = train(lambda: tiny("lstm"), watcher, logger=logger)
    numbers = logged(trainer, "saliency/")
    assert 0 < numbers["saliency/entropy"] <= 1
    assert "saliency/induction" in numbers
    assert not logged(trainer)
    (layer,) = watcher.view.layers
    assert layer.name == "saliency"
    torch.testing.assert_close(torch.tensor(layer.maps.sum(-1)), torch.ones(1, 12))
    assert (tmp_path / "figures" / "attention_page-000003.html").exists()
    assert watcher.summary().startswith("saliency: entropy 0.")


def test_saliency_beside_attention_and_none_at_all(train, tiny, caplog):
    watcher = AttentionLogger(saliency=True)
    train(tiny, watcher)
    assert [layer.name for layer in watcher.view.layers] == ["layer 0", "layer 1", "saliency"]
    with caplog.at_level(logging.INFO):
        trainer, _ = train(lambda: tiny("lstm"), AttentionLogger(saliency=False), max_steps=8)
    assert sum("runs no attention that PyTorch shows" in record.message for record in caplog.records) == 1
    assert not logged(trainer) | logged(trainer, "saliency/")


def test_a_text_of_the_users(train, tiny):
    class Reads(tiny):
        tokenizer = names_tokenizer([*"abcdefghijk"])

    watcher = AttentionLogger(text="c a b k a")
    train(Reads, watcher)
    assert watcher.view.tokens == ("c", " a", " b", " k", " a")
    assert all(text in {f" {name}" for name in "abcdefghijk"} for text, _ in watcher.view.predictions)
    assert len(watcher.view.predictions) == 5
    with pytest.warns(UserWarning, match="AttentionLogger logs nothing: the prompt has 'z'"):
        train(Reads, AttentionLogger(text="c z"))


def test_alarms_come_once_for_each_layer(train, tiny):
    class Steep(tiny):
        def __init__(self):
            super().__init__()
            self.body[0].project.weight.data *= 40

    with pytest.warns(UserWarning, match="layer 0, head . has a logit|layer 0, head") as caught:
        train(Steep, AttentionLogger(layers=[0]), max_steps=12)
    messages = [str(w.message) for w in caught if "layer 0" in str(w.message)]
    assert len(messages) == 1
    assert messages[0].startswith("step 4: the attention of layer 0, head ")
    train(Steep, AttentionLogger(warn_logit_above=None, warn_entropy_below=None))  # warnings are errors


def test_a_kernel_outside_pytorch_is_named_once(train, tiny):
    class ExternalAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(8, 8)

        def forward(self, x):
            with torch._C.DisableTorchFunction():
                return F.scaled_dot_product_attention(*3 * [self.project(x)[:, None]], is_causal=True)[:, 0]

    class Model(tiny):
        def __init__(self):
            super().__init__()
            self.body = ExternalAttention()

    with pytest.warns(UserWarning, match="cannot see the attention of body in Model") as caught:
        trainer, _ = train(Model, AttentionLogger(), max_steps=8)
    assert len([w for w in caught if "AttentionLogger" in str(w.message)]) == 1
    assert not logged(trainer)


class HuggingFace(LightningModule):
    """GPT-2 as people wrap it, over rows that are padded at the left."""

    def __init__(self):
        super().__init__()
        config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=VOCAB, n_positions=16)
        self.model = GPT2LMHeadModel(config)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return self.model(input_ids, attention_mask=attention_mask, labels=labels)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)

    def train_dataloader(self):
        rows = torch.randint(1, VOCAB, (12, 12), generator=torch.Generator().manual_seed(0))
        mask = (torch.arange(12) >= torch.arange(12)[:, None] % 4).long()
        labels = torch.where(mask.bool(), rows, -100)
        items = [
            {"input_ids": r, "attention_mask": m, "labels": y}
            for r, m, y in zip(rows, mask, labels, strict=True)
        ]
        return DataLoader(items, batch_size=4)

    val_dataloader = train_dataloader


def test_hugging_face_models_with_left_padding(train):
    watcher = AttentionLogger(n_sequences=4)
    _, without = train(HuggingFace, val_check_interval=3)
    trainer, with_it = train(HuggingFace, watcher, val_check_interval=3)
    assert torch.equal(without, with_it)
    trained = trainer.lightning_module.model
    model = AutoModelForCausalLM.from_config(trained.config, attn_implementation="eager").eval()
    model.load_state_dict(trained.state_dict())
    batch = next(iter(trainer.lightning_module.val_dataloader()))
    with torch.no_grad():
        maps = model(
            batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
        ).attentions
    visible = batch["attention_mask"].cumsum(1)
    counted = (visible >= 2)[:, None] & torch.ones(1, 2, 1, dtype=torch.bool)
    expected = [maps[1][:, h].amax(-1)[counted[:, h]].mean() for h in range(2)]
    found = [watcher.history[-1][f"attention/max_probability/layer1_head{h}"] for h in range(2)]
    assert found == pytest.approx([float(x) for x in expected], abs=1e-5)


def test_history_and_example_go_on_after_a_resume(train, tiny, tmp_path):
    first, second = AttentionLogger(), AttentionLogger()
    trainer, _ = train(tiny, first, max_steps=8)
    trainer.save_checkpoint(tmp_path / "half.ckpt")

    class OtherData(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch if self.trainer.training else {name: x.flip(1) for name, x in batch.items()}

    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    options |= {
        "logger": False,
        "enable_checkpointing": False,
        "val_check_interval": 4,
        "log_every_n_steps": 4,
    }
    resumed = Trainer(max_steps=12, callbacks=[second], **options)
    resumed.fit(OtherData(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert second.history[:3] == first.history
    assert [entry["step"] for entry in second.history] == [0, 4, 8, 12]
    assert second.view.tokens == first.view.tokens


def test_a_long_training_keeps_every_second_look(train, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_seq.callbacks.attention._MOST_KEPT", 4)
    watcher = AttentionLogger(every_n_steps=1, page=False)
    train(tiny, watcher, max_steps=7)
    assert [entry["step"] for entry in watcher.history] == [0, 4, 6, 7]
    assert pixels(watcher.training_figure()).size
    train(tiny, AttentionLogger(1, page=False), max_steps=30, logger=CSVLogger(tmp_path, "", ""))
    drawn = sorted(path.name[-10:-4] for path in (tmp_path / "figures").glob("attention_heads-*"))
    assert drawn == ["000000", "000004", "000016", "000029"]  # by looks, of which most were dropped


def test_before_the_first_look_there_is_nothing_to_show():
    watcher = AttentionLogger()
    for show in (watcher.figure, watcher.map_figure, watcher.training_figure, watcher.page):
        with pytest.raises(InputError, match="has seen nothing yet: give it to a Trainer that validates"):
            show()
    assert watcher.summary() == "none was seen"


def test_looks_at_the_first_row_of_the_first_batch_as_it_is_every_time(train, tiny):
    seen = []

    class Watched(tiny):
        def forward(self, tokens):
            if len(tokens) == 1:
                seen.append((tokens.clone(), self.training))
            return super().forward(tokens)

    trainer, _ = train(Watched, AttentionLogger(max_tokens=5), max_steps=8)
    expected = trainer.lightning_module.val_dataloader().dataset[0]["inputs"][None, :5]
    assert len(seen) == 3  # the start and two validations, and not the sanity check
    assert all(torch.equal(tokens, expected) and not training for tokens, training in seen)


@pytest.mark.parametrize("wrap", [lambda b: b["inputs"], lambda b: (b["inputs"], 1), lambda b: [b["inputs"]]])
def test_takes_the_batches_of_others(train, tiny, wrap):
    class Others(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return wrap(batch) if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    trainer, _ = train(Others, AttentionLogger())
    assert "attention/entropy" in trainer.callback_metrics


def test_unknown_batches_and_failing_models_end_no_training(train, tiny):
    class Odd(tiny):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return {"words": batch} if not self.trainer.training else batch

        def validation_step(self, batch, batch_idx):
            pass

    class TwoInputs(tiny):
        def forward(self, tokens, more=None):
            if len(tokens) == 1:
                raise TypeError("missing an input")
            return super().forward(tokens)

    for model, reason in ((Odd, "got dict"), (TwoInputs, "missing an input")):
        with pytest.warns(UserWarning, match=reason) as warnings:
            train(model, AttentionLogger(), max_steps=8)
        assert len([w for w in warnings if "AttentionLogger" in str(w.message)]) == 1


def test_what_cannot_be_drawn_ends_no_training(train, tiny, tmp_path):
    class Clumsy(AttentionLogger):
        def pictures(self):
            raise ZeroDivisionError("no ink")

    with pytest.warns(UserWarning, match="Clumsy cannot show what it found.*no ink") as warnings:
        trainer, _ = train(tiny, Clumsy(), max_steps=8, logger=CSVLogger(tmp_path, "", ""))
    assert trainer.global_step == 8
    assert len([w for w in warnings if "Clumsy" in str(w.message)]) == 1


def test_works_in_validation_alone(train, tiny, tmp_path):
    trainer, _ = train(tiny, AttentionLogger(), limit_val_batches=0, val_check_interval=1.0)
    trainer.limit_val_batches = 1
    (metrics,) = trainer.validate(trainer.lightning_module, verbose=False)
    assert 0 < metrics["attention/entropy"] <= 1


def test_no_validation_no_pictures(train, tmp_path):
    train(BoringModel, AttentionLogger(), limit_val_batches=0, val_check_interval=1.0)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks
def test_compiled_models_train_the_same_and_are_not_compiled_again(train, tiny):
    def make():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = tiny()
        model.body.compile(backend="eager")
        return model

    _, without = train(make)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trainer, with_it = train(make, AttentionLogger())
    assert "attention/entropy" in trainer.callback_metrics
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0
    assert torch.equal(without, with_it)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 1}, "max_tokens is 1: give 2 or more"),
        ({"n_sequences": 0}, "n_sequences is 0: give 1 or more"),
        ({"every_n_steps": 0}, "every_n_steps is 0: give 1 or more"),
        ({"layers": []}, r"layers is \[\]: give numbers from 0 on"),
        ({"heads": [-1]}, r"heads is \[-1\]: give numbers from 0 on"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AttentionLogger(**options)
