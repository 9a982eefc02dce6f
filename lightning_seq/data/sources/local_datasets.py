"""Local files: text, json, csv and parquet, known by their content."""

import hashlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lightning_seq.data.sources.files import find_files, naming_unreadable
from lightning_seq.data.sources.named_splits import split_files
from lightning_seq.data.sources.row_files import RowFile
from lightning_seq.errors import InputError

FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class LocalFiles:
    """The files that a path means.

    Args:
        format: Theirs: "text", "json", "csv" or "parquet".
        by_split: The files by the splits that their names say.
        content: A digest of what is in them: the same wherever they lie.
        stats: Their sizes and times when that was taken.
    """

    format: str
    by_split: dict[str, list[Path]]
    content: str
    stats: list[tuple[int, int]]


def is_local(path: str) -> bool:
    """Says whether ``path`` looks like a local path: such a one is never sent to the Hub."""
    looks_local = (
        path.startswith(("./", "../", "/", "~", ".\\", "..\\")) or Path(path).suffix.lower() in FORMATS
    )
    return looks_local or any(sign in path for sign in "*?[") or Path(path).exists()


def find_local(path: str) -> LocalFiles:
    """Returns the files that ``path`` means, by their splits."""
    files = find_files(path, FORMATS)
    formats = {FORMATS.get(file.suffix.lower(), "") for file in files}
    if len(formats) > 1 or "" in formats:
        found = sorted({file.suffix for file in files})
        raise InputError(f"{path!r} has files of {found}; give files of one format among {sorted(FORMATS)}")
    by_split: dict[str, list[Path]] = {str(split): some for split, some in split_files(files, path).items()}
    format_, stats = formats.pop(), _stats(by_split)
    return LocalFiles(format_, by_split, _content_digest(format_, by_split), stats)


def content_now(files: LocalFiles) -> str:
    """Returns the digest of what is in the files now: they may have changed since they were found."""
    if _stats(files.by_split) == files.stats:
        return files.content
    return _content_digest(files.format, files.by_split)


def row_files(files: LocalFiles, split: str) -> list[RowFile]:
    """Returns the files of a split that have rows."""
    return [RowFile(files.format, str(file), str(file)) for file in files.by_split[split]]


def _stats(by_split: dict[str, list[Path]]) -> list[tuple[int, int]]:
    stats = []
    for file in chain(*by_split.values()):
        with naming_unreadable(file):
            stat = file.stat()
        stats.append((stat.st_size, stat.st_mtime_ns))
    return stats


def _content_digest(format_: str, by_split: dict[str, list[Path]]) -> str:
    """Returns a digest of the files of each split: of their names nothing matters but the split they say."""
    total = hashlib.sha256(format_.encode("utf-8"))
    for split, files in sorted(by_split.items()):
        for file in files:
            with naming_unreadable(file), file.open("rb") as opened:
                total.update(split.encode("utf-8") + hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
