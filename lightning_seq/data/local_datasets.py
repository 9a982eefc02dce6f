"""Local files through `datasets`: text, json, csv and parquet, known by their content."""

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from lightning_seq.data.files import find_files
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
    import datasets

    files = find_files(path, FORMATS)
    formats = {FORMATS.get(file.suffix.lower(), "") for file in files}
    if len(formats) > 1 or "" in formats:
        found = sorted({file.suffix for file in files})
        raise InputError(f"{path!r} has files of {found}; give files of one format among {sorted(FORMATS)}")
    (format_,) = formats
    by_split: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_split[_split_of(file, files)].append(str(file.resolve()))
    content = _content_digest(files)
    options = {"sample_by": "document"} if format_ == "text" else {}
    splits = datasets.load_dataset(
        format_, data_files=dict(by_split), cache_dir=str(cache_dir / "datasets" / content[:32]), **options
    )
    return dict(splits), content


def _split_of(file: Path, files: list[Path]) -> str:
    if len(files) > 1:
        words = set(re.split(r"[^a-z]+", f"{file.parent.name} {file.stem}".lower()))
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
