import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_seq.data.sources.documents import cut_parts, digest, separated, whole_parts
from lightning_seq.errors import InputError


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=60), st.integers(1, 2))
def test_whole_parts_are_disjoint_cover_all_and_are_never_empty(sizes, held_out):
    parts = whole_parts(sizes, held_out)
    assert [i for part in parts for i in part] == list(range(len(sizes)))
    assert len(parts) == held_out + 1
    assert all(parts)


def test_whole_parts_are_about_five_percent():
    assert [len(part) for part in whole_parts([1] * 100, 2)] == [90, 5, 5]
    assert whole_parts([100, 1, 100], 2) == [range(1), range(1, 2), range(2, 3)]


@given(st.text(st.sampled_from("ab\n"), min_size=1, max_size=500), st.integers(1, 2))
def test_cut_parts_are_the_text(text, held_out):
    parts = cut_parts(text, held_out)
    assert "".join(parts) == text
    assert len(parts) == held_out + 1


@given(st.integers(100, 3000))
def test_cut_parts_are_five_percent_each(length):
    parts = cut_parts("a" * length, 2)
    assert [len(part) / length for part in parts[1:]] == pytest.approx([0.05, 0.05], abs=2 / length)


def test_cuts_move_to_the_end_of_a_near_line():
    text = ("x" * 19 + "\n") * 501
    assert all(part.endswith("\n") for part in cut_parts(text, 2))
    far = "x" * 10_000
    assert [len(part) for part in cut_parts(far, 2)] == [9000, 500, 500]


def test_documents_are_separated_by_a_newline_where_they_lack_one():
    assert list(separated(["a", "", "b\n", "c"])) == ["a\n", "b\n", "c"]
    assert list(separated([])) == []


def test_the_digest_knows_content_and_boundaries():
    assert digest(["ab", "c"]) == digest(iter(["ab", "c"]))
    assert len({digest(each) for each in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], [])}) == 5


@pytest.mark.parametrize("take", [digest, lambda documents: list(separated(documents))])
def test_documents_that_are_no_texts_are_refused(take):
    with pytest.raises(InputError, match="document 1 is None, not a str; give a str for each document"):
        take(["fine", None])
    with pytest.raises(InputError, match=r"document 0 is b'abc' \(bytes\), not a str"):
        take(iter([b"abc"]))
    with pytest.raises(
        InputError, match=r"the documents are 'a{39}\.\.\. \(str\), not several texts; return a"
    ):
        take("a" * 1000)
    with pytest.raises(InputError, match="the documents are None, not several texts"):
        take(None)


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(InputError, match="document 1 holds half of a surrogate pair at character 2"):
        digest(["fine", "no\ud800"])
