"""The base of DataModules whose sequences are kept as tokens on disk: text, and what else has ids."""

import textwrap
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from tokenizers import Tokenizer

from lightning_seq import prompts
from lightning_seq.data.batching.batches import Batches, StoredBatches
from lightning_seq.data.batching.document_plans import DocumentLanePlan, DocumentPlan
from lightning_seq.data.batching.plans import FEWEST_TOKENS, Batching, BlockPlan, ContiguousPlan, Plan
from lightning_seq.data.checks import at_least, keep_plain, one_of
from lightning_seq.data.disk import default_cache_dir
from lightning_seq.data.resumable import Plain, ResumableDataModule
from lightning_seq.data.sources.documents import SPLITS, Split, digest, separated
from lightning_seq.data.summary import COLUMNS, summary
from lightning_seq.data.token_store import FORMAT, TokenStore
from lightning_seq.data.tokenization.encoding import Ids, encode
from lightning_seq.data.tokenization.tokenizers import characters_per_token, vocabulary_size
from lightning_seq.data.tokenization.vocabulary import agreed, cached, check_spec
from lightning_seq.data.training_text import comparison, recognized, training_record
from lightning_seq.data.unknown_tokens import check_unknown
from lightning_seq.errors import InputError
from lightning_seq.networks.base import check_dropout

if TYPE_CHECKING:
    from torch import Tensor


class SequenceDataModule(ResumableDataModule):
    """Text for sequence models: tokenized once into memory-mapped files, resumed exactly, equal over ranks.

    A subclass needs one method::

        class Diary(SequenceDataModule):
            def documents(self, split):
                return [Path(f"diary/{split}.txt").read_text(encoding="utf-8")]

    Args:
        tokenizer: "byte", "character", "word" (with <eos> for each newline and <unk>) or "bpe" (byte-level),
            the last three made from the training text; the path of a tokenizer.json, or of a .ckpt whose
            tokenizer to use; or a model's id on the Hub, such as "openai-community/gpt2". None is for a
            subclass whose sequences are no text, such as TokenDataModule.
        max_vocab_size: The most ids that a "word" or "bpe" tokenizer may have; by default all words, and
            16,384 for "bpe".
        batching: "contiguous": each row of a batch goes on where the same row of the batch before ended, so
            that recurrent state can be carried; "blocks": independent windows, shuffled; "documents": a
            document a row, padded, in batches of similar length (a longer one takes further rows).
        batch_size: Rows of a batch, on each rank.
        context_length: Tokens in a row; with "documents", at most.
        tokens_per_batch: With "documents": rows times width of a batch on each rank, in place of batch_size.
        separate_documents: Whether documents have nothing to do with one another: with "contiguous", the
            carried state begins anew with each; with "blocks", the batch has document_ids, and the first
            token of a document is no target. They are so in "documents" anyway.
        reset_probability: With "contiguous", the probability that a row of a training batch starts from the
            initial state although its text continues. It teaches a recurrent network to start, which it
            needs to continue a prompt, also where training reads a long text only once; 0 always carries
            the state.
        seed: Of the order of training batches.
        cache_dir: Where tokenized text is kept; by default $LIGHTNING_SEQ_CACHE, or lightning_seq in the
            user's cache directory.
        num_proc: Processes that tokenize; by default as many as there are cores, if the text is large.
        strict_resume: Whether to refuse to go on from a checkpoint where the text, its tokens or how they are
            laid out have changed: the batches to come would not be the ones that were left.
    """

    def __init__(
        self,
        tokenizer: str | None = "character",
        max_vocab_size: int | None = None,
        batching: Batching = "contiguous",
        batch_size: int = 32,
        context_length: int = 128,
        tokens_per_batch: int | None = None,
        separate_documents: bool = False,
        reset_probability: float = 0.02,
        seed: int = 0,
        cache_dir: str | None = None,
        num_proc: int | None = None,
        strict_resume: bool = True,
    ) -> None:
        super().__init__(strict_resume)
        # Not for the logger: the model may have a hyperparameter of the same name and another value.
        self.save_hyperparameters(logger=False)
        keep_plain(self.hparams)
        at_least(1, batch_size=batch_size, context_length=context_length)
        optional = {
            "max_vocab_size": max_vocab_size,
            "tokens_per_batch": tokens_per_batch,
            "num_proc": num_proc,
        }
        at_least(1, **{name: value for name, value in optional.items() if value is not None})
        at_least(0, seed=seed)
        check_dropout(reset_probability, "reset_probability")
        if tokenizer is not None:
            check_spec(tokenizer, max_vocab_size)
        one_of(batching=batching, choices=("contiguous", "blocks", "documents"))
        if tokens_per_batch is not None and batching != "documents":
            raise InputError(
                f"tokens_per_batch is {tokens_per_batch} and batching {batching!r}, which takes "
                'batch_size rows; leave tokens_per_batch out, or give batching "documents"'
            )
        self.batching = batching
        self.batch_size = batch_size
        self.context_length = context_length
        self.tokens_per_batch = tokens_per_batch
        self.separate_documents = separate_documents
        self.reset_probability = reset_probability
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.num_proc = num_proc
        self._tokenizer_spec = tokenizer
        self._max_vocab_size = max_vocab_size
        self._tokenizer: Tokenizer | None = None
        self._fingerprints: dict[Split, str] = {}
        self._stores: dict[Split, TokenStore] = {}
        self._announced = False

    @abstractmethod
    def documents(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split``, the same ones in the same order whenever asked.

        A newline is put between two documents where the first does not end in one.

        Args:
            split: "train", "validation" or "test".
        """

    def fingerprint(self, split: Split) -> str:
        """Returns a digest of the content of ``split``: what is tokenized is kept under it."""
        return digest(self.documents(split))

    def content_sha256(self, split: Split) -> str:
        """Returns the digest of ``split``, which is computed once."""
        if split not in self._fingerprints:
            self._fingerprints[split] = self.fingerprint(split)
        return self._fingerprints[split]

    def describe(self) -> str:
        """Returns what the text is, for people."""
        return type(self).__name__

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built from the training text or read from its file when first asked for."""
        if self._tokenizer is None:
            self._tokenizer = cached(
                self._spec, self.cache_dir, self.content_sha256, self.tokenizer_texts, self._max_vocab_size
            )
        return self._tokenizer

    @property
    def _spec(self) -> str:
        if self._tokenizer_spec is None:
            raise InputError(
                f'{type(self).__name__} has text, and its tokenizer is None; give one, such as "character"'
            )
        return self._tokenizer_spec

    def tokenizer_texts(self, split: Split) -> Iterable[str]:
        """Returns the texts of ``split`` that a tokenizer is made from: all that is ever tokenized."""
        return self._texts(split)

    @property
    def stored_splits(self) -> tuple[Split, ...]:
        """The splits that are tokenized before training: all, unless one is read as it is needed."""
        return SPLITS

    @property
    def vocab_size(self) -> int:
        """How many ids there are. It may be asked for before anything is set up, on every rank."""
        return vocabulary_size(self.tokenizer)

    @property
    def characters_per_token(self) -> "Tensor | None":
        """The characters that each id stands for, int64 (vocab_size,), or None where this is not known."""
        return characters_per_token(self.tokenizer)

    @property
    def unknown_token(self) -> prompts.UnknownToken | None:
        """What stands for text that the tokenizer does not know, or None where it knows any text."""
        return prompts.unknown_token(self.tokenizer)

    def adopt_tokenizer(self, json: str) -> None:
        """Uses a checkpoint's tokenizer in place of one made from this text.

        Args:
            json: The tokenizer as ``tokenizer.to_str()`` gave it.

        Raises:
            InputError: It is of another kind, or another file's, than this DataModule was told to use.
        """
        tokenizer = agreed(json, self._spec)
        if self._tokenizer is None or self._tokenizer.to_str() != tokenizer.to_str():
            self._tokenizer = tokenizer
            self._stores.clear()
            if self._announced:
                self._announce()

    def prepare_data(self) -> None:
        """Tokenizes every split into the cache, on one rank."""
        for split in self.stored_splits:
            self._store(split)

    def setup(self, stage: str) -> None:
        """Says, before training, what the text is; files are opened when a loader needs them."""
        super().setup(stage)
        if stage != "fit" or self._announced:
            return
        self._announced = True
        self._announce()

    def _announce(self) -> None:
        counts = {split: self._store(split).counts for split in self.stored_splits}
        files = {split: self.source_files(split) for split in SPLITS}
        rank_zero_info(summary(self.describe(), self.content_sha256("train"), counts, self.tokenizer, files))

    def source_files(self, split: Split) -> list[str]:
        """Returns the files that ``split`` is taken from, for the data summary; by default none."""
        return []

    def training_record(self) -> dict[str, Any]:
        """Returns what a checkpoint records of the training text, see :mod:`data.training_text`."""
        stored = "train" in self.stored_splits
        ids = self._store("train").tokens if stored else np.empty(0, dtype=np.int64)
        counts = self._store("train" if stored else "validation").counts  # of a stream's text a sample
        return training_record(self.describe(), self.content_sha256("train"), ids, counts.unknown)

    def report_scored(self, split: Split, record: dict[str, Any] | None) -> None:
        """Says which text is scored, and how it compares with what a checkpoint was trained on.

        Args:
            split: What is scored.
            record: As ``training_record`` returned it; None where the checkpoint records nothing.
        """
        fraction = recognized(record, self._store(split).tokens)
        said = comparison(record, fraction, self.content_sha256("train"))
        text = f"{self.describe()}, {split} split, sha256 {self.content_sha256(split)[:8]}"
        rank_zero_info(
            "\n".join(
                textwrap.fill(line, COLUMNS, break_on_hyphens=False)
                for line in (f"scored text: {text}", said)
            )
        )

    def batches(self, split: Split, training: bool) -> Batches:
        """Returns this rank's batches of ``split``."""
        store = self._store(split)
        if not training and len(store) < FEWEST_TOKENS:
            raise InputError(
                f"the {split} split of {self.describe()} has {len(store)} tokens, nothing to predict; give "
                f"it text, or switch it off by the trainer's limit_{split.removesuffix('idation')}_batches=0"
            )
        if self.unknown_token is not None:
            counts, name = store.counts, f"the {split} split of {self.describe()}"
            unknown = counts.unknown - counts.unknown_written
            check_unknown(name, counts.tokens, unknown, self.unknown_token.token)
        separate = self.separate_documents and self.batching == "blocks"
        return StoredBatches(self._plan(store, training), store, separate)

    def _plan(self, store: TokenStore, training: bool) -> Plan:
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))  # the same batches in every epoch
        common: dict[str, Any] = {
            "tokens": len(store),
            "batch_size": self.batch_size,
            "context_length": self.context_length,
            "rank": self.rank,
            "world_size": self.world_size,
            "training": training,
            "shuffle": not overfit,
            "seed": self.seed,
        }
        if self.batching == "documents":
            return DocumentPlan(**common, documents=store.documents, tokens_per_batch=self.tokens_per_batch)
        if self.batching == "blocks":
            return BlockPlan(**common)
        common["reset_probability"] = self.reset_probability
        if self.separate_documents:
            return DocumentLanePlan(**common, documents=store.documents)
        return ContiguousPlan(**common)

    @property
    def deals_out_rows(self) -> bool:
        """All plans are of the rows of a step over all ranks; a budget of tokens is each rank's own."""
        return self.tokens_per_batch is None

    def identity(self) -> dict[str, Plain]:
        """Returns the text and its tokens by their hashes, and how they are laid out."""
        return {
            "text": f"sha256 {self.content_sha256('train')[:8]}",
            "tokenizer": f"sha256 {digest([self.tokenizer.to_str()])[:12]}",
            "batching": self.batching,
            "batch_size": self.batch_size,
            "context_length": self.context_length,
            "tokens_per_batch": self.tokens_per_batch,
            "separate_documents": self.separate_documents,
            "reset_probability": self.reset_probability if self.batching == "contiguous" else 0.0,
            "seed": self.seed,
        }

    def encoded(self, split: Split) -> Iterator[tuple[str, Ids]]:
        """Yields each document of ``split`` with its ids."""
        return encode(self.tokenizer, self._texts(split), self.num_proc)

    def _unchanged(self, split: Split) -> Iterator[tuple[str, Ids]]:
        """Yields what ``encoded`` does, and then refuses to keep it under the digest of another text."""
        yield from self.encoded(split)
        if self.fingerprint(split) != self.content_sha256(split):
            raise InputError(
                f"the {split} split of {self.describe()} changed while it was tokenized; start again, when "
                "nothing writes to it"
            )

    def _texts(self, split: Split) -> Iterable[str]:
        return separated(self.documents(split))

    def store_path(self, split: Split) -> Path:
        """Returns the folder that holds the tokens of ``split``, once they are prepared."""
        key = digest([str(FORMAT), self.content_sha256(split), self.tokenizer.to_str()])[:32]
        return self.cache_dir / "tokens" / key

    def _store(self, split: Split) -> TokenStore:
        if split not in self._stores:
            self._stores[split] = TokenStore.open_or_build(
                self.store_path(split),
                lambda: self._unchanged(split),
                self.vocab_size,
                prompts.unknown_token(self.tokenizer),
            )
        return self._stores[split]
