"""What every text goes through before it is tokenized: splits, digests, and what lies between documents."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal, get_args

from lightning_seq.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

HELD_OUT = 0.05
FEWEST_TO_SPLIT_WHOLE = 3
LONGEST_SHOWN = 40  # characters of a wrong value


def digest(texts: Iterable[str]) -> str:
    """Returns a SHA-256 of ``texts`` and of the boundaries between them."""
    total = hashlib.sha256()
    for i, text in enumerate(_checked(texts)):
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"document {i} holds half of a surrogate pair at character {error.start}, which is no text; "
                "decode it as UTF-8"
            ) from error
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def separated(documents: Iterable[str]) -> Iterator[str]:
    """Yields the documents that are not empty, with a newline between two where the first lacks it."""
    before = ""
    for document in filter(None, _checked(documents)):
        if before:
            yield before if before.endswith("\n") else before + "\n"
        before = document
    if before:
        yield before


def _checked(documents: Iterable[str]) -> Iterator[str]:
    """Yields the documents, which come from a method that anybody may have written."""
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise InputError(
            f"the documents are {_shown(documents)}, not several texts; return a list of str, such as [text]"
        )
    for i, document in enumerate(documents):
        if not isinstance(document, str):
            raise InputError(f"document {i} is {_shown(document)}, not a str; give a str for each document")
        yield document


def _shown(value: object) -> str:
    content = repr(value)
    kind = "" if value is None else f" ({type(value).__name__})"
    return (content if len(content) <= LONGEST_SHOWN else content[:LONGEST_SHOWN] + "...") + kind


def whole_parts(sizes: Sequence[int], held_out: int) -> list[range]:
    """Divides documents into one range for training and ``held_out`` ranges of about 5% each behind it.

    Every range has at least one document, so there must be more documents than ranges held out.
    """
    stops, enough = [len(sizes)], HELD_OUT * sum(sizes)
    for parts_before in range(held_out, 0, -1):
        start, size = stops[0], 0.0
        while start > parts_before and size < enough:
            start -= 1
            size += sizes[start]
        stops.insert(0, start)
    return [range(start, stop) for start, stop in pairwise([0, *stops])]


def cut_parts(text: str, held_out: int) -> list[str]:
    """Cuts the last 5% off ``text``, ``held_out`` times, at the end of a line where one is near."""
    cuts = [_cut(text, round(len(text) * (1 - part * HELD_OUT))) for part in range(held_out, 0, -1)]
    cuts = [0, *accumulate(cuts, max), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)]


def _cut(text: str, at: int) -> int:
    near = int(len(text) * HELD_OUT) // 5
    end_of_line = text.find("\n", at - 1, at + near)
    if end_of_line < 0:
        end_of_line = text.rfind("\n", max(at - near, 0), at)
    return at if end_of_line < 0 else end_of_line + 1
