"""Byte, character and ready-made tokenizers: every kind is one `tokenizers.Tokenizer`."""

import json
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lightning_seq import checkpoints
from lightning_seq.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["byte", "character", "custom"]
TRAINED_KINDS = ("byte", "character")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MENDING = 'give "byte", "character", or the path of a tokenizer.json or a .ckpt'


def build_tokenizer(kind: str, texts: Iterable[str]) -> Tokenizer:
    """Returns a tokenizer of ``kind``, "byte" or "character", for the training ``texts``."""
    if kind == "byte":
        return _byte_tokenizer()
    if kind == "character":
        return _character_tokenizer(texts)
    raise InputError(f"unknown tokenizer {kind!r}{did_you_mean(kind, TRAINED_KINDS)}; {MENDING}")


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


def byte_symbols() -> list[str]:
    """Returns the printable symbol that byte-level vocabularies use for each of the 256 bytes."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def is_path(spec: str) -> bool:
    """Says whether ``spec`` names a file that holds a tokenizer rather than a kind of tokenizer."""
    return spec.endswith((".json", ".ckpt"))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Returns the tokenizer of a tokenizer.json, or the one that a checkpoint carries."""
    file = Path(path).expanduser()
    if not file.is_file():
        siblings = [str(file.parent / each.name) for each in file.parent.glob("*") if is_path(each.name)]
        raise InputError(f"no tokenizer at {str(path)!r}{did_you_mean(str(file), siblings)}; {MENDING}")
    content = _from_checkpoint(file) if file.suffix == ".ckpt" else _read(file)
    return parse_tokenizer(content, str(path))


def parse_tokenizer(content: str, source: str) -> Tokenizer:
    """Returns the tokenizer that the JSON ``content`` describes; ``source`` says in errors whose it is."""
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the Rust side raises bare Exception
        reason = str(error).splitlines()[0]
        raise InputError(f"{source} does not describe a tokenizer ({reason}); {MENDING}") from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the tokenizer {str(file)!r} ({error}); {MENDING}") from error


def _from_checkpoint(file: Path) -> str:
    content = (checkpoints.read(file).get(checkpoints.KEY) or {}).get("tokenizer")
    if not isinstance(content, str):
        raise InputError(f"the checkpoint {str(file)!r} carries no tokenizer; {MENDING}")
    return content


def kind_of(tokenizer: Tokenizer) -> Kind:
    """Returns "byte" or "character" for a tokenizer whose tokens are exactly these, else "custom"."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    model, steps = content["model"], content.get("pre_tokenizer") or {}
    extras = (content.get("normalizer"), content.get("post_processor"), content["added_tokens"])
    if model["type"] != "BPE" or model["merges"] or any(extras):
        return "custom"
    plain_bytes = not steps.get("use_regex", True) and not steps.get("add_prefix_space", True)
    if steps.get("type") == "ByteLevel" and plain_bytes and set(model["vocab"]) == set(byte_symbols()):
        return "byte"
    whole = (
        model["unk_token"] == UNKNOWN and not model["fuse_unk"] and all(len(x) == 1 for x in model["vocab"])
    )
    return "character" if not steps and whole else "custom"


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Returns one more than the largest id, so that every id indexes an embedding of that many rows."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def characters_per_token(tokenizer: Tokenizer) -> "Tensor | None":
    """Counts, for each id, the characters of text that it stands for.

    Returns:
        int64 counts (vocab_size,), exact for any text: a byte counts where it starts a character. None for
        a vocabulary whose tokens do not spell out their text.
    """
    import torch

    counts = torch.zeros(vocabulary_size(tokenizer), dtype=torch.int64)
    if kind_of(tokenizer) == "character":
        return counts.fill_(1)
    content = json.loads(tokenizer.to_str())
    if not _is_byte_level(content.get("decoder") or {}):
        return None
    continuations = set(byte_symbols()[0x80:0xC0])
    added = {entry["id"]: entry["content"] for entry in content["added_tokens"]}
    for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
        counts[i] = len(added[i]) if i in added else sum(symbol not in continuations for symbol in token)
    return counts


def _is_byte_level(decoder: dict[str, Any]) -> bool:
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    return [step.get("type") for step in steps] == ["ByteLevel"]
