"""The few lines that say, when training begins, what the text is."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from lightning_seq.data.sources.documents import Split
from lightning_seq.data.token_store import Counts
from lightning_seq.data.tokenization.tokenizers import kind_of, vocabulary_size
from lightning_seq.prompts import unknown_token

COLUMNS = 80
LONGEST_NAME = 52
MOST_FILES_NAMED = 3
INDENT = " " * 6


def summary(
    description: str,
    fingerprint: str,
    counts: Mapping[Split, Counts],
    tokenizer: Tokenizer,
    files: Mapping[Split, Sequence[str]] | None = None,
) -> str:
    """Returns a paragraph with the text's name and hash, the size of each split and the vocabulary.

    Args:
        description: What the text is: its name, and after a comma what else is to be said.
        fingerprint: Of the training text, which a resumed training must have again.
        counts: The sizes of the splits that are kept.
        tokenizer: The tokenizer.
        files: The files of each split, which are named where there are several.
    """
    name, *more = description.split(", ")
    if len(name) > LONGEST_NAME:
        name = "..." + name[3 - LONGEST_NAME :]
    of_text = any(each.characters for each in counts.values())
    sizes = _text_sizes(counts) if of_text else _id_sizes(counts)
    kind = f" ({kind_of(tokenizer)})" if of_text else ""
    vocabulary = f"vocabulary {vocabulary_size(tokenizer):,}{kind}"
    paragraphs = [", ".join(more), _files_by_split(files or {}), ", ".join(sizes), vocabulary]
    if of_text:
        paragraphs.append(_unknown_by_split(counts, tokenizer))
    return "\n".join([f"data: {name}, sha256 {fingerprint[:8]}", *map(_indented, filter(None, paragraphs))])


def _indented(text: str) -> str:
    return textwrap.fill(text, COLUMNS, initial_indent=INDENT, subsequent_indent=INDENT)


def _files_by_split(files: Mapping[Split, Sequence[str]]) -> str:
    """Returns the names of the files of each split; splits that are cut from the same ones stand together."""
    distinct = {os.path.abspath(file) for file in chain(*files.values())}  # noqa: PTH100 - as named
    if len(distinct) <= 1:
        return ""
    root = os.path.commonpath([Path(file).parent for file in distinct])
    together: dict[tuple[str, ...], list[str]] = {}
    for split, some in files.items():
        together.setdefault(tuple(some), []).append(split)
    said = []
    for some, splits in together.items():
        names = [os.path.relpath(file, root) for file in some]
        if len(names) > MOST_FILES_NAMED:
            names = [f"{names[0]} to {names[-1]} ({len(names):,} files)"]
        said.append(f"{', '.join(splits)}: {', '.join(names)}")
    return "; ".join(said)


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


def _unknown_by_split(counts: Mapping[Split, Counts], tokenizer: Tokenizer) -> str:
    """Returns the fraction of unknown tokens of each split, where there are some."""
    unknown = unknown_token(tokenizer)
    if unknown is None or not any(each.unknown for each in counts.values()):
        return ""
    said = (f"{split} {each.unknown / max(1, each.tokens):.2%}" for split, each in counts.items())
    return f"unknown tokens ({unknown.token}): {', '.join(said)}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
