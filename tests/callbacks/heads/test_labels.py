from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_seq.callbacks.heads.canvas import font
from lightning_seq.callbacks.heads.labels import label, token_texts
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer

TEXT = "the cat sat on the mat\nand the cat ran, \tthe  end"
HALF = "\N{REPLACEMENT CHARACTER}"
SENTENCE_PIECES = ["<unk>", "▁", "▁▁", "▁the", "▁cat", "s", ".", "中", "<0x20>"]


def wordpiece() -> Tokenizer:
    words = ["[UNK]", "[SEP]", "the", "cat", "run", "##ning", "##s", "don", "'", "t", "."]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[SEP]"])
    return tokenizer


def metaspace() -> Tokenizer:
    """Of T5's kind."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in SENTENCE_PIECES[:-1]], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def byte_fallback(*more: str) -> Tokenizer:
    """Of Llama's kind."""
    pieces = {piece: i for i, piece in enumerate([*SENTENCE_PIECES[:-1], *more])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def ends_of_words() -> Tokenizer:
    """Of CLIP's kind."""
    pieces = {piece: i for i, piece in enumerate(["th", "e</w>", "cat</w>", "s", ".</w>"])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return tokenizer


MAKERS = {
    "character": lambda: build_tokenizer("character", [TEXT]),
    "word": lambda: build_tokenizer("word", [TEXT]),
    "names": lambda: names_tokenizer(["up", "down", "'s", "."]),
    "wordpiece": wordpiece,
    "metaspace": metaspace,
    "byte_fallback": byte_fallback,
    "ends_of_words": ends_of_words,
}
BYTE_LEVEL = {
    "byte": lambda: build_tokenizer("byte", []),
    "bpe": lambda: build_tokenizer("bpe", [TEXT, "é中🦜 é中🦜"], 300),
}


@cache
def made(kind: str) -> Tokenizer:
    return (MAKERS | BYTE_LEVEL)[kind]()


@cache
def wrapped(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=made(kind), clean_up_tokenization_spaces=True)


def some_ids(kind: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, made(kind).get_vocab_size() - 1), max_size=12)


@pytest.mark.parametrize("kind", MAKERS)
@given(data=st.data())
def test_joined_texts_are_the_text(kind: str, data: st.DataObject) -> None:
    ids = data.draw(some_ids(kind))
    texts = token_texts(ids, made(kind))
    assert "".join(texts) == made(kind).decode(ids, skip_special_tokens=False)
    assert len(texts) == len(ids)


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_joined_texts_keep_every_white_space(kind: str) -> None:
    assert "".join(token_texts(made(kind).encode(TEXT).ids, made(kind))) == TEXT


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@given(data=st.data())
def test_bytes_are_as_they_are_alone(kind: str, data: st.DataObject) -> None:
    of_a_text = st.text("aé中🦜 ").map(lambda text: made(kind).encode(text).ids)
    ids = data.draw(some_ids(kind) | of_a_text)
    assert token_texts(ids, made(kind)) == tuple(made(kind).decode([i]) for i in ids)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "character"] + ["bpe"])
@given(data=st.data())
def test_a_tokenizer_of_transformers_gives_the_same(kind: str, data: st.DataObject) -> None:
    ids = data.draw(some_ids(kind))
    assert token_texts(ids, wrapped(kind)) == token_texts(ids, made(kind))


@pytest.mark.parametrize("kind", [*MAKERS, *BYTE_LEVEL])
@given(data=st.data())
def test_a_prediction_that_is_right_has_the_text_of_the_token(kind: str, data: st.DataObject) -> None:
    ids = data.draw(some_ids(kind))
    assert token_texts(ids[1:], made(kind), after=ids[:-1]) == token_texts(ids, made(kind))[1:]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("bpe", "sat on the", ("s", "at", " ", "o", "n", " the")),
        ("byte", "é!", (HALF, HALF, "!")),
        ("word", "a cat\nsat", ("<unk>", " cat", "\n", "sat")),
        ("names", "up up down", ("up", " up", " down")),
        ("wordpiece", "the cats running.", ("the", " cat", "s", " run", "ning", ".")),
        ("wordpiece", "don't", ("don", " '", " t")),  # cleaned up it is "don't"
        ("metaspace", "the cats", ("the", " cat", "s")),
    ],
)
def test_texts(kind: str, text: str, expected: tuple[str, ...]) -> None:
    assert token_texts(made(kind).encode(text).ids, made(kind)) == expected
    assert token_texts(wrapped(kind).encode(text), wrapped(kind)) == expected


@pytest.mark.parametrize("kind", ["metaspace", "byte_fallback"])
def test_only_the_space_that_begins_a_text_is_dropped(kind: str) -> None:
    ids = [SENTENCE_PIECES.index(piece) for piece in ("▁", "▁▁", "▁the", "▁", "s")]
    assert token_texts(ids, made(kind)) == ("", "  ", " the", " ", "s")


def test_half_a_character_of_sentence_pieces() -> None:
    tokenizer = byte_fallback("<0xC3>", "<0xA9>")
    ids = [tokenizer.token_to_id(piece) for piece in ("▁the", "<0xC3>", "<0xA9>", "▁cat")]
    assert token_texts(ids, tokenizer) == ("the", HALF, HALF, " cat")


def test_predictions_do_not_follow_each_other() -> None:
    the, run, ning = map(made("wordpiece").token_to_id, ("the", "run", "##ning"))
    assert token_texts([run, ning], made("wordpiece"), after=[the, run]) == (" run", "ning")
    with pytest.raises(ValueError, match="argument"):
        token_texts([run, ning], made("wordpiece"), after=[the])


def test_numbers() -> None:
    assert token_texts([12, 7], None) == ("12", "7")
    unknown = made("wordpiece").get_vocab_size() + 5  # as models with a padded vocabulary predict
    assert token_texts([unknown, 2, unknown], made("wordpiece")) == (str(unknown), "the", str(unknown))


class Letters:
    """Knows no options, and leaves out 0, which begins a text."""

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, ids: list[int]) -> str:
        self.asked += 1
        return "".join(chr(96 + i) for i in ids if i)

    def id_to_token(self, number: int) -> str:
        return chr(96 + number) if number else "<s>"


def test_a_token_without_a_text_is_its_name() -> None:
    assert token_texts([0, 1, 0, 2], Letters()) == ("<s>", "a", "<s>", "b")


def test_where_nothing_can_be_told_a_token_is_as_it_is_alone() -> None:
    class Backwards(Letters):
        def decode(self, ids: list[int]) -> str:
            return super().decode(ids[::-1])

    class SentencePieces(Letters):
        def decode(self, ids: list[int]) -> str:
            return "".join(f" {super(SentencePieces, self).decode([i])}" for i in ids if i).lstrip(" ")

        def id_to_token(self, number: int) -> str:
            return f"▁{super().id_to_token(number)}" if number else "<s>"

    assert token_texts([1, 2, 1], Backwards()) == ("a", "b", "a")
    assert token_texts([1, 2, 0, 1], SentencePieces()) == ("a", " b", "<s>", " a")


def test_decodes_each_pair_once() -> None:
    letters = Letters()
    assert token_texts([1, 2] * 500, letters) == ("a", "b") * 500
    assert letters.asked <= 4  # two letters and two pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("\x1b", "U+001B"),
        ("\u2800", "U+2800"),
        ("e\u0301", "eU+0301"),
        ("\u202e", "U+202E"),
        ("中", "U+4E2D"),
        ("中中", "U+4E2D…"),
        ("🦜", "U+1F99C"),
        ("", "∅"),
        ("$x_1$", "$x_1$"),
        ("abcdefghij", "abcdefghij"),
        ("abcdefghijk", "abcdefghi…"),
    ],
)
def test_labels(text: str, expected: str) -> None:
    assert label(text) == expected


def test_a_label_has_at_least_one_character() -> None:
    assert label("中文", 3) == "U+4E2D…"


@given(st.text(st.characters(exclude_categories=[])), st.integers(9, 20))
def test_every_character_of_a_label_can_be_seen(text: str, longest: int) -> None:
    box = font(24).getmask("\U0010fffe")  # what stands for every character that the font has not
    for character in label(text, longest):
        mask = font(24).getmask(character)
        assert any(mask)
        assert (mask.size, bytes(mask)) != (box.size, bytes(box))
    assert 0 < len(label(text, longest)) <= longest
