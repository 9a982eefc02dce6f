"""DataModules: text or ids in, batches of token ids out."""

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.folk_tunes import FolkTunes
from lightning_seq.data.hugging_face import HuggingFaceTextDataModule
from lightning_seq.data.memory_task import MemoryTask
from lightning_seq.data.memory_tasks import AddingProblem, AssociativeRecall, CopyTask, DyckBrackets
from lightning_seq.data.repeated_sequence import RepeatedSequence
from lightning_seq.data.resumable import ResumableDataModule
from lightning_seq.data.text import TextDataModule
from lightning_seq.data.tokens import TokenDataModule

__all__ = [
    "AddingProblem",
    "AssociativeRecall",
    "CopyTask",
    "DyckBrackets",
    "FolkTunes",
    "HuggingFaceTextDataModule",
    "MemoryTask",
    "RepeatedSequence",
    "ResumableDataModule",
    "SequenceDataModule",
    "TextDataModule",
    "TokenDataModule",
]
