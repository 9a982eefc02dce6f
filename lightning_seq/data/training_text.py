"""What a checkpoint records of its training text, and how a text that is scored compares with it."""

from typing import Any

import numpy as np
import numpy.typing as npt

PASSAGES = 256
PASSAGE_LENGTH = 64  # tokens, a power of 2: passages of so many recur in other texts only if they are copied
REPORTED = 0.01  # below, what is found may be a licence or a table of contents
HASHED_AT_ONCE = 1 << 20
BASE = np.uint64(0x9E3779B97F4A7C15)

Ids = npt.NDArray[Any]
Hashes = npt.NDArray[np.uint64]


def training_record(name: str, sha256: str, ids: Ids, unknown_tokens: int = 0) -> dict[str, Any]:
    """Returns plain values that tell a training text from any other.

    Args:
        name: What the text is, for people.
        sha256: The digest of the training text.
        ids: Its tokens. Of these the hashes of 256 passages at equal distances are recorded, so that the text
            is recognized also within another file, or where only a part of it is scored.
        unknown_tokens: How many tokens stand for text that the tokenizer does not know.
    """
    count = max(0, len(ids) - PASSAGE_LENGTH + 1)  # of passages, which overlap
    starts = (
        np.unique(np.linspace(0, count - 1, PASSAGES).astype(np.int64)) if count else np.empty(0, np.int64)
    )
    found = [int(_hashes(ids[start : start + PASSAGE_LENGTH])[0]) for start in starts]
    return {"name": name, "sha256": sha256, "passages": found, "unknown_tokens": unknown_tokens}


def recognized(record: dict[str, Any] | None, ids: Ids) -> float | None:
    """Returns the fraction of the recorded passages that occur in ``ids``; None where nothing is recorded.

    Args:
        record: As :func:`training_record` returned it, or None.
        ids: The tokens of a text, by the same tokenizer.
    """
    if record is None:
        return None
    recorded, found = np.array(sorted(set(record["passages"])), dtype=np.uint64), set[int]()
    for start in range(0, max(0, len(ids) - PASSAGE_LENGTH + 1), HASHED_AT_ONCE):
        hashes = _hashes(ids[start : start + HASHED_AT_ONCE + PASSAGE_LENGTH - 1])
        found.update(recorded[np.isin(recorded, hashes)].tolist())
    return sum(each in found for each in record["passages"]) / max(1, len(record["passages"]))


def comparison(record: dict[str, Any] | None, fraction: float | None, train_sha256: str | None = None) -> str:
    """Returns a phrase that says what a checkpoint was trained on, compared with a text that is scored.

    Args:
        record: What the checkpoint records; None where it records nothing.
        fraction: Of the record's passages, as :func:`recognized` found it in the scored text.
        train_sha256: The digest of the training text that belongs to the scored text, where there is one.
    """
    if record is None or fraction is None:
        return "the checkpoint does not record its training text"
    own = f"{record['name']}, sha256 {record['sha256'][:8]}"
    if record["sha256"] == train_sha256:
        own = "the train split of this data"
    elif fraction < REPORTED:
        own = f"other data: {own}"
    part = f", of which {fraction:.0%} occurs in the scored text" if fraction >= REPORTED else ""
    return f"the checkpoint was trained on {own}{part}"


def _hashes(ids: Ids) -> Hashes:
    """Returns a polynomial hash, modulo 2^64, of each passage of ``ids`` by doubling its length."""
    hashes, power, length = ids.astype(np.uint64) + np.uint64(1), BASE, 1
    while length < PASSAGE_LENGTH:
        with np.errstate(over="ignore"):
            hashes = hashes[:-length] * power + hashes[length:]
            power, length = power * power, 2 * length
    return hashes
