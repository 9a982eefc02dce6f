"""The optimizer's settings that a training goes on with: those it had, unless other ones are given."""

from collections.abc import Container
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

Settings = dict[str, Any]
OF_THE_OPTIMIZER = ("learning_rate", "weight_decay", "betas", "momentum")


def settings_to_go_on_with(
    now: Settings, defaults: Settings, passed: Container[str], saved: dict[str, Settings]
) -> Settings:
    """Returns the settings that the training before goes on with, and says in a line each what differs.

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
                f"resume: {name} goes on as {before}, which the checkpoint was trained with, and not {value}"
            )
        else:
            rank_zero_info(f"resume: {name} was {before} and is {value}, as this model says")
    return found
