"""Text cut where a tokenizer never looks across, so that each distinct chunk is encoded once.

The processes that tokenize run this file alone, as a script. It imports nothing of this package, so that
they start in a fifth of a second, without torch.
"""

import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids = npt.NDArray[np.uint32]
_Counts = npt.NDArray[np.int64]
_Encoded = tuple[Ids, _Counts]

# Unicode's White_Space, which is \s and char::is_whitespace in Rust. Python's \s, str.isspace and str.split
# also take the information separators.
WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SEPARATORS = "\x1c-\x1f"

UNKNOWN_WORD = "<unk>"
END_OF_LINE = "<eos>"

PIECE = 1 << 17  # characters; small enough for the chunks of one to stay in the processor's cache
MOST_CHUNKS = 1 << 19
MOST_CHARACTERS = 1 << 24  # of all chunks: languages without spaces have long ones

_SAFE_CUT = re.compile(f"[^{WHITE_SPACE}](?=[{WHITE_SPACE}][^{WHITE_SPACE}])")
_SEPARATOR = re.compile(f"[{SEPARATORS}]")
_WORD = re.compile(f"[^{WHITE_SPACE}]++")

# GPT-2's expression takes white space up to the last one before a word, then that one by itself, unless it is
# a space, which goes with what follows; its other alternatives take no white space behind their first
# character and look at nothing behind their last. So the white space that it takes is what _CHUNK takes,
# each chunk that is not starts and ends where one of its matches does, and it divides every chunk the same
# way whether the rest of the text is there or not.
_CHUNK = re.compile(f" ?[^{WHITE_SPACE}]++|[{WHITE_SPACE}]+(?![^{WHITE_SPACE}])|[{WHITE_SPACE}]+")

# The same, and for ASCII GPT-2's own alternatives; where one of these meets another character, which may be a
# letter, a number or neither, the rest of the word is one chunk.
_OTHER = r"[^\x00-\x7f]"
_SYMBOL = r"[\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f]"
_FINE_CHUNK = re.compile(
    rf"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]++(?!{_OTHER})| ?[0-9]++(?!{_OTHER})| ?{_SYMBOL}++(?!{_OTHER})|"
    + _CHUNK.pattern
)


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Cuts ``text`` about every ``size`` characters, between words that one white space character parts.

    No pre-tokenizer of words or of GPT-2's kind takes anything across such a cut, or another way because of
    it. A text without white space stays whole.
    """
    start = 0
    while len(text) - start > size and (found := _SAFE_CUT.search(text, start + size)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def words(text: str) -> list[str]:
    """Returns the words of ``text``, with a token for each newline, as PTB and WikiText are read."""
    text = text.replace("\n", f" {END_OF_LINE} ")
    return _WORD.findall(text) if _SEPARATOR.search(text) else text.split()


class WordEncoder:
    """Encodes with a tokenizer of words, by one dictionary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocabulary = tokenizer.get_vocab()
        self._unknown = self._vocabulary[UNKNOWN_WORD]

    def pieces(self, text: str) -> Iterator[str]:
        """Cuts ``text`` into what can be encoded apart."""
        return pieces(text)

    def encode(self, some: list[str]) -> list[Ids]:
        """Returns the ids of each piece."""
        return [self._encode(words(piece)) for piece in some]

    def _encode(self, found: list[str]) -> Ids:
        ids = map(self._vocabulary.get, found, repeat(self._unknown))
        return np.fromiter(ids, dtype=np.uint32, count=len(found))


class _Numbering(dict[str, int]):
    """Numbers chunks as they come, and remembers which are new."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, chunk: str) -> int:
        self.new.append(chunk)
        self[chunk] = number = len(self)
        return number


class _Cache:
    """Ids of texts put together from those of their chunks.

    Args:
        cut: Cuts a text into chunks.
        encode: Gives the ids of new chunks, one after the other, and how many each has.
    """

    def __init__(self, cut: Callable[[str], list[str]], encode: Callable[[list[str]], _Encoded]) -> None:
        self._cut = cut
        self._encode = encode
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbering()
        self._characters = 0
        self._starts: _Counts = np.empty(0, dtype=np.int64)
        self._lengths: _Counts = np.empty(0, dtype=np.int64)
        self._ids: Ids = np.empty(0, dtype=np.uint32)

    def encode(self, texts: list[str]) -> _Encoded:
        """Returns the ids of ``texts``, one after the other, and how many each has."""
        if len(self._numbers) > MOST_CHUNKS or self._characters > MOST_CHARACTERS:
            self._forget()
        found = list(map(self._cut, texts))
        bounds = np.cumsum([0, *map(len, found)])
        chunks = map(self._numbers.__getitem__, chain.from_iterable(found))
        numbers = np.fromiter(chunks, dtype=np.int64, count=bounds[-1])
        if self._numbers.new:
            self._learn()
        lengths = self._lengths[numbers]
        stops = np.concatenate([[0], lengths.cumsum()])
        places = np.repeat(self._starts[numbers] - stops[:-1], lengths) + np.arange(stops[-1])
        return self._ids[places], np.diff(stops[bounds])

    def _learn(self) -> None:
        new, self._numbers.new = self._numbers.new, []
        ids, lengths = self._encode(new)
        self._starts = np.concatenate([self._starts, len(self._ids) + lengths.cumsum() - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, ids])
        self._characters += sum(map(len, new))


class ChunkEncoder:
    """Encodes with a byte-level tokenizer of GPT-2's kind, asking it only for chunks it has not seen.

    Words with their punctuation are quick to find again, but there are many: what is new among them is put
    together from words and punctuation alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = sorted((token.content for token in added), key=len, reverse=True)
        plain = not any(token.lstrip or token.rstrip or token.single_word for token in added)
        plain = plain and len({token.normalized for token in added}) == 1
        # Such tokens part the text before anything else looks at it: the longest of the first wins.
        self._parting = re.compile(f"({'|'.join(map(re.escape, self._added))})") if plain else None
        fine = _Cache(self._cutting(_FINE_CHUNK), self._ask)
        self._cache = _Cache(self._cutting(_CHUNK), fine.encode)

    def pieces(self, text: str) -> Iterator[str]:
        """Cuts ``text`` into what can be encoded apart."""
        if not self._holds_added(text):
            yield from pieces(text)
        elif self._parting is None:
            yield text
        else:
            for part in filter(None, self._parting.split(text)):
                yield from [part] if part in self._added else pieces(part)

    def encode(self, some: list[str]) -> list[Ids]:
        """Returns the ids of each piece."""
        ids, lengths = self._cache.encode(some)
        return np.split(ids, lengths.cumsum()[:-1])

    def _holds_added(self, text: str) -> bool:
        return any(content in text for content in self._added)

    def _cutting(self, chunk: re.Pattern[str]) -> Callable[[str], list[str]]:
        if not self._added:
            return chunk.findall
        return lambda text: [text] if self._holds_added(text) else chunk.findall(text)

    def _ask(self, new: list[str]) -> _Encoded:
        # As the words of one text: on one core that takes half the time of encode_batch_fast.
        encoding = self._tokenizer.encode(new, is_pretokenized=True, add_special_tokens=False)
        lengths = np.bincount(np.array(encoding.word_ids, dtype=np.int64), minlength=len(new))
        return np.array(encoding.ids, dtype=np.uint32), lengths


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers lists of pieces with their ids until there are no more; the tokenizer comes first."""
    encoder = ChunkEncoder(Tokenizer.from_str(pickle.load(requests)))
    while True:
        try:
            some = pickle.load(requests)
        except EOFError:  # whoever asked is done, or gone
            return
        pickle.dump(encoder.encode(some), replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    serve(sys.stdin.buffer, sys.stdout.buffer)
