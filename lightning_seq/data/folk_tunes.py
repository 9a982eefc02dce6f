"""FolkTunes: tunes in ABC notation, whole ones in each split."""

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.batching.batches import Batches
from lightning_seq.data.sources.documents import SPLITS, Split
from lightning_seq.data.sources.files import find_files, read_text
from lightning_seq.errors import InputError

SUFFIXES = (".abc", ".txt")
HELD_OUT_ONE_IN = 10

_BETWEEN = re.compile(r"\n[ \t]*\n|^(?=X:)", re.MULTILINE)
_KEY = re.compile(r"^K:.*\n?", re.MULTILINE)  # the key ends the header of a tune
_LAYOUT = re.compile(r"[\s!\\]+")  # says where a line ends, and nothing of the music


class FolkTunes(SequenceDataModule):
    """Tunes in ABC notation (https://abcnotation.com), such as those of MIT 6.S191's lab.

    A tune is a document, and is never cut: one tune in ten is held out for validation, and one for test, by
    a hash of its notes. So it stays where it is when others are added, and one that is there twice, or under
    two titles, is in one split only. Each tune ends with an empty line.

    Args:
        path: A file of tunes that begin with X: or are set apart by empty lines, a glob, or a directory (all
            .abc and .txt files below it). What has no key (K:) or no notes behind it is left out.
        **kwargs: Arguments of SequenceDataModule.
    """

    def __init__(self, path: str | None = None, **kwargs: Any) -> None:
        if path is None:
            raise InputError(
                "FolkTunes has no path; give --data.path FILE, tunes in ABC notation, such as "
                "https://raw.githubusercontent.com/aamini/introtodeeplearning/master/mitdeeplearning/data/irish.abc"
            )
        path = os.fspath(path)  # from Python it may be a pathlib.Path; as a hyperparameter it is to be plain
        super().__init__(**kwargs)
        self.path = path

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the tunes of ``split``, in the order of the files."""
        return self._tunes[split]

    def describe(self) -> str:
        """Returns the path, and how many tunes each split has."""
        counts = [len(self._tunes[split]) for split in SPLITS]
        return f"{self.path} ({sum(counts):,} tunes: {' + '.join(map(str, counts))})"

    def batches(self, split: Split, training: bool) -> Batches:
        """Returns this rank's batches of ``split``."""
        if not self._tunes[split]:
            raise InputError(
                f"the {split} split of {self.describe()} is empty: a hash of each tune decides; "
                f"give more tunes, or set the trainer's limit_{split.removesuffix('idation')}_batches to 0"
            )
        return super().batches(split, training)

    @cached_property
    def _tunes(self) -> dict[Split, list[str]]:
        texts = [read_text(file) for file in find_files(self.path, SUFFIXES)]
        tunes = [tune for text in texts for tune in tunes_of(text)]
        if not tunes:
            raise InputError(
                f"{self.path!r} has no tune in ABC notation; give a file of tunes, each with a key (K:)"
            )
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for tune in tunes:
            found[split_of(tune)].append(tune)
        return found


def tunes_of(text: str) -> list[str]:
    """Returns the tunes of a file, each from its first line to the empty line behind it."""
    text = "\n".join(text.splitlines())  # whatever ends its lines
    parts = (part.strip() for part in _BETWEEN.split(text))
    return [f"{part}\n\n" for part in parts if _notes(part)]


def split_of(tune: str) -> Split:
    """Returns the split that a tune belongs to: by its notes alone, neither by its title nor by its lines."""
    drawn = int.from_bytes(hashlib.sha256(_notes(tune).encode()).digest()[:8], "big") % HELD_OUT_ONE_IN
    held_out: dict[int, Split] = {0: "validation", 1: "test"}
    return held_out.get(drawn, "train")


def _notes(tune: str) -> str:
    """Returns what follows the key, without what lays out lines; nothing where there is no key."""
    _, *notes = _KEY.split(tune, maxsplit=1)
    return _LAYOUT.sub("", "".join(notes))
