"""The base of every DataModule: a subclass says where the text is, everything else is here."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from tokenizers import Tokenizer

from lightning_seq.data.batching import FEWEST_TOKENS, PLANS, Batching, Plan
from lightning_seq.data.checks import at_least, keep_plain, one_of
from lightning_seq.data.disk import default_cache_dir
from lightning_seq.data.documents import SPLITS, Split, digest, separated
from lightning_seq.data.encoding import encode
from lightning_seq.data.loaders import SequenceLoader, TrainingLoader, counters_of
from lightning_seq.data.summary import summary
from lightning_seq.data.token_store import FORMAT, TokenStore
from lightning_seq.data.tokenizers import characters_per_token, vocabulary_size
from lightning_seq.data.vocabulary import agreed, cached, check_spec
from lightning_seq.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class SequenceDataModule(LightningDataModule, ABC):
    """Text for sequence models: tokenized once into memory-mapped files, resumed exactly, equal over ranks.

    A subclass needs one method::

        class Diary(SequenceDataModule):
            def documents(self, split):
                return [Path(f"diary/{split}.txt").read_text(encoding="utf-8")]

    Args:
        tokenizer: "byte", "character" (of the training text), or the path of a tokenizer.json, or of a .ckpt
            whose tokenizer to use.
        batching: "contiguous": each row of a batch goes on where the same row of the batch before ended, so
            that recurrent state can be carried; "blocks": independent windows, shuffled.
        batch_size: Rows of a batch, on each rank.
        context_length: Tokens in a row.
        seed: Of the order of training batches.
        cache_dir: Where tokenized text is kept; by default $LIGHTNING_SEQ_CACHE, or lightning_seq in the
            user's cache directory.
    """

    def __init__(
        self,
        tokenizer: str = "character",
        batching: Batching = "contiguous",
        batch_size: int = 32,
        context_length: int = 128,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        # Not for the logger: the model may have a hyperparameter of the same name and another value.
        self.save_hyperparameters(logger=False)
        keep_plain(self.hparams)
        check_spec(tokenizer)
        one_of(batching=batching, choices=PLANS)
        at_least(1, batch_size=batch_size, context_length=context_length)
        at_least(0, seed=seed)
        self.batching = batching
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self._tokenizer_spec = tokenizer
        self._tokenizer: Tokenizer | None = None
        self._fingerprints: dict[Split, str] = {}
        self._stores: dict[Split, TokenStore] = {}
        self._training: TrainingLoader | None = None
        self._resume: dict[str, int] | None = None
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

    def describe(self) -> str:
        """Returns what the text is, for people."""
        return type(self).__name__

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built from the training text or read from its file when first asked for."""
        if self._tokenizer is None:
            self._tokenizer = cached(self._tokenizer_spec, self.cache_dir, self._fingerprint, self._texts)
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """How many ids there are. It may be asked for before anything is set up, on every rank."""
        return vocabulary_size(self.tokenizer)

    @property
    def characters_per_token(self) -> "Tensor | None":
        """The characters that each id stands for, int64 (vocab_size,), or None where this is not known."""
        return characters_per_token(self.tokenizer)

    def adopt_tokenizer(self, json: str) -> None:
        """Uses a checkpoint's tokenizer in place of one made from this text.

        Args:
            json: The tokenizer as ``tokenizer.to_str()`` gave it.

        Raises:
            InputError: It is of another kind, or another file's, than this DataModule was told to use.
        """
        tokenizer = agreed(json, self._tokenizer_spec)
        if self._tokenizer is None or self._tokenizer.to_str() != tokenizer.to_str():
            self._tokenizer = tokenizer
            self._stores.clear()

    def prepare_data(self) -> None:
        """Tokenizes every split into the cache, on one rank."""
        for split in SPLITS:
            self._store(split)

    def setup(self, stage: str) -> None:
        """Says, before training, what the text is; files are opened when a loader needs them."""
        if stage != "fit" or self._announced:
            return
        self._announced = True
        counts = {split: self._store(split).counts for split in SPLITS}
        fingerprints = [self._fingerprint(split) for split in SPLITS]
        rank_zero_info(summary(self.describe(), fingerprints, counts, self.tokenizer))

    def train_dataloader(self) -> TrainingLoader:
        """Returns the training batches, from where training stands."""
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))  # the same batches in every epoch
        plan = self._plan("train", training=True, shuffle=not overfit)
        counters = counters_of(self.trainer) if self.trainer else None
        self._training = TrainingLoader(plan, self._store("train"), self._pin_memory, counters)
        if self._resume:
            self._training.load_state_dict(self._resume)
        return self._training

    def val_dataloader(self) -> SequenceLoader:
        """Returns the validation split, each target once."""
        return self._evaluation("validation")

    def test_dataloader(self) -> SequenceLoader:
        """Returns the test split, each target once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> SequenceLoader:
        """Returns the test split, each target once."""
        return self._evaluation("test")

    def state_dict(self) -> dict[str, Any]:
        """Returns where training stands, for a checkpoint."""
        return dict(self._training.state_dict()) if self._training else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from where a checkpoint stood."""
        self._resume = {key: state_dict[key] for key in ("epoch", "position")} if state_dict else None

    def _evaluation(self, split: Split) -> SequenceLoader:
        store = self._store(split)
        if len(store) < FEWEST_TOKENS:
            raise InputError(
                f"the {split} split of {self.describe()} has {len(store)} tokens, nothing to predict; give "
                f"it text, or switch it off by the trainer's limit_{split.removesuffix('idation')}_batches=0"
            )
        return SequenceLoader(self._plan(split), store, self._pin_memory)

    def _plan(self, split: Split, **options: bool) -> Plan:
        ranks = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {}
        return PLANS[self.batching](
            len(self._store(split)),
            self.batch_size,
            self.context_length,
            rank=ranks.get("rank", 0),
            world_size=ranks.get("num_replicas", 1),
            seed=self.seed,
            **options,
        )

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _fingerprint(self, split: Split) -> str:
        if split not in self._fingerprints:
            self._fingerprints[split] = self.fingerprint(split)
        return self._fingerprints[split]

    def _texts(self, split: Split) -> Iterable[str]:
        return separated(self.documents(split))

    def _store(self, split: Split) -> TokenStore:
        if split not in self._stores:
            tokenizer = self.tokenizer
            key = digest([str(FORMAT), self._fingerprint(split), tokenizer.to_str()])[:32]
            self._stores[split] = TokenStore.open_or_build(
                self.cache_dir / "tokens" / key,
                lambda: encode(tokenizer, self._texts(split)),
                vocabulary_size(tokenizer),
            )
        return self._stores[split]
