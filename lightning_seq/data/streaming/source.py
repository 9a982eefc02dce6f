"""The splits of a dataset that is not to be downloaded whole, and what of them is kept nevertheless."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lightning_seq.data.disk import write_whole
from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.documents import Split, digest
from lightning_seq.data.sources.hub import HubUnreachableError, one_line_errors, quietly, stream_from_hub
from lightning_seq.data.sources.local_datasets import (
    LocalFiles,
    NoRowsError,
    check_has_rows,
    check_text_rows,
    explain_file,
    stream_local,
)
from lightning_seq.data.streaming.shards import DatasetShards, FileShards, Shards
from lightning_seq.data.streaming.stream import part_of
from lightning_seq.data.tokenization.encoding import Encoded
from lightning_seq.errors import InputError

TOKENIZER_FROM = 10_000_000  # characters of the training stream that a tokenizer is made from
HELD_OUT_FROM = 50_000_000  # characters of the training stream that held-out texts are looked for in


def load_stream(
    path: str, name: str | None, revision: str | None, cache_dir: Path
) -> tuple[dict[str, Any], str]:
    """Returns the splits of a dataset of the Hub, and the commit they are of.

    Where the Hub does not answer, the splits are those of last time, each None: their tokens may be kept.
    """
    memory = cache_dir / "streams" / f"{digest([path, name or '', revision or ''])[:32]}.json"
    try:
        splits, commit = stream_from_hub(path, name, revision)
    except HubUnreachableError:
        if not memory.exists():
            raise
        names, commit = json.loads(memory.read_text(encoding="utf-8"))
        return dict.fromkeys(names), commit
    content = json.dumps([list(splits), commit]).encode("utf-8")
    if not memory.exists() or memory.read_bytes() != content:  # the cache may be a read-only one
        write_whole(memory, content)
    return splits, commit


def features_of(dataset: Any) -> Mapping[str, Any]:
    """Returns the columns of a split and what they hold; of some formats this is known from their rows."""
    import datasets

    if dataset is None or isinstance(dataset, list):
        return {"text": datasets.Value("string")}
    if dataset.features is None:
        first = list(islice(quietly(dataset.with_format("arrow").iter(1)), 1))
        return datasets.Features.from_arrow_schema(first[0].schema) if first else {}
    return dict(dataset.features)


def shards_of(dataset: Any, text: RowText, path: str, files: Sequence[Path] = ()) -> Shards:
    """Returns the texts of a split, whose files are ``files`` where they are on this machine."""
    if dataset is None:
        raise InputError(
            f"the Hub does not answer, and {path!r} is to be read from there: only what was tokenized before "
            "with the same options is kept; connect and try again without HF_HUB_OFFLINE, or give the same "
            "options as before"
        )
    return FileShards(dataset) if isinstance(dataset, list) else DatasetShards(dataset, text, path, files)


def check_files(files: LocalFiles, text: RowText, whole: bool) -> None:
    """Refuses local files by the first that cannot be read, after `datasets` could not read them together.

    Args:
        files: The files.
        text: What of a row is text.
        whole: Whether to read all of each, rather than its beginning.
    """
    empty: NoRowsError | None = None
    for file in chain(*files.by_split.values()):
        with one_line_errors(str(file), "that file"):
            try:
                check_has_rows(file)
                _read(replace(files, by_split={"train": [file]}), text, whole)
            except NoRowsError as error:
                empty = empty or error  # the others may have what is to blame: some readers take this one
            except InputError:
                check_text_rows(file, text.columns, first=1)  # if it is the first, it is the whole column
                raise
            except Exception:
                explain_file(file, text.columns, first=1)
                raise
    if empty:
        raise empty


def _read(file: LocalFiles, text: RowText, whole: bool) -> None:
    (path,), (dataset,) = file.by_split["train"], stream_local(file).values()
    text.check(features_of(dataset), str(path))
    rows = all_texts(shards_of(dataset, text, str(path), [path]))
    deque(rows if whole else islice(rows, 1), maxlen=0)


def texts_of(shards: Shards, split: Split, held_out: Sequence[Split]) -> Iterator[str]:
    """Yields the texts of ``split``, or what of the beginning of a stream is held out for it."""
    wanted = split if split in held_out else "train"
    texts = all_texts(shards) if wanted == "train" else first_characters(all_texts(shards), HELD_OUT_FROM)
    return (text for text in texts if part_of(text, held_out) == wanted)


def all_texts(shards: Shards) -> Iterator[str]:
    """Yields the texts that are not empty, whatever split they are in."""
    for shard in range(len(shards)):
        yield from filter(None, (text for _, text in shards.texts(shard)))


def first_characters(texts: Iterator[str], characters: int) -> Iterator[str]:
    """Yields texts until they have ``characters`` in all."""
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def first_tokens(encoded: Encoded, tokens: int) -> Encoded:
    """Yields texts until they have ``tokens`` in all; the last one is whole."""
    for text, ids in encoded:
        yield text, ids
        tokens -= len(ids)
        if tokens <= 0:
            return
