"""The splits of a dataset that is not to be downloaded whole, and what of them is kept nevertheless."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.documents import Split
from lightning_seq.data.streaming.shards import DatasetShards, FileShards, RowShards, Shards, WholeFileShards
from lightning_seq.data.streaming.stream import part_of
from lightning_seq.data.tokenization.encoding import Encoded

TOKENIZER_FROM = 10_000_000  # characters of the training stream that a tokenizer is made from
HELD_OUT_FROM = 50_000_000  # characters of the training stream that held-out texts are looked for in


def shards_of(dataset: Any, text: RowText, path: str, streamed: bool) -> Shards | None:
    """Returns the texts of a split: of text files, of files of rows, or of what `datasets` loaded."""
    if dataset is None:
        return None
    if not isinstance(dataset, list):
        return DatasetShards(dataset, text, path)
    if all(isinstance(file, Path) for file in dataset):
        return FileShards(dataset) if streamed else WholeFileShards(dataset)
    return RowShards(dataset, text)


def texts_of(shards: Shards, split: Split, held_out: Sequence[Split]) -> Iterator[str]:
    """Yields the texts of ``split``, or what of the beginning of a stream is held out for it."""
    wanted = split if split in held_out else "train"
    texts = all_texts(shards) if wanted == "train" else first_characters(all_texts(shards), HELD_OUT_FROM)
    return (text for text in texts if part_of(text, held_out) == wanted)


def all_texts(shards: Shards) -> Iterator[str]:
    """Yields the texts that are not empty, whatever split they are in."""
    return filter(None, all_rows(shards))


def all_rows(shards: Shards) -> Iterator[str]:
    """Yields the text of each row, an empty one too."""
    for shard in range(len(shards)):
        for _, text in shards.texts(shard):
            yield text


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
