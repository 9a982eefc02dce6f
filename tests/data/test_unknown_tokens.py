"""Unknown tokens are counted, warned of from one in a hundred, and refused beyond one in two."""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from lightning_seq.callbacks import SampleLogger
from lightning_seq.data import TokenDataModule
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.metrics import TextLoss
from lightning_seq.models import LSTMLanguageModel
from lightning_seq.prompts import unknown_token

SMALL = {"batch_size": 2, "context_length": 8}
LATIN = "abc de fgh\n" * 40
GREEK = "αβγ δε ζηθ\n" * 40


def mixed(unknown):
    """Returns 1,000 characters of which so many are Greek."""
    return "α" * unknown + "a" * (1000 - unknown)


def of_file(tmp_path, model, pre_tokenizer=None):
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def model_of(data, **options):
    torch.manual_seed(0)
    return LSTMLanguageModel(data.vocab_size, embedding_dim=8, hidden_size=8, **options)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), ("[UNK]", 1)),
        (models.WordLevel({"a": 0}, unk_token="[UNK]"), None),  # refuses what it does not know
        (models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), ("[UNK]", 1)),
        (models.Unigram([("<u>", 0.0), ("a", -1.0)], unk_id=0), ("<u>", 0)),
        (models.BPE({"<u>": 0, "a": 1}, [], unk_token="<u>"), ("<u>", 0)),
        (models.BPE({"a": 0}, []), None),
        (
            models.BPE(
                {"<u>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}},
                [],
                unk_token="<u>",
                byte_fallback=True,
            ),
            None,
        ),
    ],
)
def test_what_a_ready_made_tokenizer_does_not_know(model, expected):
    assert unknown_token(Tokenizer(model)) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("character", ("\ufffd", 0)), ("word", ("<unk>", 0)), ("byte", None), ("bpe", None)],
)
def test_what_a_tokenizer_of_our_making_does_not_know(kind, expected):
    assert unknown_token(build_tokenizer(kind, [LATIN])) == expected


def test_names_of_ids_are_no_text():
    assert unknown_token(names_tokenizer(["a", "b"])) is None
    data = TokenDataModule([[0, 1, 0, 1]], names=["<unk>", "a"])
    assert data.unknown_token is None


@pytest.mark.parametrize("unknown", [0, 9, 10, 300, 500])
def test_one_in_a_hundred_is_warned_of(list_data, unknown):
    data = list_data("abc", validation=mixed(unknown))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.val_dataloader()
    said = [str(each.message) for each in caught]
    assert len(said) == (unknown >= 10)
    if said:
        assert f"{unknown / 10:.1f}% of the tokens of the validation split of ListDataModule are" in said[0]
        assert '"byte" or "bpe"' in said[0]
        assert "\n" not in said[0]


@pytest.mark.parametrize(("split", "unknown"), [("validation", 501), ("test", 1000)])
def test_a_text_that_is_mostly_unknown_is_refused(list_data, split, unknown):
    data = list_data("abc", **{split: mixed(unknown)})
    loader = data.val_dataloader if split == "validation" else data.test_dataloader
    with pytest.raises(InputError, match=f"{unknown / 10:.1f}% of the tokens of the {split} split"):
        loader()


def test_a_training_on_what_the_tokenizer_does_not_know_is_refused(list_data, tmp_path, quiet_trainer):
    known = build_tokenizer("character", [LATIN])
    known.save(str(tmp_path / "latin.json"))
    data = list_data(GREEK, tokenizer=str(tmp_path / "latin.json"))
    with pytest.raises(InputError, match=r"train split .* train anew with a tokenizer made from this text"):
        quiet_trainer(max_steps=1).fit(model_of(data), data)


def test_a_tokenizer_that_comes_with_the_model_is_checked_too(list_data, quiet_trainer, caplog):
    caplog.set_level("INFO")
    data = list_data(GREEK)
    model = model_of(data)
    model.tokenizer = build_tokenizer("character", [LATIN])
    with pytest.raises(InputError, match="train split"):
        quiet_trainer(max_steps=1).fit(model, data)
    assert "unknown tokens (\ufffd): train 72.73%, validation 0.00%, test 0.00%" in caplog.text


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_what_knows_any_text_has_nothing_to_count(list_data, quiet_trainer, tokenizer):
    data = list_data(LATIN, validation=GREEK, tokenizer=tokenizer)
    found = quiet_trainer().validate(model_of(data), data, verbose=False)[0]
    assert "val_unknown_fraction" not in found


@pytest.mark.parametrize(
    ("tokenizer", "validation", "share"),
    [
        ("character", mixed(0), 0),
        ("character", "a" + "α" * 250 + "a" * 750, 0.25),
        ("word", "abc de fgh\n" * 5, 0),
        ("word", "abc de zebra fgh\n" * 20, 0.2),
    ],
)
def test_the_fraction_is_logged_wherever_there_is_an_unknown_token(
    list_data, quiet_trainer, tokenizer, validation, share
):
    data = list_data(LATIN, validation=validation, tokenizer=tokenizer, context_length=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = quiet_trainer().validate(model_of(data), data, verbose=False)[0]
    targets = len(data.tokenizer.encode(validation).ids) - 1
    assert found["val_unknown_fraction"] == pytest.approx(round(share * (targets + 1)) / targets)


def test_the_fraction_is_logged_for_a_file_of_wordpieces(list_data, quiet_trainer, tmp_path):
    pieces = models.WordPiece({"[UNK]": 0, "abc": 1, "de": 2, "fgh": 3}, unk_token="[UNK]")
    path = of_file(tmp_path, pieces, pre_tokenizers.WhitespaceSplit())
    data = list_data(LATIN, validation="abc de zebra fgh " * 25, tokenizer=path)
    with pytest.warns(UserWarning, match=r"25.0% of the tokens of the validation split .* '\[UNK\]'"):
        found = quiet_trainer().validate(model_of(data), data, verbose=False)[0]
    assert found["val_unknown_fraction"] == pytest.approx(25 / 99)


def test_ignored_targets_do_not_count():
    loss = TextLoss(unknown_id=0)
    loss.update(torch.ones(1, 4), torch.tensor([[0, 1, 2, -100]]))
    loss.update(torch.ones(1, 2), torch.tensor([[0, -100]]))
    assert loss.compute()["unknown_fraction"] == pytest.approx(2 / 4)


def test_the_summary_has_the_share_of_each_split(list_data, quiet_trainer, caplog):
    caplog.set_level("INFO")
    data = list_data(LATIN, validation=mixed(9), test=mixed(300), **SMALL)
    quiet_trainer(max_steps=1, limit_val_batches=1).fit(model_of(data), data)
    said = " ".join(caplog.text.split())
    assert "unknown tokens (\ufffd): train 0.00%, validation 0.90%, test 30.00%" in said


def test_what_the_text_itself_writes_so_is_counted_and_not_warned_of(list_data, quiet_trainer, caplog):
    caplog.set_level("INFO")
    text = "the <unk> sees the <unk>\n" * 20
    data = list_data(text, validation=text, tokenizer="word", **SMALL)
    run = quiet_trainer(max_steps=1, val_check_interval=1)
    run.fit(model_of(data), data)
    assert "unknown tokens (<unk>): train 33.33%, validation 33.33%" in " ".join(caplog.text.split())
    assert run.callback_metrics["val_unknown_fraction"].item() == pytest.approx(40 / 119)


# -- prompts and samples --------------------------------------------------------------------------


def certain_of_the_unknown(model):
    """Lets a model find its unknown token likeliest by far."""
    bias = next(p for p in model.network.parameters() if p.shape == (model.hparams.vocab_size,))
    with torch.no_grad():
        bias[unknown_token(model.tokenizer).id] = 1e4
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tokenizer", ["character", "word"])
def test_an_unknown_token_that_was_not_trained_on_is_never_sampled(
    list_data, quiet_trainer, tmp_path, tokenizer, temperature
):
    data = list_data(LATIN, validation=LATIN, tokenizer=tokenizer, **SMALL)
    model = model_of(data)
    run = quiet_trainer(max_steps=1)
    run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    loaded = LSTMLanguageModel.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for each in (model, loaded):
        written = certain_of_the_unknown(each).generate("abc", 20, temperature, seed=0)
        assert unknown_token(each.tokenizer).token not in written


def test_one_that_was_trained_on_is_sampled(list_data, quiet_trainer, tmp_path):
    text = "the cat sees the dog\n" * 20
    data = list_data(text, tokenizer="word", max_vocab_size=4, **SMALL)
    model = model_of(data)
    run = quiet_trainer(max_steps=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"of the train split"):
        run.fit(model, data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    loaded = LSTMLanguageModel.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for each in (model, loaded):
        assert certain_of_the_unknown(each).generate("the", 3, 0.0) == "the <unk> <unk> <unk>"


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "named"),
    [
        ("character", "abλcλ", "'λ'"),
        ("character", "ab\ufffdc", None),  # which it may well write itself
        ("word", "abc zebra\nyak fgh zebra", "'zebra', 'yak'"),
        ("word", "abc <unk> fgh", None),
        ("word", " ".join(f"w{i}" for i in range(9)), "'w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6', 'w7', ..."),
        ("byte", "λ", None),
    ],
)
def test_what_a_prompt_has_unknown_is_said_in_one_line(list_data, tokenizer, prompt, named):
    data = list_data(LATIN, tokenizer=tokenizer)
    model = model_of(data)
    model.tokenizer = data.tokenizer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.generate(prompt, 1)
    said = [str(each.message) for each in caught]
    assert [line for line in said if "\n" in line] == []
    assert len(said) == (named is not None)
    if named:
        assert f"lacks {named} of the prompt" in said[0]


@pytest.mark.parametrize(
    ("prompt", "starts", "said"),
    [("\n", "abc de fgh", "cannot read the prompt"), ("a\n", "a\ufffd", "lacks '\\n' of the prompt")],
)
def test_a_sample_goes_on_from_a_prompt_that_is_known(list_data, quiet_trainer, caplog, prompt, starts, said):
    caplog.set_level("INFO")
    text = LATIN.replace("\n", " ")
    data = list_data(text, validation=text, **SMALL)
    sampler = SampleLogger(prompt, max_new_tokens=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        quiet_trainer(max_steps=4, val_check_interval=2, callbacks=[sampler]).fit(model_of(data), data)
    assert sampler.last.startswith(starts[:8])
    assert (caplog.text + "".join(str(each.message) for each in caught)).count(said) == 1
