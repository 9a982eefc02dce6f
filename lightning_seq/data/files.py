"""Local files: which ones a path means, and their text."""

import codecs
from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from lightning_seq.errors import InputError, did_you_mean


def find_files(path: str, suffixes: Iterable[str], names: Iterable[str] = ()) -> list[Path]:
    """Returns the files that ``path`` means: itself, those that match it, or those below it.

    Args:
        path: A file, a glob such as "books/**/*.txt", or a directory.
        suffixes: Of the files to take from a directory.
        names: What ``path`` could have been instead of a path, for "did you mean".
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        wanted = tuple(suffixes)
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in wanted and file.is_file())
        files = [file for file in files if not _is_of_a_program(file, place)]
        if not files:
            raise InputError(f"the directory {path!r} has no {' or '.join(wanted)} file; give one that has")
        return files
    if has_magic(path):
        files = sorted(file for file in map(Path, glob(str(place), recursive=True)) if file.is_file())  # noqa: PTH207
        if not files:
            raise InputError(f"no file matches {path!r}; check the pattern, or give a file or a directory")
        return files
    beside = [str(Path(path).parent / each.name) for each in place.parent.glob("*")]
    hint = did_you_mean(path, [*names, *beside])
    raise InputError(f"no file or directory {path!r}{hint}; give the path of a file, a directory or a glob")


def _is_of_a_program(file: Path, place: Path) -> bool:
    """Says whether a text is no data: hidden, as virtual environments are, or the samples of a run."""
    hidden = any(part.startswith(".") for part in file.relative_to(place).parts)
    return hidden or (file.name == "samples.txt" and (file.parent / "config.yaml").exists())


def read_text(file: Path) -> str:
    """Returns the text of a UTF-8 file, with its line ends as they are and without a byte order mark."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {str(file)!r} ({error.strerror}); give a file that you may read"
        ) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(file)!r} is not UTF-8: byte {error.start:,} is 0x{content[error.start]:02x}; "
            "convert it to UTF-8"
        ) from error
    return text.removeprefix(codecs.BOM_UTF8.decode("utf-8"))
