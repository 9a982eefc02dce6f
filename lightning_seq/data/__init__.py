"""DataModules: text in, batches of token ids out."""

from lightning_seq.data.base import SequenceDataModule
from lightning_seq.data.hugging_face import HuggingFaceTextDataModule
from lightning_seq.data.text import TextDataModule

__all__ = ["HuggingFaceTextDataModule", "SequenceDataModule", "TextDataModule"]
