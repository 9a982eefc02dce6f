"""The few lines that say, when training begins, what the text is."""

import textwrap
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer

from lightning_seq.data.documents import Split, digest
from lightning_seq.data.token_store import Counts
from lightning_seq.data.tokenizers import kind_of, vocabulary_size

COLUMNS = 80
LONGEST_NAME = 52


def summary(
    description: str, fingerprints: Iterable[str], counts: Mapping[Split, Counts], tokenizer: Tokenizer
) -> str:
    """Returns a paragraph with the text's name and hash, the size of each split and the vocabulary."""
    if len(description) > LONGEST_NAME:
        description = "..." + description[3 - LONGEST_NAME :]
    sizes = [f"{split} {_size(each)}" for split, each in counts.items()]
    sizes[0] = sizes[0].replace(" (", " characters (", 1) if " (" in sizes[0] else sizes[0] + " characters"
    vocabulary = f"vocabulary {vocabulary_size(tokenizer):,} ({kind_of(tokenizer)})"
    head = f"data: {description}, sha256 {digest(fingerprints)[:8]}"
    indent = " " * 6
    body = textwrap.fill(", ".join(sizes), COLUMNS, initial_indent=indent, subsequent_indent=indent)
    return f"{head}\n{body}\n{indent}{vocabulary}"


def _size(counts: Counts) -> str:
    tokens = "" if counts.tokens == counts.characters else f" ({counts.tokens:,} tokens)"
    return f"{counts.characters:,}{tokens}"
