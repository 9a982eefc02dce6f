from collections.abc import Callable, Iterable

import pytest

from lightning_seq.data import SequenceDataModule


class ListDataModule(SequenceDataModule):
    """The smallest subclass: texts that a test gives."""

    def __init__(self, texts: dict[str, list[str]], **kwargs):
        super().__init__(**kwargs)
        self.texts = texts

    def documents(self, split: str) -> Iterable[str]:
        return self.texts[split]


@pytest.fixture
def list_data(tmp_path) -> Callable[..., ListDataModule]:
    """Makes a DataModule of a string or of a string for each split."""

    def make(train, validation="abcaabc", test="cbaacba", **options):
        texts = {"train": [train], "validation": [validation], "test": [test]}
        return ListDataModule(texts, **{"cache_dir": str(tmp_path / "cache"), **options})

    return make
