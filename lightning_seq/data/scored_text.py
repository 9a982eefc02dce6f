"""A text to be scored: its ids, and how much raw text stands behind those of them that are scored."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lightning_seq.data.checks import at_least
from lightning_seq.data.sources.documents import digest, separated
from lightning_seq.data.sources.files import find_files, read_text
from lightning_seq.data.tokenization.chunks import pieces, words
from lightning_seq.data.tokenization.encoding import Ids, encode
from lightning_seq.data.tokenization.tokenizers import kind_of
from lightning_seq.prompts import unknown_token

ENCODED_AT_ONCE = 8  # characters for each token that is looked for, at first


@dataclass
class ScoredText:
    """The ids of a text, documents one after the other, and what stands behind them.

    No protocol scores the first token, which nothing precedes. So all that is counted is the raw text behind
    it: behind the last character that it stands for, at least in part. A word counts if any of it is there.
    Where the ids are no text, there are 0 characters, bytes and words.

    Attributes:
        characters: Characters of the scored text.
        bytes: Bytes of its UTF-8; to the byte for a first token that is a part of a character.
        words: Its words between white space, and one for each newline.
        unknown_token: What the tokenizer writes for what it does not know, None if it knows everything.
        unknown: How many of the scored tokens are that.
        written: How often it stands in the text itself, as `<unk>` does in PTB.
    """

    characters: int = 0
    bytes: int = 0
    words: int = 0
    unknown_token: str | None = None
    unknown: int = 0
    written: int = 0
    _ids: list[Ids] = field(default_factory=list, repr=False)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The ids ``(tokens,)``, the first among them."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._ids]).astype(np.int64, copy=False)

    def add(self, ids: Ids, scored: str, bytes_more: int = 0) -> None:
        """Takes up a document's ids, and what is scored of its text.

        Args:
            ids: All of them.
            scored: The text behind the first token, or all of it if that is in an earlier document.
            bytes_more: Scored bytes of a character of which the first token is a part, less those of the last
                character that are not scored.
        """
        self._ids.append(ids)
        self.characters += len(scored)
        self.bytes += bytes_more + len(scored.encode("utf-8"))
        self.words += sum(len(words(piece)) for piece in pieces(scored))
        if self.unknown_token is not None:
            self.written += scored.count(self.unknown_token)


def scored_text(
    encoded: Iterable[tuple[str, Ids]], tokenizer: Tokenizer | None, max_tokens: int | None = None
) -> ScoredText:
    """Returns the ids of documents, and counts what stands behind them.

    Args:
        encoded: Each document with its ids, as ``SequenceDataModule.encoded`` gives them.
        tokenizer: Which gave the ids; None where they are no text.
        max_tokens: Where to stop, if before the end.
    """
    if max_tokens is not None:
        at_least(2, max_tokens=max_tokens)
    unknown = None if tokenizer is None else unknown_token(tokenizer)
    result, left, first = ScoredText(unknown_token=unknown and unknown.token), max_tokens, True
    for text, ids in encoded:
        if first and not len(ids):  # nothing but white space, before anything is scored
            continue
        start, stop, split, cut = 0, len(text), 0, 0
        if left is not None and left < len(ids):
            ids = ids[:left]
            stop, cut = _end(tokenizer, text, ids) if text else (0, 0)
        if text and first:
            start, split = _end(tokenizer, text, ids[:1])
        result.add(ids, text[start:stop], split - cut)
        left, first = None if left is None else left - len(ids), False
        if left == 0:
            break
    if unknown is not None:
        result.unknown = int(np.count_nonzero(result.ids[1:] == unknown.id))
    return result


def file_text(path: str, tokenizer: Tokenizer, max_tokens: int | None = None) -> ScoredText:
    """Returns what :func:`scored_text` does, of local files.

    Args:
        path: A UTF-8 file, a glob, or a directory of .txt files, a document each.
        tokenizer: Which encodes them.
        max_tokens: Where to stop, if before the end.
    """
    return scored_text(encode(tokenizer, separated(_documents(path))), tokenizer, max_tokens)


def file_sha256(path: str) -> str:
    """Returns the digest of local files that a DataModule has of a split with these documents."""
    return digest(_documents(path))


def _documents(path: str) -> Iterator[str]:
    return (read_text(file) for file in find_files(path, (".txt",)))


def _end(tokenizer: Tokenizer | None, text: str, ids: Ids) -> tuple[int, int]:
    """Returns where in ``text`` its first ``ids`` end, in characters, and the bytes left over of the last.

    Only so much of ``text`` is encoded again as has those ids at its beginning.
    """
    assert tokenizer is not None  # what has text was encoded by one
    count, size = len(ids), ENCODED_AT_ONCE * len(ids) + ENCODED_AT_ONCE
    while True:
        encoding = tokenizer.encode(text[:size], add_special_tokens=False)
        whole = size >= len(text)
        if whole or (len(encoding.ids) > count and encoding.ids[:count] == ids.tolist()):
            break
        size *= 4
    offsets = encoding.offsets
    end = offsets[count - 1][1]
    shared = len(offsets) > count and offsets[count][0] < end
    if not (shared and kind_of(tokenizer) in ("byte", "bpe")):
        return end, 0
    symbols = sum(len(token) for token in encoding.tokens[:count])  # of byte-level tokens each is a byte
    return end, len(text[:end].encode("utf-8")) - symbols
