import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.prompts import read, written


@given(st.lists(st.integers(0, 99)))
def test_ids_are_read_as_they_are_written(ids):
    for tokenizer in (None, build_tokenizer("byte", []), names_tokenizer([f"n{i}" for i in range(100)])):
        assert read(written(ids, tokenizer), tokenizer, 100) == ids


@pytest.mark.parametrize("word", ["100", "-1", "1.0", "a", "²", "٣"])
def test_what_is_no_id_is_named(word):
    with pytest.raises(InputError, match=f"the prompt has '{word}', and .* give ids from 0 to 99, such as"):
        read(f"5 {word}", None, 100)


def test_without_a_vocabulary_any_id_will_do():
    assert read(" 5\n100 ", None) == [5, 100]
    with pytest.raises(InputError, match="give ids from 0, such as"):
        read("x", None)


def test_an_unknown_name_is_named():
    with pytest.raises(
        InputError, match="the prompt has 'c', which names no id; there are 2 names, such as a b"
    ):
        read("a c", names_tokenizer(["a", "b"]))


def test_what_is_no_text_is_no_prompt():
    with pytest.raises(InputError, match="the prompt is not UTF-8 at character 3"):
        read("caf\udce9", build_tokenizer("byte", []))
