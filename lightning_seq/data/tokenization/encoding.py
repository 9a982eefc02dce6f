"""Text to arrays of token ids, as fast as the kind of tokenizer allows."""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_seq.data.checks import at_least
from lightning_seq.data.tokenization.chunks import ChunkEncoder, WordEncoder
from lightning_seq.data.tokenization.tokenizers import UNKNOWN, byte_symbols, kind_of
from lightning_seq.data.tokenization.workers import default_processes, encode_in_processes

TEXTS_AT_ONCE = 256
BATCH = 1 << 18  # characters
ALONE = 1 << 22  # characters before other processes are started, to be worth their start

Ids = npt.NDArray[np.uint32]
Encoded = Iterator[tuple[str, Ids]]
_PieceEncoder = WordEncoder | ChunkEncoder


def encode(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    num_proc: int | None = None,
    progress: bool = True,
) -> Encoded:
    """Yields every text with its ids, the same ids that ``tokenizer.encode`` gives without special tokens.

    Bytes and characters go through a lookup table, words through a dictionary, and what GPT-2's expression
    cuts through a cache of chunks, in several processes where there is much of it: the others are as fast as
    text can be handed to another process.

    Args:
        tokenizer: The tokenizer.
        texts: What to encode.
        num_proc: How many processes may encode; by default as many as there are cores for this one.
        progress: Whether there may be a progress bar.
    """
    if num_proc is not None:
        at_least(1, num_proc=num_proc)
    look = {"desc": "tokenizing", "unit": " characters", "unit_scale": True, "leave": False}
    disabled = None if progress else True  # None: where there is no terminal
    with tqdm(delay=2, disable=disabled, **look) as bar:
        kind = kind_of(tokenizer)
        if kind in ("byte", "character"):
            look_up = _byte_table(tokenizer) if kind == "byte" else _character_table(tokenizer)
            encoded: Encoded = ((text, look_up(text)) for text in texts)
        elif kind == "word" or _cuts_like_gpt2(tokenizer):
            encoder = (WordEncoder if kind == "word" else ChunkEncoder)(tokenizer)
            alone = kind == "word" or not sys.executable
            processes = 1 if alone else num_proc or default_processes()
            yield from _by_pieces(encoder, tokenizer, texts, processes, bar.update)
            return
        else:
            encoded = _by_tokenizer(tokenizer, texts)
        for text, ids in encoded:
            bar.update(len(text))
            yield text, ids


def _by_pieces(
    encoder: _PieceEncoder,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    processes: int,
    count: Callable[[int], object],
) -> Encoded:
    waiting: deque[tuple[int, str | None]] = deque()  # the length of each piece; with the last one, the text

    def cut() -> Iterator[str]:
        for text in texts:
            length = 0
            for piece in encoder.pieces(text):
                length += len(piece)
                waiting.append((len(piece), text if length == len(text) else None))
                yield piece

    parts: list[Ids] = []
    for ids in _encode_pieces(encoder, tokenizer, _batches(cut()), processes):
        length, text = waiting.popleft()
        count(length)
        parts.append(ids)
        if text is not None:
            yield text, parts[0] if len(parts) == 1 else np.concatenate(parts)
            parts = []


def _batches(pieces: Iterator[str]) -> Iterator[list[str]]:
    batch, length = [], 0
    for piece in pieces:
        batch.append(piece)
        length += len(piece)
        if length >= BATCH:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _encode_pieces(
    encoder: _PieceEncoder, tokenizer: Tokenizer, batches: Iterator[list[str]], processes: int
) -> Iterator[Ids]:
    done = 0
    for batch in batches:
        yield from encoder.encode(batch)
        done += sum(map(len, batch))
        if processes > 1 and done >= ALONE:
            break
    for first in batches:  # only now there is surely work for others
        rest = chain([first], batches)
        for encoded in encode_in_processes(tokenizer.to_str(), rest, processes):
            yield from encoded


def _cuts_like_gpt2(tokenizer: Tokenizer) -> bool:
    content = json.loads(tokenizer.to_str())
    model, steps = content["model"], content["pre_tokenizer"] or {}
    return (
        model["type"] == "BPE"
        and not model["dropout"]  # is drawn anew at each place
        and steps.get("type") == "ByteLevel"
        and steps["use_regex"]
        and not steps["add_prefix_space"]
        and not any(content[step] for step in ("normalizer", "truncation", "padding"))
    )


def _by_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> Encoded:
    remaining = iter(texts)
    while some := list(islice(remaining, TEXTS_AT_ONCE)):
        encodings = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        for text, encoding in zip(some, encodings, strict=True):
            yield text, np.array(encoding.ids, dtype=np.uint32)


def _byte_table(tokenizer: Tokenizer) -> Callable[[str], Ids]:
    table = np.array([tokenizer.token_to_id(symbol) for symbol in byte_symbols()], dtype=np.uint32)
    return lambda text: table.take(np.frombuffer(text.encode("utf-8"), dtype=np.uint8))


def _character_table(tokenizer: Tokenizer) -> Callable[[str], Ids]:
    vocabulary = tokenizer.get_vocab()
    table = np.full(0x110000, vocabulary[UNKNOWN], dtype=np.uint32)  # as many as Unicode has
    table[[ord(character) for character in vocabulary]] = list(vocabulary.values())
    return lambda text: table.take(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))
