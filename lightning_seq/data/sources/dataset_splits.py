"""The splits of a dataset: which there are, which are held out of another, and the texts of each."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.documents import (
    FEWEST_TO_SPLIT_WHOLE,
    SPLITS,
    Split,
    cut_parts,
    digest,
    separated,
    whole_parts,
)
from lightning_seq.data.sources.hub import one_line_errors
from lightning_seq.data.sources.hub_datasets import load_from_hub
from lightning_seq.data.sources.local_datasets import (
    LocalFiles,
    content_now,
    find_local,
    is_local,
    row_files,
)
from lightning_seq.data.streaming.shards import Shards
from lightning_seq.data.streaming.source import (
    HELD_OUT_FROM,
    all_rows,
    all_texts,
    first_characters,
    shards_of,
    texts_of,
)
from lightning_seq.data.streaming.stream import HELD_OUT_ONE_IN
from lightning_seq.errors import InputError, did_you_mean

AS_WRITTEN = "values as they are written"  # earlier versions guessed the types of values


class DatasetSplits:
    """A dataset of the Hub or of local files, loaded when first asked for.

    Args:
        path: Its id, or where the files are.
        name: Its configuration.
        revision: Its branch, tag or commit.
        names: What it calls each split.
        text: What of a row is text.
        cache_dir: Where to keep what is derived from it.
        streamed: Whether to read from where it is, without keeping a copy.
    """

    def __init__(
        self,
        path: str,
        name: str | None,
        revision: str | None,
        names: Mapping[Split, str],
        text: RowText,
        cache_dir: Path,
        streamed: bool,
    ) -> None:
        self.path = path
        self.name = name
        self.streamed = streamed
        self._revision = revision
        self._names = names
        self._text = text
        self._cache_dir = cache_dir
        self._loaded: dict[str, Shards | None] = {}
        self._counts: dict[str, int] = {}
        self._commit = ""  # of a dataset of the Hub

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, a row each."""
        if self.streamed:
            return texts_of(self.shards(split), split, self.parts(split)[1:])
        shards, parts = self.shards(split), self.parts(split)
        held_out, part = len(parts) - 1, parts.index(split)
        if not held_out:
            return all_texts(shards)
        rows = self._count(self._source(split), shards)
        if rows >= FEWEST_TO_SPLIT_WHOLE:
            taken = whole_parts([1] * rows, held_out)[part]
            return filter(None, islice(all_rows(shards), taken.start, taken.stop))
        return [cut_parts("".join(separated(all_texts(shards))), held_out)[part]]

    def shards(self, split: Split) -> Shards:
        """Returns the texts that ``split`` is taken from."""
        shards = self._datasets()[self._source(split)]
        if shards is None:
            raise InputError(
                f"the Hub does not answer, and {self.path!r} is to be read from there: only what was "
                "tokenized before with the same options is kept; connect and try again without "
                "HF_HUB_OFFLINE, or give the same options as before"
            )
        return shards

    def _count(self, source: str, shards: Shards) -> int:
        """Returns how many rows there are, counted once."""
        if source not in self._counts:
            self._counts[source] = sum(1 for _ in all_rows(shards))
        return self._counts[source]

    def looked_through(self, split: Split) -> int:
        """Returns how many documents of a stream there are to hold ``split`` out of."""
        return sum(1 for _ in first_characters(all_texts(self.shards(split)), HELD_OUT_FROM))

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of the content, wherever files lie, and of how ``split`` is taken from it."""
        source = self._source(split)
        how = [repr(self._text), source, split, *self.parts(split)]
        if self._files:
            known_by = [content_now(self._files)]
            known_by += [AS_WRITTEN] if self._files.format in ("csv", "json") else []
        else:
            own = getattr(self._datasets()[source], "fingerprint", "")
            known_by = [own] if own else [self.path, self.name or "", self._commit, AS_WRITTEN]
        if self.streamed:
            known_by = ["stream", *known_by, str(HELD_OUT_ONE_IN)]
        return digest([*known_by, *how])

    def describe(self) -> str:
        """Returns the path, the configuration, and which splits had to be held out."""
        held_out = self.held_out()
        of_what = f" ({self.name})" if self.name else ""
        where_from = f", {' and '.join(held_out)} held out of {self._names['train']}" if held_out else ""
        return self.path + of_what + where_from

    def files(self, split: Split) -> list[str]:
        """Returns the files on this machine that ``split`` is taken from."""
        return list(map(str, self._files.by_split[self._source(split)])) if self._files else []

    def held_out(self) -> list[Split]:
        """Returns the splits that the dataset does not have."""
        return [split for split in SPLITS[1:] if self._names[split] not in self._there]

    def parts(self, split: Split) -> list[Split]:
        """Returns the splits that share the dataset's split that ``split`` is taken from."""
        together: list[Split] = ["train", *self.held_out()]
        return together if split in together else [split]

    def _source(self, split: Split) -> str:
        """Returns the name of the dataset's split that ``split`` is taken from."""
        return self._names["train" if split in self.held_out() else split]

    @cached_property
    def _files(self) -> LocalFiles | None:
        """The files on this machine, found when first asked for."""
        return find_local(self.path) if is_local(self.path) else None

    @property
    def _there(self) -> Mapping[str, Any]:
        """The splits there are, by name: files need not be loaded for it, since their tokens may be kept."""
        if self._files is None:
            return self._datasets()
        self._check_names(self._files.by_split)
        return self._files.by_split

    def _datasets(self) -> dict[str, Shards | None]:
        """Returns the texts of the splits there are, loaded when first asked for."""
        if not self._loaded:
            with one_line_errors(self.path):
                loaded = self._load()
                self._check_names(loaded)
                self._check_rows(loaded)
            self._loaded = loaded
        return self._loaded

    def _load(self) -> dict[str, Shards | None]:
        loaded: Mapping[str, Any]
        if (files := self._files) is None:
            loaded, self._commit = load_from_hub(
                self.path, self.name, self._revision, self._cache_dir, self.streamed
            )
        elif files.format == "text":
            loaded = files.by_split
        else:
            loaded = {split: row_files(files, split) for split in files.by_split}
        return {
            split: shards_of(some, self._text, self.path, self.streamed) for split, some in loaded.items()
        }

    def _check_names(self, there: Mapping[str, Any]) -> None:
        training = self._names["train"]
        for split, usual in zip(SPLITS, ("", "validation", "test"), strict=True):
            name = self._names[split]
            if name not in there and name != usual:
                hint = did_you_mean(name, there)
                raise InputError(
                    f"{self.path!r} has no split {name!r}{hint}; {split}_split can be one of {list(there)}"
                )
            if split != "train" and name == training:
                raise InputError(
                    f"{split}_split and train_split are both {name!r}, and no text may be in two splits; "
                    f"there are {list(there)}"
                )

    def _check_rows(self, loaded: Mapping[str, Shards | None]) -> None:
        for name in self._names.values():
            shards = loaded.get(name)
            if shards is not None and next(all_rows(shards), None) is None:
                where = self.path
                if self._files and len(self._files.by_split[name]) == 1:
                    where = str(self._files.by_split[name][0])
                raise InputError(f"{where!r} has no rows; give a file that has, or take it away")
        training = loaded[self._names["train"]]
        if (
            training is not None
            and not self.streamed
            and not any(text.strip() for text in all_texts(training))
        ):
            raise InputError(f"{self._text} of {self.path!r} holds no text, only empty rows")
