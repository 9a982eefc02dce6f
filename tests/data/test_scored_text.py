"""What stands behind the tokens that are scored: never the first, and to the byte where that can be known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_seq.data.scored_text import file_text, scored_text
from lightning_seq.data.sources.documents import separated
from lightning_seq.data.tokenization.encoding import encode
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.errors import InputError

CORPUS = "the cat  sat\n\non the mat\nthé 日本 owl\n" * 20
KINDS = ("byte", "character", "word", "bpe")
TOKENIZERS = {
    kind: build_tokenizer(kind, [CORPUS], 300 if kind == "bpe" else None) for kind in KINDS
}  # with merges, but none of 日


def scored(kind, *documents, max_tokens=None):
    tokenizer = TOKENIZERS[kind]
    return scored_text(encode(tokenizer, separated(documents)), tokenizer, max_tokens)


def sizes(text):
    return (text.characters, text.bytes, text.words)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_behind_the_first_token_is_counted(kind):
    found, text = scored(kind, "the cat sat\non the mat\n"), "the cat sat\non the mat\n"
    first = {"byte": "t", "character": "t", "word": "the", "bpe": "the"}[kind]
    rest = text.removeprefix(first)
    words = len(rest.split()) + rest.count("\n")
    assert sizes(found) == (len(rest), len(rest), words)
    assert words == (7 if kind in ("word", "bpe") else 8)  # " cat ...", or "he cat ...": a word that goes on
    assert found.ids.dtype == np.int64
    assert found.ids.tolist() == TOKENIZERS[kind].encode(text).ids


@given(st.text("the cat\n日é", min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_words_are_the_tokens_of_a_tokenizer_of_words_and_bytes_those_of_bytes(text):
    by_word, by_byte = scored("word", text), scored("byte", text)
    if len(by_word.ids):
        assert by_word.words == len(by_word.ids) - 1
    assert by_byte.bytes == len(by_byte.ids) - 1
    assert by_byte.characters == len(text) - 1


@given(st.sampled_from(KINDS), st.lists(st.text("the cat\n日é", max_size=30), max_size=4), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_a_text_cut_short_counts_what_is_left_of_it(kind, documents, most):
    whole, cut = scored(kind, *documents), scored(kind, *documents, max_tokens=most)
    assert cut.ids.tolist() == whole.ids[:most].tolist()
    assert all(part <= full for part, full in zip(sizes(cut), sizes(whole), strict=True))
    if not len(cut.ids):
        return
    if kind == "byte":
        assert cut.bytes == len(cut.ids) - 1
    if kind == "character":
        assert cut.characters == len(cut.ids) - 1
    if kind == "word":
        assert cut.words == len(cut.ids) - 1


def test_a_cut_of_bpe_falls_between_its_tokens():
    text = "the cat sat on the mat\n" * 50
    tokens = TOKENIZERS["bpe"].encode(text).tokens
    for most in (2, 3, 10, len(tokens) - 1, len(tokens), len(tokens) + 9):
        found = scored("bpe", text, max_tokens=most)
        assert found.characters == sum(map(len, tokens[1:most]))


def test_documents_are_one_text():
    apart, together = scored("word", "the cat", "", "on the mat\n"), scored("word", "the cat\non the mat\n")
    assert sizes(apart) == sizes(together) == (19 - 3, 19 - 3, 6)
    assert apart.ids.tolist() == together.ids.tolist()


def test_white_space_before_the_first_token_is_not_counted():
    assert sizes(scored("word", "  \t the cat")) == (4, 4, 1)


def test_unknown_tokens_and_those_so_written_are_counted():
    found = scored("word", "zebra <unk> the zebra <unk>\n")  # the first is not scored
    assert (found.unknown_token, found.unknown, found.written) == ("<unk>", 3, 2)
    found = scored("character", "xthe x�\n")
    assert (found.unknown_token, found.unknown, found.written) == ("�", 2, 1)
    assert scored("byte", "xthe x").unknown_token is None


def test_ids_that_are_no_text():
    ids = np.arange(9, dtype=np.uint32)
    found = scored_text([("", ids), ("", ids)], names_tokenizer([str(i) for i in range(9)]), 12)
    assert found.ids.tolist() == [*range(9), 0, 1, 2]
    assert sizes(found) == (0, 0, 0)
    assert found.unknown == 0


def test_files(tmp_path):
    (tmp_path / "a.txt").write_text("the cat", encoding="utf-8")
    (tmp_path / "b.txt").write_text("the mat", encoding="utf-8")
    found = file_text(str(tmp_path), TOKENIZERS["character"])
    assert TOKENIZERS["character"].decode(found.ids.tolist()) == "the cat\nthe mat"
    with pytest.raises(InputError, match="no file or directory"):
        file_text(str(tmp_path / "c.txt"), TOKENIZERS["character"])
    with pytest.raises(InputError, match="max_tokens is 1; it must be at least 2"):
        file_text(str(tmp_path), TOKENIZERS["character"], 1)
