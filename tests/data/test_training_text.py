"""A training text is recognized by its tokens, wherever they are."""

import numpy as np
import pytest

from lightning_seq.data import TokenDataModule
from lightning_seq.data.training_text import PASSAGE_LENGTH, comparison, recognized, training_record


def ids_of(seed, length, vocab=50, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, vocab, length).astype(dtype)


@pytest.mark.parametrize("length", [PASSAGE_LENGTH, 300, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_a_text_is_recognized_within_another(length, dtype):
    text, other = ids_of(0, length, dtype=dtype), ids_of(1, 2000)
    record = training_record("text", "ab" * 32, text)
    assert recognized(record, text) == 1
    assert recognized(record, np.concatenate([other[:777], text, other])) == 1
    assert recognized(record, other) == 0
    assert recognized(record, text[: PASSAGE_LENGTH - 1]) == 0


def test_the_fraction_is_that_of_the_training_text():
    text, other = ids_of(0, 50_000), ids_of(1, 50_000)
    record = training_record("text", "ab" * 32, text)
    for share in (0.1, 0.5, 0.9):
        scored = np.concatenate([other, text[: int(share * len(text))]])
        assert recognized(record, scored) == pytest.approx(share, abs=0.01)


def test_long_texts_are_hashed_in_parts(monkeypatch):
    text = ids_of(0, 3000)
    record = training_record("text", "ab" * 32, text)
    monkeypatch.setattr("lightning_seq.data.training_text.HASHED_AT_ONCE", 100)
    assert recognized(record, text) == 1


@pytest.mark.parametrize("length", [0, 1, PASSAGE_LENGTH - 1])
def test_a_text_without_a_whole_passage_is_compared_by_its_hash(length):
    record = training_record("short.txt", "ab" * 32, ids_of(0, length))
    assert record["passages"] == []
    assert comparison(record, recognized(record, ids_of(1, 99)), "ab" * 32).endswith(
        "trained on the train split of this data"
    )
    assert comparison(record, recognized(record, ids_of(1, 99)), "cd" * 32).endswith(
        "other data: short.txt, sha256 abababab"
    )
    assert comparison(record, recognized(record, ids_of(1, 99))).endswith(
        "other data: short.txt, sha256 abababab"
    )
    assert (
        comparison(None, recognized(None, ids_of(1, 99)))
        == "the checkpoint does not record its training text"
    )


def test_sequences_of_ids_have_a_record(tmp_path):
    data = TokenDataModule([ids_of(0, 2000).tolist()], cache_dir=str(tmp_path))
    record = data.training_record()
    assert record["name"] == "1 sequences from Python"
    assert record["sha256"] == data.content_sha256("train")
    assert recognized(record, ids_of(0, 2000)) == 1
