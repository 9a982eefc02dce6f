import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_seq.data import SequenceDataModule
from lightning_seq.data.tokenization.tokenizers import build_tokenizer, kind_of
from lightning_seq.errors import InputError

TEXT = "hello world, " * 100


class Scorer(LightningModule):
    """Counts the targets that it is asked to score."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.targets = 0

    def training_step(self, batch, batch_idx):
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        self.targets += int((batch["targets"] != -100).sum())

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)
        return 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_vocabulary_is_known_before_anything_is_set_up(list_data):
    assert list_data("abca").vocab_size == 4
    assert list_data("abca", tokenizer="byte").vocab_size == 256
    assert list_data("abca").characters_per_token.tolist() == [1] * 4


def test_the_tokenizer_is_cached_whole_and_a_damaged_one_made_anew(list_data, tmp_path, monkeypatch):
    first = list_data("abca").tokenizer.to_str()
    (file,) = (tmp_path / "cache" / "tokenizers").iterdir()
    monkeypatch.setattr(
        "lightning_seq.data.tokenization.vocabulary.build_tokenizer", lambda *_: pytest.fail("made again")
    )
    assert list_data("abca").tokenizer.to_str() == first
    monkeypatch.undo()
    file.write_text(first[:40])
    assert list_data("abca").tokenizer.to_str() == first
    assert file.read_text(encoding="utf-8") == first


def test_bad_arguments_are_named(list_data):
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        list_data("abc", batch_size=0)
    with pytest.raises(InputError, match="context_length is -3"):
        list_data("abc", context_length=-3)
    with pytest.raises(InputError, match="seed is -1; it must be at least 0"):
        list_data("abc", seed=-1)
    with pytest.raises(InputError, match=r"batching is 'block' \(did you mean 'blocks'\?\)"):
        list_data("abc", batching="block")
    with pytest.raises(InputError, match=r"unknown tokenizer 'charakter' \(did you mean 'character'\?\)"):
        list_data("abc", tokenizer="charakter")
    with pytest.raises(InputError, match=r"no tokenizer at 'nowhere\.json'"):
        _ = list_data("abc", tokenizer="nowhere.json").vocab_size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": "4"}, r"batch_size is '4' \(str\); it must be an int, at least 1"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5 \(float\); it must be an int, at least 1"),
        ({"batch_size": True}, r"batch_size is True \(bool\); it must be an int"),
        ({"context_length": None}, r"context_length is None \(NoneType\); it must be an int, at least 1"),
        ({"seed": 0.5}, r"seed is 0\.5 \(float\); it must be an int, at least 0"),
        ({"num_proc": 0}, "num_proc is 0; it must be at least 1"),
        ({"tokenizer": "bpe", "max_vocab_size": "300"}, r"max_vocab_size is '300' \(str\)"),
        ({"tokenizer": 5}, r'tokenizer is 5 \(int\), no string; give "byte"'),
        ({"batching": None}, "batching is None; it must be one of"),
        ({"batching": "documents", "tokens_per_batch": 9.0}, r"tokens_per_batch is 9\.0 \(float\)"),
        ({"tokens_per_batch": 9}, "tokens_per_batch is 9 and batching 'contiguous'"),
    ],
)
def test_arguments_of_another_type_are_refused_at_once(list_data, options, said):
    with pytest.raises(InputError, match=said) as refusal:
        list_data("abc", **options)
    assert "\n" not in str(refusal.value)


def test_documents_is_all_that_a_subclass_must_have():
    with pytest.raises(TypeError, match=r"abstract method '?documents"):
        SequenceDataModule()


def test_only_plain_hyperparameters_are_kept(list_data, tmp_path):
    class Own(SequenceDataModule):
        def __init__(self, words, thing, **kwargs):
            super().__init__(**kwargs)

        def documents(self, split):
            return []

    data = Own(words=["a", {"b": 1}], thing=object(), batch_size=3, cache_dir=str(tmp_path))
    assert data.hparams["words"] == ["a", {"b": 1}]
    assert data.hparams["batch_size"] == 3
    assert "thing" not in data.hparams
    assert not data._log_hyperparams


def test_a_text_too_short_to_train_on(list_data):
    with pytest.raises(InputError, match="the training text has 3 tokens"):
        list_data("abc").train_dataloader()


@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
def test_the_seed_orders_training(list_data, batching):
    options = {"batching": batching, "batch_size": 3, "context_length": 30}
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    loaders = [list_data(text, seed=seed, **options).train_dataloader() for seed in (0, 0, 1)]
    first, same, other = ([batch["inputs"].tolist() for batch in loader] for loader in loaders)
    assert first == same != other


def test_a_split_without_text(list_data):
    data = list_data("abc", validation="", test="")
    data.prepare_data()
    with pytest.raises(
        InputError, match=r"the validation split of ListDataModule has 0 tokens.*limit_val_batches=0"
    ):
        data.val_dataloader()
    with pytest.raises(InputError, match=r"the test split .*limit_test_batches=0"):
        data.test_dataloader()


@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
def test_every_target_is_scored_once_by_every_loop(list_data, quiet_trainer, batching):
    data = list_data(TEXT, TEXT[:333], TEXT[:444], batching=batching, batch_size=4, context_length=10)
    for loop, targets in (("validate", 332), ("test", 443), ("predict", 443)):
        model = Scorer()
        getattr(quiet_trainer(), loop)(model, data)
        assert model.targets == targets


def test_training_says_what_the_text_is(list_data, quiet_trainer, caplog):
    data = list_data(TEXT, TEXT[:333], tokenizer="byte", batch_size=4, context_length=10)
    caplog.set_level("INFO", "lightning.pytorch")
    quiet_trainer(max_steps=1).fit(Scorer(), data)
    (said,) = [record.getMessage() for record in caplog.records if "data:" in record.getMessage()]
    assert "ListDataModule, sha256 " in said
    assert "train 1,300 characters, validation 333, test 7" in said
    assert "vocabulary 256 (byte)" in said


def with_ranks(data, rank, world_size):
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        overfit_batches=0,
        state=SimpleNamespace(fn="validate"),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
def test_ranks_share_the_text(list_data, batching):
    text = "".join(chr(0x4E00 + i) for i in range(401))
    options = {"batching": batching, "batch_size": 2, "context_length": 10}
    ranks = [with_ranks(list_data(text, text, **options), rank, 3) for rank in range(3)]
    for loader in ("train_dataloader", "val_dataloader"):
        batches = [list(getattr(data, loader)()) for data in ranks]
        assert len({len(each) for each in batches}) == 1
        targets = torch.cat([batch["targets"].flatten() for each in batches for batch in each])
        targets = targets[targets != -100].tolist()
        assert len(targets) == len(set(targets)) == (360 if loader == "train_dataloader" else 400)


def test_the_same_text_is_tokenized_once(list_data, tmp_path):
    for _ in range(2):
        list_data(TEXT).prepare_data()
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 3
    list_data(TEXT, tokenizer="byte").prepare_data()
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 6


def decoded(data, loader):
    ids = [i for batch in loader for i in batch["targets"][batch["targets"] != -100].tolist()]
    return data.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("opened", [False, True])
def test_a_checkpoints_tokenizer_of_the_same_kind_wins(list_data, opened):
    data = list_data("abcabc", validation="cabbage", batch_size=1)
    if opened:
        data.prepare_data()
        with pytest.warns(UserWarning, match=r"28.6% of the tokens of the validation split"):
            assert decoded(data, data.val_dataloader()) == "abba\ufffd\ufffd"
    theirs = build_tokenizer("character", ["abcdefgh"])
    data.adopt_tokenizer(theirs.to_str())
    assert data.tokenizer.to_str() == theirs.to_str()
    assert data.vocab_size == 9
    assert decoded(data, data.val_dataloader()) == "abbage"


def test_a_checkpoints_tokenizer_of_another_kind_is_refused(list_data):
    theirs = build_tokenizer("byte", []).to_str()
    with pytest.raises(
        InputError, match="trained with a byte tokenizer and the data asks for 'character'; give"
    ):
        list_data("abc").adopt_tokenizer(theirs)
    list_data("abc", tokenizer="byte").adopt_tokenizer(theirs)
    with pytest.raises(InputError, match="does not describe a tokenizer"):
        list_data("abc").adopt_tokenizer("{}")


def test_a_tokenizer_file_stands_for_itself_alone(list_data, tmp_path):
    own, other = build_tokenizer("character", ["abc"]), build_tokenizer("character", ["abd"])
    own.save(str(tmp_path / "own.json"))
    torch.save({"state_dict": {}, "lightning_seq": {"tokenizer": own.to_str()}}, tmp_path / "own.ckpt")
    for file in ("own.json", "own.ckpt"):
        data = list_data("abc", tokenizer=str(tmp_path / file))
        assert kind_of(data.tokenizer) == "character"
        data.adopt_tokenizer(own.to_str())
        with pytest.raises(
            InputError, match=rf"another tokenizer \(character, 4 ids\) than '.*{file}'; give"
        ):
            data.adopt_tokenizer(other.to_str())


def test_documents_do_not_run_together(list_data):
    data = list_data("")
    data.texts["validation"] = ["one", "", "two\n", "three"]
    data.texts["train"] = ["\nehnorptw"]
    assert decoded(data, data.val_dataloader()) == "ne\ntwo\nthree"


def test_is_a_datamodule_whose_state_is_plain(list_data):
    data = list_data(TEXT, batch_size=4, context_length=10)
    assert isinstance(data, LightningDataModule)
    assert data.state_dict() == {}
    next(iter(data.train_dataloader()))
    state = data.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["epoch"], state["position"]) == (0, 1)
