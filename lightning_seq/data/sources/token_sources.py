"""Sequences of ids that are no text: in .npy and .parquet files, or handed over from Python."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_seq.data.batching.plans import Indices
from lightning_seq.errors import InputError, did_you_mean

SUFFIXES = (".npy", ".parquet")
ROWS_AT_ONCE = 1024

_Numbers = npt.NDArray[Any]
_Read = Callable[[int, int], Iterator[_Numbers]]


@dataclass(frozen=True)
class TokenSource:
    """Sequences that lie in one place, not read yet.

    Args:
        name: The place; no two sources have the same.
        lengths: How long each sequence is.
        read: Returns the sequences from one number up to another.
    """

    name: str
    lengths: Indices
    read: _Read


@dataclass(frozen=True)
class Piece:
    """Ids that follow one another, and where they stand."""

    source: str
    sequence: int
    position: int
    ids: _Numbers

    def check(self, limit: int, mending: str) -> None:
        """Refuses what is no id below ``limit``."""
        if self.ids.dtype.kind not in "iu":
            self._refuse_others_than_integers()
        if self.ids.min() < 0 or self.ids.max() >= limit:
            at = int(np.argmax((self.ids < 0) | (self.ids >= limit)))
            found = int(self.ids[at])
            raise InputError(f"{self._place(at)} is {found}; ids are from 0 to {limit - 1:,}: {mending}")

    def _refuse_others_than_integers(self) -> None:
        for at, each in enumerate(self.ids):
            if not isinstance(each, int | np.integer) or isinstance(each, bool):
                found = each.item() if isinstance(each, np.generic) else each
                raise InputError(
                    f"{self._place(at)} is {found!r} ({type(found).__name__}); ids are integers from 0: give "
                    "such, cast where they are whole numbers"
                )

    def _place(self, at: int) -> str:
        return f"the id at position {self.position + at} of sequence {self.sequence} of {self.source!r}"


def pieces(sources: Iterable[TokenSource], start: int, stop: int) -> Iterator[Piece]:
    """Yields the ids from ``start`` to ``stop``, counted through all ``sources``, a piece a sequence."""
    before = 0
    for source in sources:
        bounds = before + np.concatenate([[0], source.lengths.cumsum()])
        before = int(bounds[-1])
        first = max(int(np.searchsorted(bounds, start, "right")) - 1, 0)
        last = min(int(np.searchsorted(bounds, stop, "left")), len(source.lengths))
        if start >= before or first >= last:
            continue
        for sequence, ids in enumerate(source.read(first, last), start=first):
            skipped = max(start - int(bounds[sequence]), 0)
            ids = ids[skipped : max(stop - int(bounds[sequence]), 0)]
            if len(ids):
                yield Piece(source.name, sequence, skipped, ids)


def from_python(sequences: Sequence[Any], name: str) -> TokenSource:
    """Returns the sequences of a list of lists or arrays, or the rows of one array."""
    if getattr(sequences, "ndim", 0) == 1:
        sequences = [sequences]
    arrays = [_array(each, i, name) for i, each in enumerate(sequences)]
    return TokenSource(name, _lengths(arrays), lambda first, last: iter(arrays[first:last]))


def _array(sequence: Any, i: int, name: str) -> _Numbers:
    try:
        ids = np.asarray(sequence)
    except ValueError:  # of lists in a list
        ids = np.empty((0, 0))
    if ids.ndim != 1:
        raise InputError(
            f"sequence {i} of {name!r} is {str(sequence)[:40]!r}, no sequence of ids; give a list of "
            "sequences, each a list or an array of integers"
        )
    if not len(ids):
        return np.empty(0, np.int64)
    if isinstance(sequence, list | tuple) and not _all_integers(ids, sequence):
        return np.fromiter(sequence, dtype=object)  # as they are: numpy makes one type of different ones
    return ids


def _all_integers(ids: _Numbers, sequence: Sequence[Any]) -> bool:
    return ids.dtype.kind in "iu" and not any(isinstance(each, bool | np.bool_) for each in sequence)


def from_file(file: Path, column: str) -> TokenSource:
    """Returns the sequences of a .npy file, or of a .parquet file's ``column``."""
    if file.suffix.lower() == ".parquet":
        return _from_parquet(file, column)
    if file.suffix.lower() == ".npy":
        return _from_npy(file)
    raise InputError(
        f"{str(file)!r} is neither a .npy nor a .parquet file; save ids by numpy.save, or as a "
        "column of lists"
    )


def _from_npy(file: Path) -> TokenSource:
    try:
        ids = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{str(file)!r} holds no array of numbers, or is cut short; save integers by numpy.save"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot read {str(file)!r} ({error.strerror or error}); give a file that you may read"
        ) from error
    if not isinstance(ids, np.ndarray) or ids.ndim not in (1, 2):
        found = f"{ids.ndim} dimensions" if isinstance(ids, np.ndarray) else "several arrays"
        raise InputError(f"{str(file)!r} holds {found}; give one sequence (1-D), or one in each row (2-D)")
    rows = ids if ids.ndim == 2 else ids[None]
    lengths = np.full(len(rows), rows.shape[1], np.int64)
    return TokenSource(str(file), lengths, lambda first, last: (np.asarray(row) for row in rows[first:last]))


def _from_parquet(file: Path, column: str) -> TokenSource:
    lengths = _lengths(_parquet_rows(file, column, 0, None))
    return TokenSource(str(file), lengths, lambda first, last: _parquet_rows(file, column, first, last))


def _parquet_rows(file: Path, column: str, first: int, last: int | None) -> Iterator[_Numbers]:
    """Yields the rows of a column of lists, from one number up to another or to the end."""
    import pyarrow as arrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file.absolute())  # "s3:ids.parquet" alone is an address
    except (OSError, arrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read {str(file)!r} ({reason}); give a whole .parquet file") from error
    with opened:
        element = _element_type(opened.schema_arrow, column, file)
        groups, number = _row_groups(opened.metadata, first, last)
        for batch in opened.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=[column]):
            rows = batch.column(0).cast(arrow.large_list(element))
            if rows.null_count or rows.values.null_count:
                _refuse_nulls(rows.to_pylist(), number, file)
            numbers = rows.values.to_numpy()
            for start, stop in pairwise(rows.offsets.to_numpy()):
                if first <= number and (last is None or number < last):
                    yield numbers[start:stop]
                number += 1


def _refuse_nulls(rows: list[Any], number: int, file: Path) -> None:
    for i, row in enumerate(rows, start=number):
        if row is None or None in row:
            raise InputError(f"sequence {i} of {str(file)!r} has a null; give integers alone")


def _element_type(schema: Any, column: str, file: Path) -> Any:
    from pyarrow import types

    if column not in schema.names:
        raise InputError(
            f"{str(file)!r} has no column {column!r}{did_you_mean(column, schema.names)}; column can be one "
            f"of {schema.names}"
        )
    kind = schema.field(column).type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not types.is_integer(kind.value_type):
        raise InputError(
            f"column {column!r} of {str(file)!r} holds {kind}, not lists of integers; column can be one of "
            f"{schema.names}"
        )
    return kind.value_type


def _row_groups(metadata: Any, first: int, last: int | None) -> tuple[list[int], int]:
    """Returns the row groups with rows from ``first`` to ``last``, and with which row they begin."""
    bounds = [0, *accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))]
    spans = list(pairwise(bounds))
    groups = [i for i, (start, stop) in enumerate(spans) if stop > first and (last is None or start < last)]
    return groups, spans[groups[0]][0] if groups else 0


def _lengths(sequences: Iterable[Any]) -> Indices:
    return np.fromiter(map(len, sequences), dtype=np.int64)
