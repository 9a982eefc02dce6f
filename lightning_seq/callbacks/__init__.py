"""Callbacks that watch a training and do not change what is learnt."""

from lightning_seq.callbacks.attention import AttentionLogger
from lightning_seq.callbacks.gradient_clipping import GradientClippingMonitor
from lightning_seq.callbacks.progress import ProgressBar
from lightning_seq.callbacks.samples import SampleLogger

__all__ = ["AttentionLogger", "GradientClippingMonitor", "ProgressBar", "SampleLogger"]
