"""Tokenizing a text: this package against `datasets.map` and against what run_clm.py does.

    python tests/benchmarks/tokenizing.py TEXT_FILE [--repeat N] [--rounds N] [--processes N]

Text that is already decoded is tokenized and written to disk, by the same tokenizer:

- ours: `encode` into a TokenStore.
- map: `datasets.Dataset.map(batched=True)` to `input_ids`, as it comes (one process, in which `tokenizers`
  has a thread for each core) and, as map*, with as many processes as ours.
- run_clm: map to `input_ids` and `attention_mask`, then map into blocks with `labels`, both ways too.

Documents are groups of lines. They are repeated until our measurement lasts a second (theirs are given fewer
repetitions where two seconds are enough), which helps any cache: a file of 30 MB or more needs none. Rounds
are interleaved; medians are shown, the ratio is to the faster of the two ways, and disk is bytes for each
byte of text.
"""

import argparse
import math
import shutil
import statistics
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

DOCUMENT = 2000  # characters, at least
BLOCK = 1024  # tokens
OURS_LASTS, THEIRS_LASTS = 1.2, 2.0  # seconds

Flow = Callable[[Tokenizer, list[str], Path, int | None], None]


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


def measure(
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
    rate, _ = measure(flow, tokenizer, documents, None)
    copies = math.ceil(seconds * rate / size)
    if copies > 1 and flow is ours:  # what is warm is faster
        rate, _ = measure(flow, tokenizer, documents * copies, None)
        copies = max(copies, math.ceil(seconds * rate / size))
    return max(copies, 1)


def row(
    name: str, tokenizer: Tokenizer, documents: list[str], options: argparse.Namespace, size: float
) -> None:
    copies = options.repeat or copies_for(OURS_LASTS, ours, tokenizer, documents, size)
    ways: dict[str, tuple[Flow, int | None, int]] = {"ours": (ours, options.processes, copies)}
    for label, flow in (("map", plain_map), ("run_clm", run_clm)):
        fewer = min(copies, copies_for(THEIRS_LASTS, flow, tokenizer, documents, size))
        ways |= {label: (flow, None, fewer), f"{label}*": (flow, options.processes, fewer)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    disk: dict[str, float] = {}
    for _ in range(options.rounds):
        for way, (flow, processes, times) in ways.items():
            rate, disk[way] = measure(flow, tokenizer, documents * times, processes)
            rates[way].append(rate)
    speed = {way: statistics.median(each) for way, each in rates.items()}
    ratios = [speed["ours"] / max(speed[way], speed[f"{way}*"]) for way in ("map", "run_clm")]
    fields = [f"{speed[way]:8.1f}" for way in ways] + [f"{ratio:6.1f}x" for ratio in ratios]
    fields += [f"{disk[way]:5.2f}" for way in ("ours", "map", "run_clm")]
    fields += [f"{disk[way] / disk['ours']:5.1f}x" for way in ("map", "run_clm")]
    print(f"{name:>10} {vocabulary_size(tokenizer):6,} {copies:6} " + " ".join(fields), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text_file", type=Path)
    parser.add_argument("--repeat", type=int, help="how often our text is repeated (default: for a second)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=default_processes(), help="of ours and of map*")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    text = options.text_file.read_bytes().decode("utf-8")
    size = len(text.encode("utf-8")) / 1e6
    documents = documents_of(text)
    print(
        f"{options.text_file.name}: {size:.1f} MB, {len(documents):,} documents; "
        f"{options.processes} processes (*: of datasets, too), {options.rounds} rounds\n"
        f"{'':25}{'MB/s':^45}{'ours against':^16}{'disk, bytes/byte':^18}{'against ours':^13}\n"
        f"{'tokenizer':>10} {'ids':>6} {'copies':>6}     ours      map     map*  run_clm run_clm*"
        f"     map run_clm  ours   map   clm    map    clm"
    )
    sizes = {"bpe": None, "bpe (4k)": 4096} if size < 4 else {"bpe": None}
    kinds = {**sizes, "word": None, "character": None, "byte": None}
    for name, max_vocab_size in kinds.items():
        tokenizer = build_tokenizer(name.split(maxsplit=1)[0], [text], max_vocab_size)
        row(name, tokenizer, documents, options, size)


if __name__ == "__main__":
    main()
