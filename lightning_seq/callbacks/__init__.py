"""Callbacks that watch a training: gradients, attention, samples, progress; and keep its newest state."""

from lightning_seq.callbacks.adaptive_clipping import AutoClip, ZClip
from lightning_seq.callbacks.attention import AttentionLogger
from lightning_seq.callbacks.gradient_clipping import GradientClippingMonitor
from lightning_seq.callbacks.gradient_incidents import GradientIncidentRecorder
from lightning_seq.callbacks.last_checkpoint import LastCheckpoint
from lightning_seq.callbacks.progress import ProgressBar
from lightning_seq.callbacks.recurrent_state import RecurrentStateMonitor
from lightning_seq.callbacks.samples import SampleLogger
from lightning_seq.callbacks.stop_on_signal import StopOnSignal
from lightning_seq.callbacks.time_gradient import TimeGradientMonitor
from lightning_seq.callbacks.tunes import TuneMonitor
from lightning_seq.callbacks.wandb_run import WandbRun

__all__ = [
    "AttentionLogger",
    "AutoClip",
    "GradientClippingMonitor",
    "GradientIncidentRecorder",
    "LastCheckpoint",
    "ProgressBar",
    "RecurrentStateMonitor",
    "SampleLogger",
    "StopOnSignal",
    "TimeGradientMonitor",
    "TuneMonitor",
    "WandbRun",
    "ZClip",
]
