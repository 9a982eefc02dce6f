"""HuggingFaceTextDataModule: a dataset of the Hub, or local files in the formats that `datasets` reads."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.documents import (
    FEWEST_TO_SPLIT_WHOLE,
    SPLITS,
    Split,
    cut_parts,
    digest,
    separated,
    whole_parts,
)
from lightning_seq.data.hub import load_from_hub
from lightning_seq.data.local_datasets import is_local, load_local
from lightning_seq.errors import InputError, did_you_mean

ROWS_AT_ONCE = 1000


class HuggingFaceTextDataModule(SequenceDataModule):
    """A dataset of the Hugging Face Hub, or local text, json, csv or parquet files.

    Args:
        path: A dataset's id on the Hub, or a local file or directory (.txt, .json, .jsonl, .csv, .parquet).
        name: The configuration of the dataset, such as "wikitext-2-raw-v1".
        revision: The branch, tag or commit of the dataset.
        text_column: The column that holds the text.
        train_split: The split to train on.
        validation_split: The split to validate on; where there is none, the last 5% of train are held out.
        test_split: The split to test on; where there is none, the last 5% of train are held out.
        **kwargs: Arguments of SequenceDataModule.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        text_column: str = "text",
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.text_column = text_column
        self._name = name
        self._revision = revision
        self._split_names: dict[Split, str] = dict(
            zip(SPLITS, (train_split, validation_split, test_split), strict=True)
        )
        self._loaded: dict[str, Any] = {}
        self._content = ""  # digest of local files

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, a row each."""
        dataset, parts = self._datasets()[self._source(split)], self._parts_of(split)
        held_out, part = len(parts) - 1, parts.index(split)
        if not held_out:
            return _texts(dataset, self.text_column)
        if len(dataset) >= FEWEST_TO_SPLIT_WHOLE:
            rows = whole_parts([1] * len(dataset), held_out)[part]
            return _texts(dataset.select(rows), self.text_column)
        return [cut_parts("".join(separated(_texts(dataset, self.text_column))), held_out)[part]]

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of what `datasets` loaded and of how ``split`` is taken from it."""
        dataset = self._datasets()[self._source(split)]
        content = self._content or dataset._fingerprint
        return digest([content, self.text_column, self._source(split), split, *self._parts_of(split)])

    def describe(self) -> str:
        """Returns the path, the configuration, and which splits had to be held out."""
        held_out = self._held_out()
        of_what = f" ({self._name})" if self._name else ""
        where_from = (
            f", {' and '.join(held_out)} held out of {self._split_names['train']}" if held_out else ""
        )
        return self.path + of_what + where_from

    def _source(self, split: Split) -> str:
        """Returns the name of the dataset's split that ``split`` is taken from."""
        return self._split_names["train" if split in self._held_out() else split]

    def _parts_of(self, split: Split) -> list[Split]:
        """Returns the splits that share the dataset's split that ``split`` is taken from."""
        held_out = self._held_out()
        return ["train", *held_out] if split in ("train", *held_out) else [split]

    def _held_out(self) -> list[Split]:
        return [split for split in SPLITS[1:] if self._split_names[split] not in self._datasets()]

    def _datasets(self) -> dict[str, Any]:
        """Returns the splits there are, loaded when first asked for."""
        if not self._loaded:
            with _one_line_errors(self.path):
                if is_local(self.path):
                    loaded, self._content = load_local(self.path, self.cache_dir)
                else:
                    loaded = load_from_hub(self.path, self._name, self._revision)
            self._check(loaded)
            self._loaded = loaded
        return self._loaded

    def _check(self, loaded: dict[str, Any]) -> None:
        training = self._split_names["train"]
        for split, usual in zip(SPLITS, ("", "validation", "test"), strict=True):
            name = self._split_names[split]
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
            if name in loaded:
                _check_column(loaded[name].features, self.text_column, self.path)
        if not any(text.strip() for text in _texts(loaded[training], self.text_column)):
            raise InputError(
                f"column {self.text_column!r} of {self.path!r} holds no text, only empty rows; text_column "
                f"can be one of {list(loaded[training].features)}"
            )


def _texts(dataset: Any, column: str) -> Iterator[str]:
    for batch in dataset.select_columns([column]).iter(batch_size=ROWS_AT_ONCE):
        yield from filter(None, batch[column])


def _check_column(features: Mapping[str, Any], column: str, path: str) -> None:
    if column not in features:
        raise InputError(
            f"{path!r} has no column {column!r}{did_you_mean(column, features)}; text_column can be one of "
            f"{list(features)}"
        )
    kind = getattr(features[column], "dtype", "structures")
    if "string" not in kind:
        raise InputError(
            f"column {column!r} of {path!r} holds {kind}, not text; text_column can be one of "
            f"{list(features)}"
        )


@contextmanager
def _one_line_errors(path: str) -> Iterator[None]:
    """Turns the many exceptions of `datasets` into one that names the reason."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        import datasets

        reason: BaseException = error
        while isinstance(reason, datasets.exceptions.DatasetGenerationError) and reason.__cause__:
            reason = reason.__cause__
        line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise InputError(
            f"cannot load the dataset {path!r} ({line}); check path, name and revision"
        ) from error
