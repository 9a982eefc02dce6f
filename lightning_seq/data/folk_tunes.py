"""FolkTunes: tunes in ABC notation, whole ones in each split."""

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.batching.batches import Batches
from lightning_seq.data.sources.documents import SPLITS, Split
from lightning_seq.data.sources.files import find_files, read_text
from lightning_seq.data.sources.named_splits import split_files
from lightning_seq.errors import InputError
from lightning_seq.evaluation.abc_notation import melody

SUFFIXES = (".abc", ".txt")
HELD_OUT_ONE_IN = 10

_BETWEEN = re.compile(r"\n[ \t]*\n|^(?=X:)", re.MULTILINE)
_KEY = re.compile(r"^K:.*\n?", re.MULTILINE)  # the key ends the header of a tune


class FolkTunes(SequenceDataModule):
    """Tunes in ABC notation (https://abcnotation.com), such as those of MIT 6.S191's lab.

    A tune is a document, and is never cut: one tune in ten is held out for validation, and one for test, by
    a hash of its notes: their letters and octaves. So it stays where it is when others are added, and one
    that is there twice, under two titles, or with other words, chords or comments, is in one split only. Each
    tune ends with an empty line.

    Args:
        path: A file of tunes that begin with X: or are set apart by empty lines, a glob, or a directory (all
            .abc and .txt files below it). What has no key (K:) or no notes behind it is left out. Files or
            directories of a glob or of a directory that are named train, validation (valid, val, dev) or
            test (eval) are those splits; only what none is named for is held out by the hash.
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

    def source_files(self, split: Split) -> list[str]:
        """Returns the files that ``split`` is taken from."""
        return list(map(str, self._files.get(split, self._files["train"])))

    @cached_property
    def _files(self) -> dict[Split, list[Path]]:
        return split_files(find_files(self.path, SUFFIXES), self.path)

    @cached_property
    def _tunes(self) -> dict[Split, list[str]]:
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for split, files in self._files.items():
            tunes = [tune for file in files for tune in tunes_of(read_text(file))]
            if not tunes:
                where = self.path if len(self._files) == 1 else str(files[0])
                raise InputError(
                    f"{where!r} has no tune in ABC notation; give a file of tunes, each with a key (K:)"
                )
            for tune in tunes:
                drawn = split_of(tune) if split == "train" else split
                found[split if drawn in self._files else drawn].append(tune)
        if len(self._files) > 1:
            self._warn_of_copies(found)
        return found

    def _warn_of_copies(self, tunes: dict[Split, list[str]]) -> None:
        """Says how many tunes are in two splits, which only those that are named can have in common."""
        notes = [{_notes(tune) for tune in some} for some in tunes.values()]
        if twice := sum(map(len, notes)) - len(set().union(*notes)):
            rank_zero_warn(
                f"{twice:,} tunes of {self.path!r} are in files of two splits, by their notes; take them "
                "out of one, or held-out tunes are not new ones"
            )


def tunes_of(text: str) -> list[str]:
    """Returns the tunes of a file, each from its first line to the empty line behind it."""
    text = "\n".join(text.splitlines())  # whatever ends its lines
    parts = (part.strip() for part in _BETWEEN.split(text))
    return [f"{part}\n\n" for part in parts if _notes(part)]


def split_of(tune: str) -> Split:
    """Returns the split that a tune belongs to, by its notes alone."""
    drawn = int.from_bytes(hashlib.sha256(_notes(tune).encode()).digest()[:8], "big") % HELD_OUT_ONE_IN
    held_out: dict[int, Split] = {0: "validation", 1: "test"}
    return held_out.get(drawn, "train")


def _notes(tune: str) -> str:
    """Returns the notes that follow the key; nothing where there is no key."""
    _, *music = _KEY.split(tune, maxsplit=1)
    return "".join(melody("".join(music)))
