import pytest
from tokenizers import Tokenizer

from lightning_seq.callbacks.heads.labels import label, token_texts
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.figures import new_figure, pixels

TEXT = "the cat sat on the mat\nand the cat ran, \tthe  end"


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_joined_texts_are_the_text(kind: str) -> None:
    size = 300 if kind == "bpe" else None
    tokenizer: Tokenizer = build_tokenizer(kind, [TEXT], size)
    assert "".join(token_texts(tokenizer.encode(TEXT).ids, tokenizer)) == TEXT


def test_bpe_keeps_the_leading_space() -> None:
    tokenizer = build_tokenizer("bpe", [TEXT], 300)
    assert " the" in token_texts(tokenizer.encode("on the").ids, tokenizer)


def test_half_a_character() -> None:
    tokenizer = build_tokenizer("byte", [])
    assert token_texts(tokenizer.encode("é").ids, tokenizer) == ("\N{REPLACEMENT CHARACTER}",) * 2


def test_words_and_names_and_numbers() -> None:
    words = build_tokenizer("word", ["a cat\nsat"])
    assert token_texts(words.encode("a cat\nsat dog").ids, words) == ("a", "cat", "\n", "sat", "<unk>")
    assert token_texts([1, 0, 1], names_tokenizer(["up", "down"])) == ("down", "up", "down")
    assert token_texts([12, 7], None) == ("12", "7")


def test_decodes_each_id_once() -> None:
    class Letters:
        asked = 0

        def decode(self, ids: list[int]) -> str:
            self.asked += 1
            return chr(97 + ids[0])

    letters = Letters()
    assert token_texts([0, 1] * 500, letters) == ("a", "b") * 500
    assert letters.asked == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("\x1b", "U+001B"),
        ("中", "U+4E2D"),
        ("🦜", "U+1F99C"),
        ("", "∅"),
        ("abcdefghij", "abcdefghij"),
        ("abcdefghijk", "abcdefghi…"),
    ],
)
def test_labels(text: str, expected: str) -> None:
    assert label(text) == expected


def test_matplotlib_draws_every_label_without_a_warning() -> None:
    figure = new_figure(2, 2)
    for text in ("$a$", "$", "\\$$", "\ufffd", "中文", "\u0301", "\u202e", "🦜", "\x00", "\ud800", "_^{"):
        figure.text(0.5, 0.5, label(text))
    assert pixels(figure).min() < 128
