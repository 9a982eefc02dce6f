"""EVALUATION of a long text, under a protocol with a name: plain PyTorch."""

from lightning_seq.evaluation.dynamic import DynamicEvaluation, MeanSquaredGradients, mean_squared_gradients
from lightning_seq.evaluation.measures import measures
from lightning_seq.evaluation.neural_cache import NeuralCache
from lightning_seq.evaluation.protocols import Blocks, Protocol, Sliding, Stream
from lightning_seq.evaluation.scoring import initial_state_loss, score

__all__ = [
    "Blocks",
    "DynamicEvaluation",
    "MeanSquaredGradients",
    "NeuralCache",
    "Protocol",
    "Sliding",
    "Stream",
    "initial_state_loss",
    "mean_squared_gradients",
    "measures",
    "score",
]
