"""Local files through `datasets`: text, json, csv and parquet, known by their content."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lightning_seq.data.disk import explaining_disk_errors
from lightning_seq.data.sources.files import check_utf8, find_files, naming_unreadable, read_text
from lightning_seq.data.sources.hub import quiet_datasets
from lightning_seq.data.sources.named_splits import split_files
from lightning_seq.errors import InputError

FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class LocalFiles:
    """The files that a path means.

    Args:
        format: Theirs, as `datasets` calls it.
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


def load_local(files: LocalFiles, cache_dir: Path) -> dict[str, Any]:
    """Returns the splits of local files.

    `datasets` knows a local file by its size and time, and would serve a rewritten one as it was. So its own
    copy goes to a place named after the content.
    """
    import datasets

    if files.format == "text":  # its own reader cuts texts into lines and changes their ends
        return {split: _whole_texts(some) for split, some in files.by_split.items()}
    with explaining_disk_errors(cache_dir):
        try:
            return _load(files, cache_dir=str(cache_dir / "datasets" / files.content[:32]))
        except datasets.exceptions.DatasetGenerationError as error:
            # Arrow calls a damaged file an OSError too, but only the system's own have a number.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno:
                raise error.__cause__ from error
            raise


def stream_local(files: LocalFiles) -> dict[str, Any]:
    """Returns the splits of local files, to be read from there.

    A split is an IterableDataset, or for text a list of files.
    """
    return dict(files.by_split) if files.format == "text" else _load(files, streaming=True)


def explain_file(file: Path, columns: Sequence[str], first: int = 0) -> None:
    """Looks in a file that could not be read for what the readers of `datasets` say nothing useful of.

    Args:
        file: The file.
        columns: Those that are to hold text.
        first: The first row to look at.
    """
    if file.suffix.lower() != ".parquet":
        check_utf8(file)
    check_has_rows(file)
    check_text_rows(file, columns, first)


def check_has_rows(file: Path) -> None:
    """Refuses a file without rows, at which some readers of `datasets` fail; a text needs none."""
    if not _has_rows(file):
        raise NoRowsError(f"{str(file)!r} has no rows; give a file that has, or take it away")


class NoRowsError(InputError):
    """A file is empty. Whether that is a fault depends on the others."""


def _has_rows(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped]

        return bool(parquet.read_metadata(file).num_rows)
    with file.open("rb") as opened:
        lines = list(islice(filter(None, map(bytes.strip, opened)), 2))
    if suffix == ".csv":
        return len(lines) > 1  # the first are names
    return suffix == ".txt" or lines not in ([], [b"[]"])


def check_text_rows(file: Path, columns: Sequence[str], first: int = 0) -> None:
    """Refuses a .jsonl by its first row, from ``first`` on, that holds something other than text."""
    if file.suffix.lower() != ".jsonl":
        return
    with file.open("rb") as opened:
        for number, line in enumerate(filter(bytes.strip, opened)):
            try:
                row = json.loads(line)
            except ValueError:
                return  # what the matter is, its reader says
            if not isinstance(row, dict) or (number == 0 and not row.keys() >= set(columns)):
                return
            wrong = [column for column in columns if not isinstance(row.get(column), str | None)]
            if wrong and number < first:
                return
            if wrong:
                raise InputError(
                    f"row {number:,} of {str(file)!r} holds {type(row[wrong[0]]).__name__}, not text, in "
                    f"column {wrong[0]!r}; give text in every row"
                )


def _load(files: LocalFiles, **options: Any) -> dict[str, Any]:
    import datasets

    absolute = {split: [str(file.resolve()) for file in some] for split, some in files.by_split.items()}
    with quiet_datasets():
        return dict(datasets.load_dataset(files.format, data_files=absolute, **options))


def _whole_texts(files: list[Path]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"text": [read_text(file) for file in files]})


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
