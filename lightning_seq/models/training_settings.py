"""The optimizer's settings of a resumed training: those it had, unless other ones are given."""

from collections.abc import Container
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

Settings = dict[str, Any]
OF_THE_OPTIMIZER = ("learning_rate", "weight_decay", "betas", "momentum")


def resumed_settings(
    now: Settings, defaults: Settings, passed: Container[str], saved: dict[str, Settings]
) -> Settings:
    """Returns the settings that are taken from the checkpoint, and logs a line for each that differs.

    A value counts as given if the model has another one than the checkpoint's model was made with, unless it
    is a default that nobody passed.

    Args:
        now: The settings of the resumed training's model, by the names of its arguments.
        defaults: The arguments' defaults.
        passed: The names of the arguments that the model was made with.
        saved: What the checkpoint's model was ``made`` with, and what its training ``used``.
    """
    made, used, found = saved["made"], saved["used"], Settings()
    for name, value in now.items():
        before = used.get(name, value)
        if value == before:
            continue
        given = value != made.get(name, before) and (name in passed or value != defaults[name])
        if name in OF_THE_OPTIMIZER and not given:
            found[name] = before
            rank_zero_info(
                f"resume: {name} stays {before}, which the checkpoint was trained with, instead of {value}"
            )
        else:
            rank_zero_info(f"resume: {name} was {before} and is now {value}, as given to this model")
    return found
