"""LanguageModel: equal to a plain loop, state carried as the data says, checkpoints that know themselves."""

import json
import re
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import lightning_seq
from lightning_seq.errors import InputError
from lightning_seq.models import (
    GRULanguageModel,
    LanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    TransformerLanguageModel,
)
from lightning_seq.networks import GRU
from lightning_seq.networks.base import IGNORE_INDEX, detach
from tests.models.training import SMALL, VOCAB, Batches, build, lanes, trainer


@pytest.mark.parametrize("cls", SMALL)
def test_training_equals_a_plain_loop_to_the_bit(cls):
    data = lanes()
    ours = build(cls)
    trainer(gradient_clip_val=0.5).fit(ours, data)

    plain = build(cls)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in plain.parameters() if p.dim() >= 2], "weight_decay": 0.01},
            {"params": [p for p in plain.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.95),
        fused=True,
    )
    state = plain.network.initial_state(4)
    for batch in data:
        logits, state = plain.network(batch["inputs"], state)
        state = detach(state)
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none").sum()
        loss = loss / batch["targets"].numel()
        optimizer.zero_grad()
        loss.backward()
        ordered = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(ordered, 0.5)  # in the order in which Lightning sums up
        optimizer.step()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_state_is_carried_where_the_data_says_so_and_nowhere_else():
    seen = []

    class Spy(LSTMLanguageModel):
        def __init__(self, *args):
            super().__init__(*args)
            self.network.register_forward_pre_hook(self._look)

        def _look(self, network, args):
            seen.append(None if args[1] is None else args[1][0].abs().sum((1, 2)) > 0)

    data = lanes(steps=3)
    data.batches[2]["continues"] = torch.tensor([True, False, True, True])
    torch.manual_seed(0)
    trainer(max_steps=3).fit(Spy(VOCAB, 8, 8), data)
    assert seen[0].tolist() == [False] * 4
    assert seen[1].tolist() == [True] * 4
    assert seen[2].tolist() == [True, False, True, True]
    seen.clear()
    trainer(max_steps=3).fit(Spy(VOCAB, 8, 8), lanes(steps=3, continues=False))
    assert seen == [None] * 3


def test_validation_between_steps_leaves_the_training_state_alone():
    runs = []
    for validate in (True, False):
        model = build(LSTMLanguageModel)
        settings = {"val_check_interval": 2} if validate else {"limit_val_batches": 0}
        trainer(**settings).fit(model, lanes(), lanes(seed=9))
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*runs)


@pytest.mark.parametrize("cls", SMALL)
def test_metrics_are_those_of_the_whole_text(cls):
    model, data = build(cls), lanes(steps=3, continues=False)
    data.batches[-1]["targets"] = data.batches[-1]["targets"].clone()
    data.batches[-1]["targets"][1:, 2:] = IGNORE_INDEX  # a ragged end must not weigh as much as a full batch
    metrics = trainer().validate(model, data, verbose=False)[0]
    logits = torch.cat([model.network(b["inputs"])[0] for b in data])
    targets = torch.cat([b["targets"] for b in data])
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
    assert metrics["val_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["val_perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)


def test_evaluation_carries_state_over_the_whole_text():
    model, data = build(GRULanguageModel), lanes(steps=4)
    loss = trainer().test(model, data, verbose=False)[0]["test_loss"]
    inputs = torch.cat([b["inputs"] for b in data], 1)
    nll, _ = model.network.eval()(inputs, None, torch.cat([b["targets"] for b in data], 1))
    assert loss == pytest.approx(nll.mean().item(), rel=1e-5)


def test_predict_gives_the_loss_of_every_token():
    model, data = build(LSTMLanguageModel), lanes(steps=2, continues=False)
    predicted = trainer().predict(model, data)
    model.eval()
    for batch, nll in zip(data, predicted, strict=True):
        torch.testing.assert_close(nll, model.network(batch["inputs"], None, batch["targets"])[0])


@pytest.mark.parametrize("cls", SMALL)
def test_one_batch_can_be_learnt_by_heart(cls):
    batch = lanes(steps=1, continues=False).batches
    model = build(cls, learning_rate=0.03)
    run = trainer(max_steps=150)
    run.fit(model, Batches(batch * 150))
    assert run.callback_metrics["train_loss"] < 0.5


def test_logs_only_at_log_steps():
    logged = []

    class Spy(LSTMLanguageModel):
        def log_dict(self, figures, **kwargs):
            logged.append((list(figures), self.global_step))
            super().log_dict(figures, **kwargs)

    torch.manual_seed(0)
    trainer(max_steps=6, log_every_n_steps=3).fit(Spy(VOCAB, 8, 8), lanes())
    names = ["train_loss", "tokens_per_second"]
    assert logged == [(names, 3), (names, 6)]


def test_the_logged_loss_is_that_of_the_steps_since_the_last_log():
    model = build(LSTMLanguageModel, learning_rate=1e-12)
    run = trainer(max_steps=4, log_every_n_steps=4)
    run.fit(model, lanes())
    model.eval()
    expected = torch.cat(
        [model.network(b["inputs"], None, b["targets"])[0] for b in lanes(continues=False)][:4]
    )
    assert run.callback_metrics["train_loss"].item() == pytest.approx(expected.mean().item(), rel=1e-2)


class Mean(nn.Module):
    """A network of a user's: it ignores targets and keeps no state."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size)

    def forward(self, tokens, state=None, targets=None):
        steps = torch.arange(1, tokens.size(1) + 1)[:, None]
        return self.linear(self.embedding(tokens).cumsum(1) / steps), None


class MeanLanguageModel(LanguageModel):
    def __init__(self, vocab_size: int, **kwargs):
        super().__init__(Mean(vocab_size), **kwargs)
        self.save_hyperparameters()


def test_a_users_network_may_ignore_targets_and_state():
    torch.manual_seed(0)
    model = MeanLanguageModel(VOCAB, learning_rate=0.02)
    first = trainer().validate(model, lanes(), verbose=False)[0]["val_loss"]
    trainer(max_steps=60).fit(model, Batches(lanes().batches * 10))
    assert trainer().validate(model, lanes(), verbose=False)[0]["val_loss"] < first


def letters():
    from lightning_seq.data.tokenization.tokenizers import build_tokenizer

    return build_tokenizer("character", ["abcdefghijkl"])  # 12 and the unknown one


@pytest.mark.parametrize("cls", SMALL)
def test_a_checkpoint_knows_its_class_and_tokenizer(cls, tmp_path):
    model = build(cls, learning_rate=0.02, warmup_steps=1)
    model.tokenizer = letters()
    run = trainer()
    run.fit(model, lanes())
    run.save_checkpoint(tmp_path / "a.ckpt")
    loaded = lightning_seq.load(tmp_path / "a.ckpt")
    assert type(loaded) is cls
    assert not loaded.training
    assert loaded.hparams == model.hparams
    assert loaded.learning_rate == 0.02
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    text = loaded.generate("abc", max_new_tokens=9, seed=0)
    assert text == model.generate("abc", max_new_tokens=9, seed=0)
    assert text.startswith("abc")
    assert len(text) == 12


def test_a_class_of_somebody_elses_is_imported_only_when_trusted(tmp_path, monkeypatch):
    module = tmp_path / "stranger_module.py"
    module.write_text(
        "from lightning_seq.models import LSTMLanguageModel\nclass Stranger(LSTMLanguageModel):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import stranger_module

    model = stranger_module.Stranger(VOCAB, 8, 8)
    run = trainer(max_steps=1)
    run.fit(model, lanes())
    path = tmp_path / "stranger.ckpt"
    run.save_checkpoint(path)
    assert type(lightning_seq.load(path)) is stranger_module.Stranger  # imported by the program: known
    monkeypatch.delitem(sys.modules, "stranger_module")
    with pytest.raises(InputError, match=r"written by stranger_module\.Stranger, .* say trust=True"):
        lightning_seq.load(path)
    assert "stranger_module" not in sys.modules
    assert type(lightning_seq.load(path, trust=True)).__name__ == "Stranger"


def test_broken_checkpoints_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*missing\.ckpt"):
        lightning_seq.load(tmp_path / "missing.ckpt")
    run = trainer(max_steps=1)
    run.fit(build(LSTMLanguageModel), lanes())
    whole = tmp_path / "whole.ckpt"
    run.save_checkpoint(whole)
    cut = tmp_path / "cut.ckpt"
    for share in (0.0, 0.1, 0.5, 0.99):
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        with pytest.raises(InputError, match=r"cut\.ckpt .* is no whole checkpoint"):
            lightning_seq.load(cut)
    torch.save({"weights": 1}, cut)
    with pytest.raises(InputError, match="it has no state_dict"):
        lightning_seq.load(cut)
    torch.save({"state_dict": {}, "bomb": Mean(3)}, cut)  # a pickled class: never unpickled
    with pytest.raises(InputError, match="hold more than tensors and plain values"):
        lightning_seq.load(cut)
    torch.save({"state_dict": {}}, cut)
    with pytest.raises(InputError, match="does not say which class wrote it"):
        lightning_seq.load(cut)


def test_a_model_without_a_tokenizer_goes_on_from_ids():
    model = build(LSTMLanguageModel)
    text = model.generate("3 1 12", max_new_tokens=4, seed=0)
    assert text.startswith("3 1 12 ")
    assert len(text.split()) == 7
    for prompt in ("a", "3 13"):
        with pytest.raises(InputError, match="has no tokenizer: give ids from 0 to 12"):
            model.generate(prompt)


class Data(pl.LightningDataModule):
    """As much of a DataModule as a model looks at."""

    def __init__(self, vocab_size=VOCAB, context_length=8):
        super().__init__()
        self.vocab_size, self.context_length, self.adopted = vocab_size, context_length, None
        self.tokenizer, self.characters_per_token = letters(), torch.ones(vocab_size, dtype=torch.long)

    def adopt_tokenizer(self, content):
        self.adopted = content

    def train_dataloader(self):
        return lanes()

    def val_dataloader(self):
        return lanes(seed=1)

    test_dataloader = val_dataloader


def test_the_checkpoints_tokenizer_goes_to_the_data(tmp_path):
    model, data, run = build(GRULanguageModel), Data(), trainer(limit_val_batches=1)
    run.fit(model, data)
    assert isinstance(model.tokenizer, Tokenizer)
    assert data.adopted is None
    run.save_checkpoint(tmp_path / "a.ckpt")
    for act in ("fit", "validate", "test"):
        data = Data()
        getattr(trainer(), act)(
            build(GRULanguageModel), data, ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )
        assert json.loads(data.adopted) == json.loads(letters().to_str())
    data = Data()
    trainer().test(lightning_seq.load(tmp_path / "a.ckpt"), data, verbose=False)
    assert data.adopted is not None


def test_bits_per_character_are_logged_where_characters_are_known():
    metrics = trainer().validate(build(GRULanguageModel), Data(), verbose=False)[0]
    assert metrics["val_bits_per_character"] == pytest.approx(metrics["val_loss"] / 0.6931472, rel=1e-5)


def test_data_that_does_not_fit_the_model_is_refused_before_training():
    with pytest.raises(InputError, match=r"data\.vocab_size is 14 and the model's vocab_size is 13"):
        trainer().fit(build(GRULanguageModel), Data(vocab_size=14))
    with pytest.raises(InputError, match=r"data\.context_length is 33 and the model's context_length is 32"):
        trainer().fit(build(TransformerLanguageModel), Data(context_length=33))


class Packed(Data):
    """Documents that are to be kept apart; with "blocks", several share a row."""

    def __init__(self, batching="blocks"):
        super().__init__()
        self.batching, self.separate_documents = batching, True


RECURRENT = [cls for cls in SMALL if cls is not TransformerLanguageModel]


@pytest.mark.parametrize("cls", RECURRENT)
@pytest.mark.parametrize("act", ["fit", "validate", "test"])
def test_data_of_packed_documents_are_refused_by_networks_that_would_mix_them(cls, act):
    model = build(cls)
    name = type(model.network).__name__
    line = (
        f"data.separate_documents is true with batching 'blocks', and {name} cannot keep documents in one "
        'row apart (its forward has no document_ids): give data.batching "contiguous"'
    )
    with pytest.raises(InputError, match=re.escape(line)):
        getattr(trainer(), act)(model, Packed())
    trainer(max_steps=1).fit(build(cls), Packed("contiguous"))


@pytest.mark.parametrize("act", ["fit", "validate", "test", "predict"])
def test_a_batch_of_packed_documents_is_refused_where_they_would_mix(act):
    batch = {**lanes(continues=False).batches[0], "document_ids": torch.zeros(4, 8, dtype=torch.long)}
    with pytest.raises(InputError, match="the batch has document_ids, and MinGRU cannot keep documents"):
        getattr(trainer(), act)(build(MinGRULanguageModel), Batches([batch]))
    getattr(trainer(max_steps=1), act)(build(TransformerLanguageModel), Batches([batch]))


@pytest.mark.slow
def test_the_other_namespaces_trainer_is_named(tmp_path):
    code = (
        "import pytorch_lightning as pl\n"
        "from lightning_seq.models import GRULanguageModel\n"
        "pl.Trainer(logger=False, accelerator='cpu').fit(GRULanguageModel(5, 4, 4))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert "GRULanguageModel is a module of lightning.pytorch and was handed to pytorch_lightning" in line
    assert "`import lightning.pytorch as pl`" in line


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("cls", SMALL)
def test_other_precisions_train(cls, precision):
    run = trainer(precision=precision, gradient_clip_val=1.0)
    run.fit(build(cls), lanes(), lanes(seed=1))
    assert torch.isfinite(run.callback_metrics["train_loss"])


def test_accumulation_logs_once_a_step():
    run = trainer(max_steps=3, accumulate_grad_batches=2, log_every_n_steps=1)
    model = build(LSTMLanguageModel)
    run.fit(model, lanes())
    assert model.global_step == 3
    assert torch.isfinite(run.callback_metrics["train_loss"])


def test_a_learning_rate_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="learning_rate is 0"):
        build(LSTMLanguageModel, learning_rate=0)


def test_no_logging_is_no_error():
    run = trainer(log_every_n_steps=0)
    run.fit(build(LSTMLanguageModel), lanes())
    assert "train_loss" not in run.callback_metrics


def test_weights_that_diverged_write_nothing_and_say_so():
    model = build(TransformerLanguageModel)
    model.tokenizer = letters()
    torch.nn.init.constant_(model.network.embedding.weight, float("nan"))
    with pytest.raises(InputError, match="its weights have diverged"):
        model.generate("abc")


def test_a_batch_that_cannot_continue_the_one_before_is_refused():
    data = lanes(steps=2)
    data.batches[1] = {name: value[:2] for name, value in data.batches[1].items()}
    with pytest.raises(InputError, match="a batch of 2 lanes cannot continue one of 4"):
        trainer(max_steps=2).fit(build(LSTMLanguageModel), data)


def test_a_tokenizer_of_another_library_is_left_alone():
    data = Data()
    data.tokenizer = "gpt2"
    model = build(GRULanguageModel)
    trainer().validate(model, data, verbose=False)
    assert model.tokenizer is None


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ((torch.zeros(4, 8, dtype=torch.long),) * 2, "a tuple"),
        (torch.zeros(4, 8, dtype=torch.long), "a Tensor"),
        ({"inputs": torch.zeros(4, 8, dtype=torch.long)}, "a dict of 'inputs', no tensor targets in it"),
        ({"input_ids": torch.zeros(4, 8)}, "a dict of 'input_ids', no tensor inputs and targets in it"),
    ],
)
@pytest.mark.parametrize("act", ["fit", "validate", "test", "predict"])
def test_a_batch_of_another_kind_is_named(act, batch, got):
    with pytest.raises(InputError, match=f"LSTMLanguageModel got a batch that is {got}: a batch must be"):
        getattr(trainer(), act)(build(LSTMLanguageModel), Batches([batch]))


@pytest.mark.parametrize(
    ("value", "got"), [(None, "None"), (torch.ones(3), r"a tensor \(3,\)"), ("a", "'a'")]
)
def test_an_extra_loss_that_is_no_number_is_named(value, got):
    class Odd(LSTMLanguageModel):
        def extra_loss(self, batch):
            return value

    with pytest.raises(InputError, match=f"extra_loss of Odd returned {got}: return one number"):
        trainer().fit(build_as(Odd), lanes())


def build_as(cls):
    return cls(VOCAB, **SMALL[LSTMLanguageModel])


class Forgetful(LanguageModel):
    def __init__(self, size):
        super().__init__(GRU(VOCAB, size, size))


def test_a_class_that_did_not_save_its_hyperparameters_is_told_so(tmp_path):
    run = trainer(max_steps=1)
    run.fit(Forgetful(8), lanes())
    run.save_checkpoint(tmp_path / "some.ckpt")
    with pytest.raises(InputError, match=r"call self.save_hyperparameters\(\) in Forgetful.__init__") as told:
        lightning_seq.load(tmp_path / "some.ckpt")
    assert "\n" not in str(told.value)
