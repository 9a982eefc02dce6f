"""Parameter groups, optimizers, and learning-rate schedules counted in steps."""

from lightning_seq.optimization.averaged_sgd import NTASGD
from lightning_seq.optimization.muon import MuonAdamW, hidden_matrices, muon_groups
from lightning_seq.optimization.optimizers import (
    OptimizerName,
    build_optimizer,
    check_options,
    set_hyperparameters,
)
from lightning_seq.optimization.parameter_groups import parameter_groups
from lightning_seq.optimization.schedule_options import Schedule, check_schedule
from lightning_seq.optimization.schedules import (
    LearningRateSchedule,
    learning_rate_factor,
)

__all__ = [
    "NTASGD",
    "LearningRateSchedule",
    "MuonAdamW",
    "OptimizerName",
    "Schedule",
    "build_optimizer",
    "check_options",
    "check_schedule",
    "hidden_matrices",
    "learning_rate_factor",
    "muon_groups",
    "parameter_groups",
    "set_hyperparameters",
]
