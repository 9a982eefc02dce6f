import re

import pytest

from lightning_seq.data.sources.corpora import CORPORA


@pytest.fixture(scope="module")
def text():
    return CORPORA["python-docs"]()


def test_python_docs_is_english_of_some_size(text):
    assert 250_000 < len(text) < 600_000
    assert "statement" in text
    assert text == CORPORA["python-docs"]()


def test_no_paragraph_occurs_twice(text):
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]
    assert len(paragraphs) == len(set(paragraphs))


def test_spaces_are_single(text):
    assert "  " not in text
