"""Byte, character, word, BPE and ready-made tokenizers: every kind is one `tokenizers.Tokenizer`."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lightning_seq.data.tokenization.chunks import END_OF_LINE, UNKNOWN_WORD, pieces, words
from lightning_seq.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["byte", "character", "word", "bpe", "custom"]
TRAINED_KINDS = ("byte", "character", "word", "bpe")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
BPE_VOCAB_SIZE = 16_384
CUTTING = ("ByteLevel", "Digits", "Punctuation", "Split")  # pre-tokenizers that may keep all characters
SMALLEST = {"word": 2, "bpe": 256}  # <unk> and <eos>; the bytes
MENDING = (
    'give "byte", "character", "word", "bpe", the path of a tokenizer.json or a .ckpt, or the id of a '
    'repository of the Hub, such as "openai-community/gpt2"'
)


def build_tokenizer(kind: str, texts: Iterable[str], max_vocab_size: int | None = None) -> Tokenizer:
    """Returns a tokenizer made for the training ``texts``.

    Args:
        kind: "byte", "character", "word" or "bpe".
        texts: The training texts; the same ones make the same tokenizer.
        max_vocab_size: How many ids words and BPE may have in all; by default as many as there are words,
            and 16,384 for BPE.
    """
    check_size(kind, max_vocab_size)
    if kind == "byte":
        return _byte_tokenizer()
    if kind == "character":
        return _character_tokenizer(texts)
    parts = (part for text in texts for part in pieces(text))  # cut, so that no step holds a copy of it all
    return _word_tokenizer(parts, max_vocab_size) if kind == "word" else _bpe(parts, max_vocab_size)


def check_size(kind: str, max_vocab_size: int | None) -> None:
    """Refuses a kind that is none, and a ``max_vocab_size`` that does not fit it."""
    if kind not in TRAINED_KINDS:
        raise InputError(f"unknown tokenizer {kind!r}{did_you_mean(kind, TRAINED_KINDS)}; {MENDING}")
    if max_vocab_size is not None and kind not in SMALLEST:
        raise InputError(
            f"max_vocab_size is {max_vocab_size}, and the tokenizer {kind!r} has as many ids as there are "
            f'{kind}s; leave max_vocab_size out, or choose "word" or "bpe"'
        )
    if max_vocab_size is not None and max_vocab_size < SMALLEST[kind]:
        needed = "a vocabulary that does not fit the 256 bytes" if kind == "bpe" else "no room for a word"
        raise InputError(
            f"max_vocab_size is {max_vocab_size}, {needed}; the tokenizer {kind!r} needs at least "
            f"{SMALLEST[kind]}"
        )


def _byte_tokenizer() -> Tokenizer:
    vocabulary = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _character_tokenizer(texts: Iterable[str]) -> Tokenizer:
    seen: set[str] = reduce(set.union, map(set, texts), set())
    vocabulary = {UNKNOWN: 0}
    vocabulary |= {character: i for i, character in enumerate(sorted(seen - {UNKNOWN}), start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _word_tokenizer(texts: Iterable[str], max_vocab_size: int | None) -> Tokenizer:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text))
    special = [UNKNOWN_WORD, END_OF_LINE]  # first, so that their ids do not depend on the text
    ranked = sorted(counts.keys() - special, key=lambda word: (-counts[word], word))
    return _words_of([*special, *ranked][:max_vocab_size])


def _words_of(vocabulary: list[str]) -> Tokenizer:
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN_WORD))
    tokenizer.normalizer = normalizers.Replace("\n", f" {END_OF_LINE} ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # WordPiece puts a space before what does not start with its prefix, and no word starts with a space.
    steps = [
        decoders.Replace(Regex(rf"\A{END_OF_LINE}\z"), "\n"),
        decoders.WordPiece(prefix=" ", cleanup=False),
        decoders.Fuse(),
        decoders.Replace(Regex(r" ?\n ?"), "\n"),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _bpe(texts: Iterator[str], max_vocab_size: int | None) -> Tokenizer:
    tokenizer = _untrained_bpe()
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab_size or BPE_VOCAB_SIZE,
        min_frequency=2,  # what occurs once is memorized, not learnt
        initial_alphabet=byte_symbols(),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _untrained_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_symbols() -> list[str]:
    """Returns the printable symbol that byte-level vocabularies use for each of the 256 bytes."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def kind_of(tokenizer: Tokenizer) -> Kind:
    """Returns the kind of which ``tokenizer`` is, whatever text it was made from, or else "custom"."""
    settings, vocabulary, merges = _parts(tokenizer)
    symbols = set(byte_symbols())
    if settings == _parts(_byte_tokenizer())[0] and not merges and vocabulary == symbols:
        return "byte"
    if settings == _parts(_character_tokenizer([]))[0] and not merges and max(map(len, vocabulary)) == 1:
        return "character"
    if settings == _parts(_words_of([UNKNOWN_WORD]))[0] and {UNKNOWN_WORD, END_OF_LINE} <= vocabulary:
        return "word"
    return "bpe" if settings == _parts(_untrained_bpe())[0] and symbols <= vocabulary else "custom"


def _parts(tokenizer: Tokenizer) -> tuple[dict[str, Any], set[str], list[Any]]:
    """Returns the settings of ``tokenizer``, its vocabulary and its merges."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["model"].pop("vocab", None)
    merges = content["model"].pop("merges", [])
    return content, set(tokenizer.get_vocab(with_added_tokens=False)), merges


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Returns one more than the largest id, so that every id indexes an embedding of that many rows."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def characters_per_token(tokenizer: Tokenizer) -> "Tensor | None":
    """Counts, for each id, the characters of text that it stands for.

    Returns:
        int64 counts (vocab_size,): those of the ids of any text sum to its length, since a byte counts where
        it starts a character. None for a tokenizer that does not keep to this.
    """
    import torch

    if kind_of(tokenizer) == "character":
        return torch.ones(vocabulary_size(tokenizer), dtype=torch.int64)
    if not _spells_every_byte(tokenizer):
        return None
    continuations = set(byte_symbols()[0x80:0xC0])
    counts = {
        i: sum(symbol not in continuations for symbol in token)
        for token, i in tokenizer.get_vocab(with_added_tokens=False).items()
    }
    for i, added in tokenizer.get_added_tokens_decoder().items():
        takes_spaces = added.lstrip or added.rstrip
        if takes_spaces or counts.setdefault(i, len(added.content)) != len(added.content):
            return None  # one id for texts of different lengths
    return torch.tensor([counts.get(i, 0) for i in range(vocabulary_size(tokenizer))])


def _spells_every_byte(tokenizer: Tokenizer) -> bool:
    """Says whether the tokens of any text but those added are the symbols of its bytes, none lost."""
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    cutting = _steps(content["pre_tokenizer"], "pretokenizers")
    return (
        not any(_steps(content[step], "normalizers") for step in ("normalizer", "truncation", "padding"))
        and all(step["type"] in CUTTING and step.get("behavior") != "Removed" for step in cutting)
        and [step["add_prefix_space"] for step in cutting if step["type"] == "ByteLevel"] == [False]
        and model["type"] == "BPE"
        and not (model["continuing_subword_prefix"] or model["end_of_word_suffix"])
        and set(byte_symbols()) <= set(tokenizer.get_vocab(with_added_tokens=False))
    )


def _steps(step: dict[str, Any] | None, within: str) -> list[dict[str, Any]]:
    """Returns the steps that a step of a tokenizer is made of, if any."""
    if step is None or step.get("type") != "Sequence":
        return [] if step is None else [step]
    return [each for inner in step[within] for each in _steps(inner, within)]
