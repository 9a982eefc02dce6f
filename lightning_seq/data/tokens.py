"""TokenDataModule: sequences of integers that are no text, such as events, notes or codes."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.batching.plans import Indices
from lightning_seq.data.checks import at_least, path_or_sequences, plain_path
from lightning_seq.data.sources.documents import FEWEST_TO_SPLIT_WHOLE, HELD_OUT, SPLITS, Split, whole_parts
from lightning_seq.data.sources.files import find_files
from lightning_seq.data.sources.named_splits import ARGUMENTS, assign_splits
from lightning_seq.data.sources.token_sources import (
    SUFFIXES,
    Piece,
    TokenSource,
    from_file,
    from_python,
    pieces,
)
from lightning_seq.data.tokenization.encoding import Ids
from lightning_seq.data.tokenization.id_names import names_tokenizer, read_names, refuse_other_names
from lightning_seq.data.tokenization.tokenizers import vocabulary_size
from lightning_seq.errors import InputError

MOST_IDS = 1 << 22  # each has a name and a row of the embedding; beyond, they are no ids but quantities
HASHED_AT_ONCE = 1 << 20
TEXT_ARGUMENTS = ("tokenizer", "max_vocab_size", "num_proc")

_Span = tuple[list[TokenSource], int, int]


class TokenDataModule(SequenceDataModule):
    """Sequences of integers that are no text: events, notes, DNA, codes in the order of time.

    Args:
        path: A .npy file (1-D: a sequence; 2-D: one in each row), a .parquet file with a column of lists, a
            glob or a directory of such files; or, from Python, a list of sequences of integers. Files or
            directories of a glob or of a directory that are named train, validation (valid, val, dev) or
            test (eval) are those splits.
        val_path: The validation sequences. By default the files of ``path`` that are named for validation;
            where there are none, 5% of the training sequences are held out, before the test sequences: whole
            ones where there are three or more.
        test_path: The test sequences. By default the files of ``path`` that are named for test; where there
            are none, the last 5% of the training sequences are held out.
        column: The column of .parquet files that holds the sequences.
        vocab_size: How many ids there are: from 0 to one less. By default as many as there are names, or
            else one more than the largest id in the training sequences.
        names: What the ids are called in prompts and samples, in their order: a text file with a name a
            line, or a list. By default they are written as numbers.
        **kwargs: Arguments of SequenceDataModule, but for those of text.
    """

    # PathLike comes last: the command line takes the first type that fits, and any text fits this one.
    def __init__(
        self,
        path: str | list[Any] | PathLike[str],
        val_path: str | list[Any] | PathLike[str] | None = None,
        test_path: str | list[Any] | PathLike[str] | None = None,
        column: str = "tokens",
        vocab_size: int | None = None,
        names: str | list[str] | PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_arguments_of_text(kwargs)
        # These are saved as hyperparameters, and a checkpoint holds no Path.
        path = path_or_sequences(path, "path")
        val_path = None if val_path is None else path_or_sequences(val_path, "val_path")
        test_path = None if test_path is None else path_or_sequences(test_path, "test_path")
        names = plain_path(names)
        super().__init__(tokenizer=None, max_vocab_size=None, num_proc=None, **kwargs)
        if vocab_size is not None:
            at_least(1, vocab_size=vocab_size)
        given: dict[Split, str | list[Any] | None]
        given = {"train": path, "validation": val_path, "test": test_path}
        self._paths = {split: each for split, each in given.items() if each is not None}
        for split, each in self._paths.items():
            if not isinstance(each, str):
                self.hparams.pop(ARGUMENTS[split], None)  # data, which has no place in a checkpoint
        self.column = column
        self.names = names
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        """How many ids there are. It may be asked for before anything is set up, on every rank."""
        if self._vocab_size is None:
            self._vocab_size = self._largest() + 1 if self.names is None else vocabulary_size(self.tokenizer)
        return self._vocab_size

    @property
    def tokenizer(self) -> Tokenizer:
        """The names of the ids as a tokenizer of words, to write prompts and read samples."""
        if self._tokenizer is None:
            self._tokenizer = names_tokenizer(self._names())
        return self._tokenizer

    @property
    def unknown_token(self) -> None:
        """Sequences of ids have no unknown ones."""
        return

    def adopt_tokenizer(self, json: str) -> None:
        """Refuses a checkpoint whose ids are others than these.

        Args:
            json: The tokenizer as ``tokenizer.to_str()`` gave it.

        Raises:
            InputError: There are more of them, or fewer, or they have other names.
        """
        mending = "give the names or the vocab_size that it was trained with"
        refuse_other_names(json, self.tokenizer, self.describe(), mending)

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the sequences of ``split`` as text, by the names of their ids."""
        return (self.tokenizer.decode(ids.tolist()) for _, ids in self.encoded(split))

    def encoded(self, split: Split) -> Iterator[tuple[str, Ids]]:
        """Returns the ids of each sequence of ``split``, beside an empty text."""
        return (("", piece.ids) for piece in self._checked(split))

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of the ids of ``split`` and of where its sequences end."""
        total = hashlib.sha256()
        for piece in self._checked(split):
            total.update(len(piece.ids).to_bytes(8, "little"))
            for start in range(0, len(piece.ids), HASHED_AT_ONCE):
                total.update(piece.ids[start : start + HASHED_AT_ONCE].astype("<u4").tobytes())
        return total.hexdigest()

    def describe(self) -> str:
        """Returns where the sequences come from."""
        return ", ".join(map(_name, self._paths.values()))

    def source_files(self, split: Split) -> list[str]:
        """Returns the files that ``split`` is read from, wholly or in part."""
        sources, start, stop = self._spans[split]
        ends = np.cumsum([source.lengths.sum() for source in sources]).tolist()
        return [
            source.name
            for source, before, end in zip(sources, [0, *ends], ends, strict=False)
            if before < stop and end > start and source.name not in ARGUMENTS.values()
        ]

    def _names(self) -> list[str]:
        if self.names is None:
            return [str(i) for i in range(self.vocab_size)]
        names = read_names(self.names) if isinstance(self.names, str) else list(self.names)
        if self._vocab_size is not None and len(names) != self._vocab_size:
            whose = repr(self.names) if isinstance(self.names, str) else "the list"
            raise InputError(
                f"{whose} has {len(names):,} names and vocab_size is {self._vocab_size:,}; give a name for "
                "each id, or leave vocab_size out"
            )
        return names

    def _largest(self) -> int:
        mending = "renumber what there is from 0"
        return max((int(piece.ids.max()) for piece in self._pieces("train", MOST_IDS, mending)), default=0)

    def _checked(self, split: Split) -> Iterator[Piece]:
        if self.names is None:
            mending = "mend it, or give a larger vocab_size, by default one more than the largest training id"
        else:
            mending = "mend it, or give it a name"
        return self._pieces(split, self.vocab_size, mending)

    def _pieces(self, split: Split, limit: int, mending: str) -> Iterator[Piece]:
        for piece in pieces(*self._spans[split]):
            piece.check(limit, mending)
            yield piece

    @cached_property
    def _spans(self) -> dict[Split, _Span]:
        """Returns where each split lies: in which sources, and from where to where in ids."""
        found = {split: self._find(split, path) for split, path in self._paths.items()}
        paths = {split: _name(path) for split, path in self._paths.items()}
        found = assign_splits(found, paths, lambda source: source.name)
        shared: list[Split] = [split for split in SPLITS if split == "train" or split not in found]
        bounds = _bounds(_lengths(found["train"]), len(shared) - 1)
        spans = {split: (sources, 0, int(_lengths(sources).sum())) for split, sources in found.items()}
        return spans | {
            split: (found["train"], start, stop) for split, (start, stop) in zip(shared, bounds, strict=True)
        }

    def _find(self, split: Split, path: str | list[Any]) -> list[TokenSource]:
        if isinstance(path, str):
            found = [from_file(file, self.column) for file in find_files(path, SUFFIXES)]
        else:
            found = [from_python(path, ARGUMENTS[split])]
        if not _lengths(found).any():
            raise InputError(f"there is no id in {_name(path)}; give sequences that have some")
        return found


def _refuse_arguments_of_text(kwargs: dict[str, Any]) -> None:
    for name in TEXT_ARGUMENTS:
        if (value := kwargs.pop(name, None)) is not None:  # None is in the hyperparameters of a checkpoint
            raise InputError(
                f"{name} is {value!r}, and TokenDataModule has ids, no text to tokenize; leave it out, or "
                "take TextDataModule for text"
            )


def _lengths(sources: list[TokenSource]) -> Indices:
    return np.concatenate([source.lengths for source in sources])


def _bounds(lengths: Indices, held_out: int) -> list[tuple[int, int]]:
    """Returns from where to where each split goes, counted in ids through all sequences."""
    lengths = lengths[lengths > 0]
    ends = np.concatenate([[0], lengths.cumsum()]).tolist()
    if len(lengths) >= FEWEST_TO_SPLIT_WHOLE:
        return [(ends[part.start], ends[part.stop]) for part in whole_parts(lengths.tolist(), held_out)]
    cuts = [round(ends[-1] * (1 - part * HELD_OUT)) for part in range(held_out, 0, -1)]
    return list(zip([0, *cuts], [*cuts, ends[-1]], strict=True))


def _name(path: str | list[Any]) -> str:
    return path if isinstance(path, str) else f"{len(path):,} sequences from Python"
