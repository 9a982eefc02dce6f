"""Plain PyTorch networks: tokens and a state in, logits or losses and the next state out."""

from lightning_seq.networks.base import Network
from lightning_seq.networks.parallel_recurrent import MinGRU, MinLSTM, ParallelRecurrentNetwork
from lightning_seq.networks.recurrent import GRU, LSTM, ElmanRNN, RecurrentNetwork
from lightning_seq.networks.transformer import Transformer

__all__ = [
    "GRU",
    "LSTM",
    "ElmanRNN",
    "MinGRU",
    "MinLSTM",
    "Network",
    "ParallelRecurrentNetwork",
    "RecurrentNetwork",
    "Transformer",
]
