"""HuggingFaceTextDataModule: a dataset of the Hub, or local files in the formats that `datasets` reads."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.batching.batches import Batches
from lightning_seq.data.checks import at_least
from lightning_seq.data.resumable import Plain
from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.dataset_splits import DatasetSplits
from lightning_seq.data.sources.documents import SPLITS, Split, digest
from lightning_seq.data.streaming.packed_stream import PackedStream
from lightning_seq.data.streaming.source import HELD_OUT_FROM, TOKENIZER_FROM, first_characters, first_tokens
from lightning_seq.data.streaming.stream import HELD_OUT_ONE_IN, Stream
from lightning_seq.data.tokenization.encoding import Ids
from lightning_seq.errors import InputError

EVALUATION_TOKENS = 1_000_000  # at most, of a stream


class HuggingFaceTextDataModule(SequenceDataModule):
    """A dataset of the Hugging Face Hub, or local text, json, csv or parquet files.

    Args:
        path: A dataset's id on the Hub, or a local file, glob or directory (.txt, .json, .jsonl, .csv,
            .parquet). Local files or directories that are named train, validation (valid, val, dev) or test
            (eval) are those splits.
        name: The configuration of the dataset, such as "wikitext-2-raw-v1".
        revision: The branch, tag or commit of the dataset.
        text_column: The column that holds the text. Strings of csv, json and parquet files are read as they
            are written ("NA", "007"), and other columns may hold anything.
        template: What joins several columns to a text, in place of text_column: each is named in braces, as
            in "{title}: {text}". A brace itself is written twice. Numbers and dates are put in as they are
            written.
        blank_lines: Whether a row without text is an empty line, as in the Hub's WikiText, whose words are
            counted with those; else such rows are left out.
        train_split: The split to train on.
        validation_split: The split to validate on; where there is none, the last 5% of train are held out.
        test_split: The split to test on; where there is none, the last 5% of train are held out.
        max_tokens: Read no more of each split than begins with so many tokens, to the end of a document, and
            nothing of the rest. Validation and test texts are then held out by a hash of their content, one
            in a hundred for each, of the first 50 million characters of train; and a tokenizer is made from
            the first 10 million. The same holds for streaming.
        streaming: Whether training reads the text as it goes, for what is too large to be kept: it is never
            all downloaded, tokenized or counted. It takes batching "blocks". Validation and test texts are
            read as with max_tokens, 1,000,000 where that is not given. A text file makes a document of each
            64 kB of its lines.
        shuffle_buffer: With streaming: the documents that are read and shuffled at once, in each process that
            reads; the order of files is shuffled too. By default they come in the order that they have.
        steps_per_epoch: With streaming: the batches after which an epoch ends. The next one goes on in the
            stream; a rank whose share of it is read begins again with that.
        num_workers: With streaming: processes on each rank that read and tokenize ahead.
        **kwargs: Arguments of SequenceDataModule.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        text_column: str = "text",
        template: str | None = None,
        blank_lines: bool = False,
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        max_tokens: int | None = None,
        streaming: bool = False,
        shuffle_buffer: int = 0,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        path = os.fspath(path)  # from Python it may be a pathlib.Path; as a hyperparameter it is to be plain
        super().__init__(**kwargs)
        at_least(1, max_tokens=1 if max_tokens is None else max_tokens, steps_per_epoch=steps_per_epoch)
        at_least(0, shuffle_buffer=shuffle_buffer, num_workers=num_workers)
        self._check_streaming(streaming, shuffle_buffer=shuffle_buffer, num_workers=num_workers)
        self.path = path
        self.max_tokens = max_tokens
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self.steps_per_epoch = steps_per_epoch
        self.num_workers = num_workers
        names = dict(zip(SPLITS, (train_split, validation_split, test_split), strict=True))
        text = RowText(text_column, template, blank_lines)
        streamed = streaming or max_tokens is not None
        self._splits = DatasetSplits(path, name, revision, names, text, self.cache_dir, streamed)
        self._stream: PackedStream | None = None

    def _check_streaming(self, streaming: bool, **others: int) -> None:
        if streaming and self.batching != "blocks":
            raise InputError(
                f"batching is {self.batching!r}, which arranges a text as a whole, and streaming true, which "
                'never has a whole; give batching "blocks", or max_tokens in place of streaming'
            )
        for name, value in others.items():
            if value and not streaming:
                raise InputError(f"{name} is {value}, and only streaming uses it; give streaming true, or 0")

    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, a row each."""
        return self._splits.documents(split)

    def tokenizer_texts(self, split: Split) -> Iterable[str]:
        """Returns the texts that a tokenizer is made from."""
        texts = iter(super().tokenizer_texts(split))
        return first_characters(texts, TOKENIZER_FROM) if self._splits.streamed else texts

    def encoded(self, split: Split) -> Iterator[tuple[str, Ids]]:
        """Yields each document of ``split`` with its ids, of a stream no more than is to be kept."""
        encoded = super().encoded(split)
        return first_tokens(encoded, self._most_tokens) if self._splits.streamed else encoded

    @property
    def _most_tokens(self) -> int:
        return self.max_tokens or EVALUATION_TOKENS

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of the content and of how ``split`` is taken from it."""
        whole = self._splits.fingerprint(split)
        if not self._splits.streamed:
            return whole
        read = [TOKENIZER_FROM, HELD_OUT_FROM, self._most_tokens if split in self.stored_splits else 0]
        return digest([whole, *map(str, read)])

    def describe(self) -> str:
        """Returns the path, the configuration, which splits had to be held out, and how much is read."""
        described = self._splits.describe()
        if self.streaming:
            return f"{described}, train streamed"
        return described if self.max_tokens is None else f"{described}, {self.max_tokens:,} tokens at most"

    def source_files(self, split: Split) -> list[str]:
        """Returns the files on this machine that ``split`` is taken from."""
        return self._splits.files(split)

    @property
    def stored_splits(self) -> tuple[Split, ...]:
        """The splits that are kept as tokens."""
        return SPLITS[1:] if self.streaming else SPLITS

    def batches(self, split: Split, training: bool) -> Batches:
        """Returns this rank's batches of ``split``."""
        if not training:
            self._check_held_out(split)
        if not (training and self.streaming):
            return super().batches(split, training)
        if getattr(self.trainer, "overfit_batches", 0):
            raise InputError(
                "overfit_batches asks for the same batches in every epoch, and a stream has none twice; give "
                "max_tokens in place of streaming"
            )
        self._close()
        held_out = self._splits.parts("train")[1:]
        stream = Stream(self._splits.shards("train"), held_out, self.shuffle_buffer, self.seed)
        self._stream = PackedStream(
            stream,
            self.tokenizer,
            batch_size=self.batch_size,
            context_length=self.context_length,
            steps_per_epoch=self.steps_per_epoch,
            separate_documents=self.separate_documents,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=self.num_workers,
        )
        return self._stream

    def _check_held_out(self, split: Split) -> None:
        """Explains why a split that is held out by hash has nothing: of few documents it may get none."""
        held_out = self._splits.streamed and split in self._splits.held_out()
        if not held_out or len(self._store(split)) or any(True for _ in self.documents(split)):
            return
        count, one_in = self._splits.looked_through(split), HELD_OUT_ONE_IN
        if not count:
            raise InputError(f"the train split of {self._splits.path!r} holds no text, only empty rows")
        option = "streaming" if self.streaming else "max_tokens"
        raise InputError(
            f"the {split} split of {self.describe()} is empty: one document in {one_in} is held out for it "
            f"by a hash of its content, and none of the {count:,} in train was; give the data a split "
            f"{split!r} or more documents, or leave {option} out"
        )

    @property
    def deals_out_rows(self) -> bool:
        """The ranks of a stream read apart."""
        return super().deals_out_rows and not self.streaming

    def identity(self) -> dict[str, Plain]:
        """Returns what the training batches depend on, for a stream also how it is read."""
        identity: dict[str, Plain] = {**super().identity(), "streaming": self.streaming}
        if self.streaming:
            identity["shuffle_buffer"] = self.shuffle_buffer
            identity["steps_per_epoch"] = self.steps_per_epoch
            identity["num_workers"] = max(self.num_workers, 1)  # the batches of 0 and 1 are the same
        return identity

    def teardown(self, stage: str) -> None:
        """Ends the processes that read ahead."""
        self._close()

    def on_exception(self, exception: BaseException) -> None:
        """Ends the processes that read ahead."""
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
