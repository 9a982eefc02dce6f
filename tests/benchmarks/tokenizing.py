"""Tokenizing a text: this package beside `datasets.map` and beside what run_clm.py does."""

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer

from lightning_seq.data.token_store import TokenStore
from lightning_seq.data.tokenization.encoding import encode
from lightning_seq.data.tokenization.tokenizers import build_tokenizer, vocabulary_size
from lightning_seq.data.tokenization.workers import default_processes
from tests.benchmarks.turns import Table, in_turns

QUESTION = "How many MB of text a second are tokenized, beside datasets.map? (--data)"
NEEDS = ("data",)
PROTOCOL = (
    "{ids:,} ids. {size:.1f} MB of text that is already decoded, in documents of {least:,} characters and "
    "more, tokenized and written to disk by the same tokenizer in this process, and (*) in {processes}. It"
    " is repeated {copies} times, until ours takes a second (theirs {fewer}), which helps any cache. "
    "run_clm: with a mask, then into blocks of {block:,} with labels. disk: bytes for each byte of text."
)
DOCUMENT = 2000  # characters, at least
BLOCK = 1024  # tokens
OURS_LASTS, THEIRS_LASTS = 1.2, 2.0  # seconds

Flow = Callable[[Tokenizer, list[str], Path, int | None], None]


def measure(options):
    """Yields a table for each kind of tokenizer."""
    datasets.disable_progress_bars()
    text = options.data.read_bytes().decode("utf-8")
    documents = documents_of(text)
    for kind in ("bpe", "word", "character", "byte"):
        yield _table(kind, build_tokenizer(kind, [text]), documents, options.rounds)


def _table(kind: str, tokenizer: Tokenizer, documents: list[str], rounds: int) -> Table:
    size = sum(len(document.encode("utf-8")) for document in documents) / 1e6
    copies = copies_for(OURS_LASTS, ours, tokenizer, documents, size)
    fewer = min(copies, copies_for(THEIRS_LASTS, run_clm, tokenizer, documents, size))
    processes = default_processes()
    ways = {"lightning_seq*": (ours, processes, copies)}
    for name, flow in (("datasets.map", plain_map), ("run_clm", run_clm)):
        ways |= {name: (flow, None, fewer), f"{name}*": (flow, processes, fewer)}

    def run(flow: Flow, number: int | None, times: int) -> dict[str, float]:
        rate, disk = speed_of(flow, tokenizer, documents * times, number)
        return {"MB/s": rate, "disk": disk}

    told = {"size": size, "least": DOCUMENT, "processes": processes, "copies": copies, "fewer": fewer}
    protocol = PROTOCOL.format(ids=vocabulary_size(tokenizer), block=BLOCK, **told)
    table = Table(f"Tokenizing: {kind}", protocol, "MB/s", False, "datasets.map")
    return in_turns(table, {name: lambda way=way: run(*way) for name, way in ways.items()}, rounds)


def ours(tokenizer: Tokenizer, documents: list[str], folder: Path, processes: int | None) -> None:
    TokenStore.open_or_build(
        folder / "store", lambda: encode(tokenizer, documents, processes), vocabulary_size(tokenizer)
    )


def plain_map(tokenizer: Tokenizer, documents: list[str], folder: Path, processes: int | None) -> None:
    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": [e.ids for e in tokenizer.encode_batch(batch["text"], add_special_tokens=False)]}

    _map(datasets.Dataset.from_dict({"text": documents}), tokenize, folder / "ids.arrow", processes)


def run_clm(tokenizer: Tokenizer, documents: list[str], folder: Path, processes: int | None) -> None:
    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        encodings = tokenizer.encode_batch(batch["text"], add_special_tokens=False)
        ids, masks = [e.ids for e in encodings], [e.attention_mask for e in encodings]
        return {"input_ids": ids, "attention_mask": masks}

    def group_texts(batch: dict[str, list[list[int]]]) -> dict[str, Any]:
        joined = {key: list(chain(*batch[key])) for key in batch}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        blocks = {key: [each[i : i + BLOCK] for i in range(0, length, BLOCK)] for key, each in joined.items()}
        blocks["labels"] = blocks["input_ids"].copy()
        return blocks

    tokenized = _map(datasets.Dataset.from_dict({"text": documents}), tokenize, folder / "1.arrow", processes)
    _map(tokenized, group_texts, folder / "2.arrow", processes)


def _map(dataset: Any, function: Any, file: Path, processes: int | None) -> Any:
    return dataset.map(
        function,
        batched=True,
        remove_columns=dataset.column_names,
        num_proc=processes,
        cache_file_name=str(file),
        load_from_cache_file=False,
    )


def speed_of(
    flow: Flow, tokenizer: Tokenizer, documents: list[str], processes: int | None
) -> tuple[float, float]:
    """Returns the MB of text a second, and the bytes on disk for each byte of text."""
    folder = Path(tempfile.mkdtemp(prefix="tokenizing-"))
    size = sum(len(document.encode("utf-8")) for document in documents)
    try:
        start = time.perf_counter()
        flow(tokenizer, documents, folder, processes)
        seconds = time.perf_counter() - start
        disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return size / seconds / 1e6, disk / size
    finally:
        shutil.rmtree(folder)


def documents_of(text: str) -> list[str]:
    documents, lines, length = [], [], 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        length += len(line)
        if length >= DOCUMENT:
            documents.append("".join(lines))
            lines, length = [], 0
    return [*documents, "".join(lines)] if lines else documents


def copies_for(seconds: float, flow: Flow, tokenizer: Tokenizer, documents: list[str], size: float) -> int:
    rate, _ = speed_of(flow, tokenizer, documents, None)
    copies = math.ceil(seconds * rate / size)
    if copies > 1 and flow is ours:  # what is warm is faster
        rate, _ = speed_of(flow, tokenizer, documents * copies, None)
        copies = max(copies, math.ceil(seconds * rate / size))
    return max(copies, 1)
