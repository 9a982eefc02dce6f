"""Local files through `datasets`: text, json, csv and parquet, known by their content."""

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from lightning_seq.data.sources.files import find_files, read_text
from lightning_seq.data.sources.hub import no_progress_bars
from lightning_seq.errors import InputError

FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
SPLIT_WORDS = {
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing"},
}


def is_local(path: str) -> bool:
    """Says whether ``path`` looks like a local path: such a one is never sent to the Hub."""
    looks_local = (
        path.startswith(("./", "../", "/", "~", ".\\", "..\\")) or Path(path).suffix.lower() in FORMATS
    )
    return looks_local or any(sign in path for sign in "*?[") or Path(path).exists()


def load_local(path: str, cache_dir: Path) -> tuple[dict[str, Any], str]:
    """Returns the splits of local files, by the names of the files, and a digest of their content.

    `datasets` knows a local file by its size and time, and would serve a rewritten one as it was. So its own
    copy goes to a place named after the content.
    """
    format_, by_split, content = _files(path)
    if format_ == "text":  # its own reader cuts texts into lines and changes their ends
        return {split: _whole_texts(some) for split, some in by_split.items()}, content
    return _load(format_, by_split, cache_dir=str(cache_dir / "datasets" / content[:32])), content


def stream_local(path: str) -> tuple[dict[str, Any], str]:
    """Returns the splits of local files, to be read from there, and a digest of their content.

    A split is an IterableDataset, or for text a list of files.
    """
    format_, by_split, content = _files(path)
    return by_split if format_ == "text" else _load(format_, by_split, streaming=True), content


def _load(format_: str, by_split: dict[str, list[Path]], **options: Any) -> dict[str, Any]:
    import datasets

    files = {split: [str(file.resolve()) for file in some] for split, some in by_split.items()}
    with no_progress_bars():
        return dict(datasets.load_dataset(format_, data_files=files, **options))


def _files(path: str) -> tuple[str, dict[str, list[Path]], str]:
    """Returns the format of the files that ``path`` means, the files by their splits, and their digest."""
    files = find_files(path, FORMATS)
    formats = {FORMATS.get(file.suffix.lower(), "") for file in files}
    if len(formats) > 1 or "" in formats:
        found = sorted({file.suffix for file in files})
        raise InputError(f"{path!r} has files of {found}; give files of one format among {sorted(FORMATS)}")
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_split[_split_of(file, Path(path).expanduser())].append(file)
    return formats.pop(), dict(by_split), _content_digest(files)


def _whole_texts(files: list[Path]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": [read_text(file) for file in files]})


def _split_of(file: Path, given: Path) -> str:
    if given != file:
        place = file.relative_to(given) if given.is_dir() else Path(file.name)
        words = set(re.split(r"[^a-z]+", str(place.with_suffix("")).lower()))
        for split, names in SPLIT_WORDS.items():
            if words & names:
                return split
    return "train"


def _content_digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest() + str(file.resolve()).encode("utf-8"))
    return total.hexdigest()
