"""LightningModules: a network, its loss, metrics and optimizer."""

from lightning_seq.models.language_model import LanguageModel
from lightning_seq.models.parallel_recurrent import MinGRULanguageModel, MinLSTMLanguageModel
from lightning_seq.models.recurrent import GRULanguageModel, LSTMLanguageModel, RNNLanguageModel
from lightning_seq.models.transformer import TransformerLanguageModel

__all__ = [
    "GRULanguageModel",
    "LSTMLanguageModel",
    "LanguageModel",
    "MinGRULanguageModel",
    "MinLSTMLanguageModel",
    "RNNLanguageModel",
    "TransformerLanguageModel",
]
