"""The splits of a dataset: which there are, which are held out of another, and the texts of each."""

from collections.abc import Iterable, Iterator, Mapping
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
from lightning_seq.data.sources.hub import load_from_hub, one_line_errors
from lightning_seq.data.sources.local_datasets import is_local, load_local
from lightning_seq.data.streaming.shards import Shards
from lightning_seq.data.streaming.source import features_of, load_stream, shards_of, texts_of
from lightning_seq.data.streaming.stream import HELD_OUT_ONE_IN
from lightning_seq.errors import InputError, did_you_mean

ROWS_AT_ONCE = 1000


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
        self._loaded: dict[str, Any] = {}
        self._content = ""  # what local files and streams are known by

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, a row each."""
        if self.streamed:
            return texts_of(self.shards(split), split, self.parts(split)[1:])
        dataset, parts = self._datasets()[self._source(split)], self.parts(split)
        held_out, part = len(parts) - 1, parts.index(split)
        if not held_out:
            return _texts(dataset, self._text)
        if len(dataset) >= FEWEST_TO_SPLIT_WHOLE:
            rows = whole_parts([1] * len(dataset), held_out)[part]
            return _texts(dataset.select(rows), self._text)
        return [cut_parts("".join(separated(_texts(dataset, self._text))), held_out)[part]]

    def shards(self, split: Split) -> Shards:
        """Returns the stream that ``split`` is taken from."""
        return shards_of(self._datasets()[self._source(split)], self._text, self.path)

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of what was loaded and of how ``split`` is taken from it."""
        dataset = self._datasets()[self._source(split)]
        how = [repr(self._text), self._source(split), split, *self.parts(split)]
        if self.streamed:
            return digest(["stream", self.path, self.name or "", self._content, str(HELD_OUT_ONE_IN), *how])
        return digest([self._content or dataset._fingerprint, *how])

    def describe(self) -> str:
        """Returns the path, the configuration, and which splits had to be held out."""
        held_out = self.held_out()
        of_what = f" ({self.name})" if self.name else ""
        where_from = f", {' and '.join(held_out)} held out of {self._names['train']}" if held_out else ""
        return self.path + of_what + where_from

    def held_out(self) -> list[Split]:
        """Returns the splits that the dataset does not have."""
        return [split for split in SPLITS[1:] if self._names[split] not in self._datasets()]

    def parts(self, split: Split) -> list[Split]:
        """Returns the splits that share the dataset's split that ``split`` is taken from."""
        together: list[Split] = ["train", *self.held_out()]
        return together if split in together else [split]

    def _source(self, split: Split) -> str:
        """Returns the name of the dataset's split that ``split`` is taken from."""
        return self._names["train" if split in self.held_out() else split]

    def _datasets(self) -> dict[str, Any]:
        """Returns the splits there are, loaded when first asked for."""
        if not self._loaded:
            with one_line_errors(self.path):
                loaded = self._load()
                self._check(loaded)
            self._loaded = loaded
        return self._loaded

    def _load(self) -> dict[str, Any]:
        if self.streamed:
            loaded, self._content = load_stream(self.path, self.name, self._revision, self._cache_dir)
        elif is_local(self.path):
            loaded, self._content = load_local(self.path, self._cache_dir)
        else:
            loaded = load_from_hub(self.path, self.name, self._revision)
        return loaded

    def _check(self, loaded: dict[str, Any]) -> None:
        training = self._names["train"]
        for split, usual in zip(SPLITS, ("", "validation", "test"), strict=True):
            name = self._names[split]
            if name not in loaded and name != usual:
                hint = did_you_mean(name, loaded)
                raise InputError(
                    f"{self.path!r} has no split {name!r}{hint}; {split}_split can be one of {list(loaded)}"
                )
            if split != "train" and name == training:
                raise InputError(
                    f"{split}_split and train_split are both {name!r}, and no text may be in two splits; "
                    f"there are {list(loaded)}"
                )
            if name in loaded and loaded[name] is not None:
                self._text.check(features_of(loaded[name]), self.path)
        if not self.streamed and not any(text.strip() for text in _texts(loaded[training], self._text)):
            raise InputError(
                f"{self._text} of {self.path!r} holds no text, only empty rows; there are "
                f"{list(loaded[training].features)}"
            )


def _texts(dataset: Any, text: RowText) -> Iterator[str]:
    for rows in dataset.select_columns(text.columns).iter(batch_size=ROWS_AT_ONCE):
        yield from filter(None, text.texts(rows))
