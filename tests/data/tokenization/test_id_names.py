import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lightning_seq.data.tokenization.id_names import names_tokenizer, outline, refuse_other_names
from lightning_seq.data.tokenization.tokenizers import build_tokenizer, characters_per_token, vocabulary_size
from lightning_seq.errors import InputError

words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)


@given(st.lists(words, min_size=1, max_size=20, unique=True), st.data())
def test_ids_and_their_names_are_one_to_one(names, data):
    tokenizer = names_tokenizer(names)
    ids = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=30))
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == " ".join(names[i] for i in ids)
    assert tokenizer.encode(text).ids == ids
    assert Tokenizer.from_str(tokenizer.to_str()).to_str() == tokenizer.to_str()
    assert vocabulary_size(tokenizer) == len(names)
    assert characters_per_token(tokenizer) is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "there are no names of ids"),
        (["a", "b", "a"], "ids 0 and 2 are both named 'a'"),
        (["a", ""], "the name of id 1 is empty"),
        (["a", "b c"], "the name of id 1 is 'b c', more than one word"),
        (["a", 1], r"the name of id 1 is 1 \(int\), no string; give '1'"),
        (["a\n"], r"the name of id 0 is 'a\\n', more than one word"),
    ],
)
def test_names_that_could_not_be_read_back_are_refused(names, said):
    with pytest.raises(InputError, match=said):
        names_tokenizer(names)


def test_an_unknown_word_is_an_error_unless_there_is_a_name_for_it():
    with pytest.raises(Exception, match="UNK"):
        names_tokenizer(["a", "b"]).encode("a c")
    assert names_tokenizer(["a", "<unk>"]).encode("a c").ids == [0, 1]


def test_other_names_are_refused():
    own = names_tokenizer(list("abcdefg"))
    refuse_other_names(own.to_str(), own, "it", "mend")
    assert outline(own) == "7: a b c ... g"
    with pytest.raises(
        InputError, match=r"on other ids \(2: b a\) than those of it \(7: a b c ... g\); mend"
    ):
        refuse_other_names(names_tokenizer(["b", "a"]).to_str(), own, "it", "mend")


def test_an_outline_is_one_line_whatever_the_tokens_are():
    assert outline(names_tokenizer(["a", "b"])) == "2: a b"
    assert "\n" not in outline(build_tokenizer("character", ["a\nb\tc d e"]))
