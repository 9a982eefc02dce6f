"""The few lines that say, when training begins, what the text is."""

import textwrap
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer

from lightning_seq.data.sources.documents import Split, digest
from lightning_seq.data.token_store import Counts
from lightning_seq.data.tokenization.tokenizers import kind_of, vocabulary_size

COLUMNS = 80
LONGEST_NAME = 52
INDENT = " " * 6


def summary(
    description: str, fingerprints: Iterable[str], counts: Mapping[Split, Counts], tokenizer: Tokenizer
) -> str:
    """Returns a paragraph with the text's name and hash, the size of each split and the vocabulary."""
    if len(description) > LONGEST_NAME:
        description = "..." + description[3 - LONGEST_NAME :]
    of_text = any(each.characters for each in counts.values())
    sizes = _text_sizes(counts) if of_text else _id_sizes(counts)
    body = textwrap.fill(", ".join(sizes), COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT)
    kind = f" ({kind_of(tokenizer)})" if of_text else ""
    head = f"data: {description}, sha256 {digest(fingerprints)[:8]}"
    return f"{head}\n{body}\n{INDENT}vocabulary {vocabulary_size(tokenizer):,}{kind}"


def _text_sizes(counts: Mapping[Split, Counts]) -> list[str]:
    unit, sizes = " characters", []
    for split, each in counts.items():
        tokens = "" if each.tokens == each.characters else f" ({each.tokens:,} tokens)"
        sizes.append(f"{split} {each.characters:,}{unit}{tokens}")
        unit = ""  # said once
    return sizes


def _id_sizes(counts: Mapping[Split, Counts]) -> list[str]:
    sizes = []
    for split, each in counts.items():
        tokens, sequences = _number(each.tokens, "token"), _number(each.documents, "sequence")
        sizes.append(f"{split} {tokens} in {sequences}")
    return sizes


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
