import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lightning_seq.data.encoding import encode
from lightning_seq.data.tokenizers import (
    UNKNOWN,
    build_tokenizer,
    byte_symbols,
    characters_per_token,
    kind_of,
    load_tokenizer,
    vocabulary_size,
)
from lightning_seq.errors import InputError

NASTY = (
    "two  spaces\n\n\ttab\r\ncrlf <unk> <eos> <|endoftext|> ĠĊ é ü 漢字 🙂👨‍👩‍👧 \u2028\xa0\u0301\0 end \n"
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def bpe(text=NASTY * 3, size=300):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def encoded(tokenizer, text):
    ((_, ids),) = encode(tokenizer, [text])
    return ids.tolist()


def test_byte_symbols_are_the_byte_level_alphabet():
    assert set(byte_symbols()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(byte_symbols()) == 256


@given(texts)
def test_bytes_round_trip_any_text_and_are_its_utf8(text):
    tokenizer = build_tokenizer("byte", [])
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode("utf-8")) == encoded(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(texts.map(lambda text: text + NASTY))
def test_characters_round_trip_their_own_text(text):
    tokenizer = build_tokenizer("character", [text])
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text)
    assert ids == encoded(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(texts, texts)
def test_unknown_characters_become_one_unknown_token_each(known, other):
    tokenizer = build_tokenizer("character", [known])
    ids = tokenizer.encode(other).ids
    assert ids == encoded(tokenizer, other)
    expected = "".join(c if c in set(known) else UNKNOWN for c in other)
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected
    assert tokenizer.token_to_id(UNKNOWN) == 0


def test_a_custom_tokenizer_is_encoded_as_it_does_itself():
    tokenizer = bpe()
    documents = [NASTY, "", "abc " * 50, *("x" * i for i in range(600))]
    for text, (same, ids) in zip(documents, encode(tokenizer, documents), strict=True):
        assert same == text
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_no_special_tokens_are_added():
    tokenizer = bpe()
    tokenizer.add_special_tokens(["<bos>"])
    special = [("<bos>", tokenizer.token_to_id("<bos>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=special)
    assert tokenizer.encode("abc").ids[0] == special[0][1]
    assert encoded(tokenizer, "abc") == tokenizer.encode("abc").ids[1:]


def test_the_character_vocabulary_does_not_depend_on_the_order_of_texts():
    one, other = build_tokenizer("character", ["ab", "cd"]), build_tokenizer("character", ["dcba"])
    assert one.to_str() == other.to_str()
    assert vocabulary_size(one) == 5


@pytest.mark.parametrize("kind", ["byte", "character"])
def test_kind_survives_saving(kind):
    tokenizer = Tokenizer.from_str(build_tokenizer(kind, ["abc"]).to_str())
    assert kind_of(tokenizer) == kind


def test_other_tokenizers_are_custom():
    assert kind_of(bpe()) == "custom"
    assert kind_of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) == "custom"
    with_special = build_tokenizer("byte", [])
    with_special.add_special_tokens(["<eos>"])
    assert kind_of(with_special) == "custom"
    fusing = Tokenizer(models.BPE({UNKNOWN: 0, "a": 1}, [], unk_token=UNKNOWN, fuse_unk=True))
    assert kind_of(fusing) == "custom"


@given(texts)
def test_characters_per_token_sum_to_the_length_of_the_text(text):
    for tokenizer in (build_tokenizer("byte", []), build_tokenizer("character", ["abc"]), BPE):
        counts = characters_per_token(tokenizer)
        assert counts.dtype == torch.int64
        assert counts.shape == (vocabulary_size(tokenizer),)
        assert counts[np.array(tokenizer.encode(text).ids, dtype=np.int64)].sum() == len(text)


BPE = bpe()


def test_characters_per_token_of_added_tokens_and_of_words():
    tokenizer = bpe()
    tokenizer.add_tokens([AddedToken("<é>", special=True)])
    assert characters_per_token(tokenizer)[tokenizer.token_to_id("<é>")] == 3
    assert characters_per_token(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) is None


def test_loads_a_tokenizer_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    bpe().save(str(path))
    assert load_tokenizer(path).to_str() == bpe().to_str()


def test_loads_the_tokenizer_of_a_checkpoint(tmp_path):
    tokenizer = build_tokenizer("character", ["abc"])
    path = tmp_path / "last.ckpt"
    torch.save({"lightning_seq": {"tokenizer": tokenizer.to_str()}, "state_dict": {"w": torch.ones(3)}}, path)
    assert load_tokenizer(path).to_str() == tokenizer.to_str()


def test_refuses_what_holds_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"no tokenizer at .*tokeniser\.json.* \(did you mean .*tokenizer"):
        load_tokenizer(tmp_path / "tokeniser.json")
    with pytest.raises(InputError, match="does not describe a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="carries no tokenizer"):
        load_tokenizer(tmp_path / "other.ckpt")
    whole = (tmp_path / "other.ckpt").read_bytes()
    (tmp_path / "broken.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"broken\.ckpt .* is no whole checkpoint"):
        load_tokenizer(tmp_path / "broken.ckpt")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path / "binary.json")


def test_refuses_an_unknown_kind():
    with pytest.raises(InputError, match=r"'charcter' \(did you mean 'character'\?\)"):
        build_tokenizer("charcter", [])
