"""The splits of a dataset that is not to be downloaded whole, and what of them is kept nevertheless."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_seq.data.disk import write_whole
from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.documents import Split, digest
from lightning_seq.data.sources.hub import HubUnreachableError, stream_from_hub
from lightning_seq.data.sources.local_datasets import is_local, stream_local
from lightning_seq.data.streaming.shards import DatasetShards, FileShards, Shards
from lightning_seq.data.streaming.stream import part_of
from lightning_seq.data.tokenization.encoding import Encoded
from lightning_seq.errors import InputError

TOKENIZER_FROM = 10_000_000  # characters of the training stream that a tokenizer is made from
HELD_OUT_FROM = 50_000_000  # characters of the training stream that held-out texts are looked for in


def load_stream(
    path: str, name: str | None, revision: str | None, cache_dir: Path
) -> tuple[dict[str, Any], str]:
    """Returns the splits, and what their content is known by: a digest, or the commit on the Hub.

    Where the Hub does not answer, the splits are those of last time, each None: their tokens may be kept.
    """
    if is_local(path):
        return stream_local(path)
    memory = cache_dir / "streams" / f"{digest([path, name or '', revision or ''])[:32]}.json"
    try:
        splits, commit = stream_from_hub(path, name, revision)
    except HubUnreachableError:
        if not memory.exists():
            raise
        names, commit = json.loads(memory.read_text(encoding="utf-8"))
        return dict.fromkeys(names), commit
    write_whole(memory, json.dumps([list(splits), commit]).encode("utf-8"))
    return splits, commit


def features_of(dataset: Any) -> Mapping[str, Any]:
    """Returns the columns of a split and what they hold; of some formats this is known from their rows."""
    import datasets

    if dataset is None or isinstance(dataset, list):
        return {"text": datasets.Value("string")}
    if dataset.features is None:
        first = list(islice(dataset.with_format("arrow").iter(1), 1))
        return datasets.Features.from_arrow_schema(first[0].schema) if first else {}
    return dict(dataset.features)


def shards_of(dataset: Any, text: RowText, path: str) -> Shards:
    """Returns the texts of a split."""
    if dataset is None:
        raise InputError(
            f"the Hub does not answer, and {path!r} is to be read from there: only what was tokenized before "
            "with the same options is kept; connect and try again without HF_HUB_OFFLINE, or give the same "
            "options as before"
        )
    return FileShards(dataset, path) if isinstance(dataset, list) else DatasetShards(dataset, text, path)


def texts_of(shards: Shards, split: Split, held_out: Sequence[Split]) -> Iterator[str]:
    """Yields the texts of ``split``, or what of the beginning of a stream is held out for it."""
    wanted, seen = split if split in held_out else "train", 0
    for shard in range(len(shards)):
        for _, text in shards.texts(shard):
            if text and part_of(text, held_out) == wanted:
                yield text
            seen += len(text)
            if wanted != "train" and seen >= HELD_OUT_FROM:
                return


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
