"""The base of tasks that are made on the spot, of any size, and that only a memory solves."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_info
from tokenizers import Tokenizer

from lightning_seq.data.batching.batches import Batch
from lightning_seq.data.batching.draws import Draws, Numbers
from lightning_seq.data.checks import at_least, keep_plain
from lightning_seq.data.resumable import Plain, ResumableDataModule
from lightning_seq.data.sources.documents import SPLITS, Split
from lightning_seq.data.tokenization.id_names import names_tokenizer, refuse_other_names
from lightning_seq.networks.base import IGNORE_INDEX

OF_BATCHES = ("batch_size", "train_batches", "seed")

Scored = npt.NDArray[np.bool_]


class MemoryTask(ResumableDataModule):
    """A task without text: sample i of a split is computed from its number, and no sample comes twice.

    A subclass says how its tokens are named and what its sequences are::

        class Repeat(MemoryTask):
            names = ("a", "b", "c")

            def sequences(self, draws):
                tokens = draws.below(3, count=20)
                return np.tile(tokens, 2), np.arange(40) >= 20

    The model logs val_accuracy and test_accuracy: how many of the scored tokens it finds likeliest.

    Args:
        batch_size: Sequences of a batch, on each rank.
        train_batches: Batches of an epoch. Every epoch has new ones.
        evaluation_samples: Sequences of the validation split, and of the test split.
        seed: Of all sequences; the three splits differ with the same seed.
        strict_resume: Whether to refuse to go on from a checkpoint where the task is another one: the
            batches to come would not be the ones that were left.
    """

    scores_accuracy = True

    def __init__(
        self,
        batch_size: int = 64,
        train_batches: int = 1000,
        evaluation_samples: int = 512,
        seed: int = 0,
        strict_resume: bool = True,
    ) -> None:
        super().__init__(strict_resume)
        # Not for the logger: the model may have a hyperparameter of the same name and another value.
        self.save_hyperparameters(logger=False)
        keep_plain(self.hparams)
        at_least(1, batch_size=batch_size, train_batches=train_batches, evaluation_samples=evaluation_samples)
        at_least(0, seed=seed)
        self.batch_size = batch_size
        self.train_batches = train_batches
        self.evaluation_samples = evaluation_samples
        self.seed = seed

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What each token is called, in the order of their ids: words without white space."""

    @abstractmethod
    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns a sequence for each sample of ``draws``, all of one length.

        Args:
            draws: The only source of randomness.

        Returns:
            Tokens (rows, length), and which of them are scored: (rows, length), or (length,) where that is
            the same in every row. The first token is never predicted.
        """

    @property
    def vocab_size(self) -> int:
        """How many tokens have a name."""
        return len(self.names)

    @property
    def context_length(self) -> int:
        """How many tokens the model reads of each sequence: all but the last."""
        return int(self.sequences(Draws(self.seed, 0, np.arange(1)))[0].shape[1]) - 1

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokens' names as a tokenizer of words, to read samples and write prompts."""
        return names_tokenizer(self.names)

    def adopt_tokenizer(self, json: str) -> None:
        """Refuses a checkpoint whose tokens mean something else than this task's.

        Args:
            json: The tokenizer as ``tokenizer.to_str()`` gave it.

        Raises:
            InputError: It is not this task's.
        """
        mending = "give the task and sizes that it was trained with"
        refuse_other_names(json, self.tokenizer, type(self).__name__, mending)

    def setup(self, stage: str) -> None:
        """Says, before training, what the task is."""
        super().setup(stage)
        if stage == "fit":
            sizes = [f"{name} {value}" for name, value in self.identity().items() if name not in OF_BATCHES]
            head = f"data: {type(self).__name__}"
            rank_zero_info(f"{', '.join([head, *sizes])}, vocabulary {self.vocab_size}")

    def batches(self, split: Split, training: bool) -> "TaskBatches":
        """Returns this rank's batches of ``split``."""
        return TaskBatches(self, split, training)

    def batch(self, split: Split, samples: Numbers) -> Batch:
        """Returns the samples of these numbers, the same ones whenever asked."""
        tokens, scored = self.sequences(Draws(self.seed, SPLITS.index(split), samples))
        targets = np.where(scored, tokens, IGNORE_INDEX)
        return {
            "inputs": torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])),
            "targets": torch.from_numpy(np.ascontiguousarray(targets[:, 1:])),
        }

    @property
    def deals_out_rows(self) -> bool:
        """A sample is a function of its number, whoever gets it."""
        return True

    def identity(self) -> dict[str, Plain]:
        """Returns the task's sizes and those of the batches."""
        arguments = {name: getattr(self, name, value) for name, value in self.hparams.items()}
        for name in ("evaluation_samples", "strict_resume"):
            arguments.pop(name, None)
        return arguments


class TaskBatches:
    """The batches of one rank: in training all rows full, in evaluation every sample once over all ranks.

    Args:
        task: Makes the samples, and knows the rank.
        split: Which samples.
        training: Batches that are new in each epoch, rather than the split's fixed samples.
    """

    def __init__(self, task: MemoryTask, split: Split, training: bool) -> None:
        self.task = task
        self.split: Split = split
        self.training = training
        self.rows = task.batch_size * task.world_size  # of a step over all ranks

    def __len__(self) -> int:
        return self.task.train_batches if self.training else -(-self.task.evaluation_samples // self.rows)

    def epoch(self, epoch: int) -> Callable[[int], Batch]:
        """Returns the function from a step of ``epoch`` to its batch."""
        overfit = bool(getattr(self.task.trainer, "overfit_batches", 0))  # the same batches in every epoch
        steps_before = epoch * len(self) if self.training and not overfit else 0
        mine = self.task.rank * self.task.batch_size + np.arange(self.task.batch_size)

        def batch(step: int) -> Batch:
            samples = (steps_before + step) * self.rows + mine
            batch = self.task.batch(self.split, samples)
            if not self.training:
                batch["targets"][torch.from_numpy(samples >= self.task.evaluation_samples)] = IGNORE_INDEX
            return batch

        return batch
