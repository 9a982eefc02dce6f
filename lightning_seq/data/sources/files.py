"""Local files: which ones a path means, and their text."""

import codecs
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

from lightning_seq.errors import InputError, did_you_mean

READ_AT_ONCE = 1 << 20


def find_files(path: str, suffixes: Iterable[str], names: Iterable[str] = ()) -> list[Path]:
    """Returns the files that ``path`` means: itself, those that match it, or those below it.

    Args:
        path: A file, a glob such as "books/**/*.txt", or a directory.
        suffixes: Of the files to take from a directory.
        names: What ``path`` could have been instead of a path, for "did you mean".
    """
    place = place_of(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        wanted = tuple(suffixes)
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in wanted and file.is_file())
        files = [file for file in files if not _is_of_a_program(file, place)]
        if not files:
            raise InputError(f"the directory {path!r} has no {' or '.join(wanted)} file; give one that has")
        return files
    root = literal_root(place)
    if has_magic(pattern := str(place.relative_to(root))):
        found = glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - Path.glob takes hidden files
        files = sorted(file for file in map(root.joinpath, found) if file.is_file())
        if not files:
            raise InputError(f"no file matches {path!r}; check the pattern, or give a file or a directory")
        return files
    if place.exists():
        raise InputError(
            f"{path!r} is a device or a pipe, neither a file nor a directory; give the path of a file, a "
            "directory or a glob"
        )
    beside = [str(Path(path).parent / each.name) for each in place.parent.glob("*")]
    hint = did_you_mean(path, [*names, *beside])
    raise InputError(f"no file or directory {path!r}{hint}; give the path of a file, a directory or a glob")


def place_of(path: str) -> Path:
    """Returns where ``path`` is: what exists under just that name, or else with ~ as the user's directory."""
    place = Path(path)
    try:
        return place if place.exists() else place.expanduser()
    except RuntimeError:  # there is no user of that name
        return place


def literal_root(place: Path) -> Path:
    """Returns the directory below which ``place``, a glob or a directory, finds files.

    What exists under just that name is no pattern: "[v1]/*.txt" means the files in the directory "[v1]".
    """
    if place.is_dir():
        return place
    return next(parent for parent in place.parents if parent.is_dir())


def _is_of_a_program(file: Path, place: Path) -> bool:
    """Says whether a text is no data: hidden, as virtual environments are, or the samples of a run."""
    hidden = any(part.startswith(".") for part in file.relative_to(place).parts)
    return hidden or (file.name == "samples.txt" and (file.parent / "config.yaml").exists())


def read_text(file: Path) -> str:
    """Returns the text of a UTF-8 file, with its line ends as they are and without a byte order mark."""
    with naming_unreadable(file):
        content = file.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(str(file), error) from error
    return text.removeprefix(codecs.BOM_UTF8.decode("utf-8"))


@contextmanager
def naming_unreadable(file: Path) -> Iterator[None]:
    """Turns what the operating system says while ``file`` is read into an error that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {str(file)!r} ({error.strerror}); give a file that you may read"
        ) from error


def check_utf8(file: Path) -> None:
    """Refuses a file that is not UTF-8."""
    with file.open("rb") as opened:
        check_utf8_stream(opened, str(file))


def check_utf8_stream(opened: BinaryIO, name: str) -> None:
    """Refuses what is not UTF-8, read in pieces, since it may be larger than the memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    more, count = True, 0
    while more:
        pending, _ = decoder.getstate()  # the beginning of a character that the last piece cut
        piece = opened.read(READ_AT_ONCE)
        more = bool(piece)
        try:
            decoder.decode(piece, final=not more)
        except UnicodeDecodeError as error:
            raise not_utf8(name, error, count - len(pending)) from error
        count += len(piece)


def not_utf8(file: str, error: UnicodeDecodeError, before: int = 0, where: str = "") -> InputError:
    """Returns the error that names the byte which is not UTF-8.

    Args:
        file: Where it is.
        error: What decoding said.
        before: The bytes in front of those that were decoded.
        where: What the bytes are counted in, if not in the file.
    """
    value = error.object[error.start]
    return InputError(
        f"{file!r} is not UTF-8: byte {before + error.start:,}{where} is 0x{value:02x}; convert it to UTF-8"
    )
