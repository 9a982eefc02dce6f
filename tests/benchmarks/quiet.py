"""A Trainer that trains, and does nothing beside it unless it is told to."""

from tests.models import training


def trainer(**options):
    return training.trainer(**{"log_every_n_steps": 50, **options})
