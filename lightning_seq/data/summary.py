"""The few lines that say, when training begins, what the text is."""

import textwrap
from collections.abc import Mapping

from tokenizers import Tokenizer

from lightning_seq.data.sources.documents import Split
from lightning_seq.data.token_store import Counts
from lightning_seq.data.tokenization.tokenizers import kind_of, vocabulary_size

COLUMNS = 80
LONGEST_NAME = 52
INDENT = " " * 6


def summary(description: str, fingerprint: str, counts: Mapping[Split, Counts], tokenizer: Tokenizer) -> str:
    """Returns a paragraph with the text's name and hash, the size of each split and the vocabulary.

    Args:
        description: What the text is: its name, and after a comma what else is to be said.
        fingerprint: Of the training text, which a resumed training must have again.
        counts: The sizes of the splits that are kept.
        tokenizer: The tokenizer.
    """
    name, *more = description.split(", ")
    if len(name) > LONGEST_NAME:
        name = "..." + name[3 - LONGEST_NAME :]
    of_text = any(each.characters for each in counts.values())
    sizes = _text_sizes(counts) if of_text else _id_sizes(counts)
    kind = f" ({kind_of(tokenizer)})" if of_text else ""
    vocabulary = f"vocabulary {vocabulary_size(tokenizer):,}{kind}"
    paragraphs = [", ".join(more), ", ".join(sizes), vocabulary]
    return "\n".join([f"data: {name}, sha256 {fingerprint[:8]}", *map(_indented, filter(None, paragraphs))])


def _indented(text: str) -> str:
    return textwrap.fill(text, COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT)


def _text_sizes(counts: Mapping[Split, Counts]) -> list[str]:
    unit, sizes = " characters", []
    for split, each in counts.items():
        tokens = "" if each.tokens == each.characters else f" ({each.tokens:,} tokens)"
        documents = f" in {each.documents:,} documents" if each.documents > 1 else ""
        sizes.append(f"{split} {each.characters:,}{unit}{documents}{tokens}")
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
