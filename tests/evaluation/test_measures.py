"""One sum, divided by what the text has; and how that is shown."""

import json
import math

import pytest

from lightning_seq.evaluation.measures import measures
from lightning_seq.evaluation.report import as_json, as_table

RESULT = {
    "checkpoint": "runs/a/checkpoints/best.ckpt",
    "model": "LSTMLanguageModel",
    "text": "text.txt",
    "split": "test",
    "sha256": "0123456789abcdef" * 4,
    "comparison": "another text, sha256 89abcdef",
    "protocol": "stream, 1 lane, chunks of 128, neural cache, window 2000, theta 0.3, lambda 0.1",
    "tokens": 12_345,
    "characters": 45_678,
    "bytes": 45_680,
    "words": 9_876,
    "unknown": 0,
    "unknown_fraction": 0.0,
    "unknown_token": "<unk>",
    "unknown_written": 0,
    **measures(50_000.0, 12_345, 45_678, 45_680, 9_876),
    "seconds": 1.25,
    "device": "cpu",
}


def test_measures():
    found = measures(60.0, 30, 20, 24, 12)
    assert found == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "bits_per_character": pytest.approx(3 / math.log(2)),
        "bits_per_byte": pytest.approx(2.5 / math.log(2)),
        "word_perplexity": pytest.approx(math.exp(5)),
    }


def test_what_is_unknown_is_left_out_and_what_is_too_large_is_infinite():
    assert measures(3e5, 100, 0, 0, 0) == {"loss": 3000.0, "perplexity": math.inf}


def test_the_table_fits_80_columns_and_says_the_protocol():
    shown = as_table(RESULT)
    assert max(map(len, shown.splitlines())) <= 80
    assert RESULT["protocol"] in " ".join(shown.split())
    assert "word perplexity     158.029 (9,876 words, each newline counted as one)" in shown
    assert "text                text.txt, test split, sha256 01234567" in shown
    assert "training text       another text, sha256 89abcdef" in shown
    assert "unknown" not in shown


@pytest.mark.parametrize(
    ("unknown", "written", "said"),
    [
        (7, 9, "7 (0.1%) are <unk>, all of them so written in the text"),
        (7, 5, "7 (0.1%) are <unk>, 5 of them so written in the text: that a token is unknown is easier"),
    ],
)
def test_unknown_tokens_are_said(unknown, written, said):
    shown = as_table(
        {**RESULT, "unknown": unknown, "unknown_fraction": 7 / 12_345, "unknown_written": written}
    )
    assert said in " ".join(shown.split())


def test_json_has_no_infinity():
    found = json.loads(as_json({**RESULT, "perplexity": math.inf}))
    assert found == {**RESULT, "perplexity": None}
