"""What each learning-rate schedule can be told, and what is wrong with what it was told."""

from typing import Any, Literal

from lightning_seq.errors import InputError, did_you_mean

Schedule = Literal["constant", "cosine", "linear", "wsd", "inverse_sqrt", "step", "plateau"]

OPTIONS: dict[str, dict[str, float | None]] = {  # of each schedule, with what they are if not given
    "constant": {},
    "cosine": {"final_learning_rate_share": 0.1},
    "linear": {"final_learning_rate_share": 0.1},
    "wsd": {"final_learning_rate_share": 0.1, "decay_steps": None},
    "inverse_sqrt": {},
    "step": {"decay_start": None, "decay_interval": None, "decay_factor": 0.5},
    "plateau": {"decay_factor": 0.25, "patience": 0},
}
_AT_LEAST = {"decay_steps": 1, "decay_start": 0, "decay_interval": 1, "patience": 0}


def schedule_options(
    schedule: str, warmup_steps: int, max_steps: int, given: dict[str, float]
) -> dict[str, Any]:
    """Returns all options of ``schedule``, those not ``given`` at their defaults.

    Raises:
        InputError: An option is missing, out of range, or not one of this schedule.
    """
    check_schedule(schedule, warmup_steps, given)
    options = {**OPTIONS[schedule], **given}
    if schedule in ("cosine", "linear", "wsd") and max_steps < 0:
        raise InputError(
            f"schedule {schedule!r} falls until the last step, and trainer.max_steps is not set: "
            "set it, or take schedule: constant"
        )
    if schedule == "wsd":
        options["decay_steps"] = _decay_steps(options["decay_steps"], warmup_steps, max_steps)
    if schedule == "step":
        options["decay_start"] = _decay_start(options, warmup_steps)
    return options


def check_schedule(schedule: str, warmup_steps: int, given: dict[str, float]) -> None:
    """Checks what can be checked before the length of the training is known.

    Raises:
        InputError: An option is missing, out of range, or not one of this schedule.
    """
    if schedule not in OPTIONS:
        raise InputError(
            f"schedule is {schedule!r}{did_you_mean(schedule, OPTIONS)}; it must be one of {list(OPTIONS)}"
        )
    if not _is_whole(warmup_steps) or warmup_steps < 0:
        raise InputError(f"warmup_steps is {warmup_steps}: give a whole number from 0 on")
    for name, value in given.items():
        _check_option(schedule, name, value)
    if schedule == "inverse_sqrt" and warmup_steps == 0:
        raise InputError(
            "schedule 'inverse_sqrt' falls from where the warm-up ends, and warmup_steps is 0: give 1 or more"
        )
    if schedule == "step":
        _decay_start({**OPTIONS[schedule], **given}, warmup_steps)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_option(schedule: str, name: str, value: float) -> None:
    if name not in OPTIONS[schedule]:
        users = [user for user, options in OPTIONS.items() if name in options]
        raise InputError(
            f"{name} is {value}, and schedule {schedule!r} does not use it: "
            f"leave it out, or take schedule: {' or '.join(users)}"
        )
    if name in _AT_LEAST and (not _is_whole(value) or value < _AT_LEAST[name]):
        raise InputError(f"{name} is {value}: give a whole number from {_AT_LEAST[name]} on")
    if name == "decay_factor" and not 0 < value < 1:
        raise InputError(f"decay_factor is {value}: give a number between 0 and 1, what a reduction leaves")
    if name == "final_learning_rate_share" and not 0 <= value <= 1:
        raise InputError(f"final_learning_rate_share is {value}: give a number in [0, 1]")


def _decay_steps(decay_steps: float | None, warmup_steps: int, max_steps: int) -> float:
    if decay_steps is None:
        return max(1, max_steps // 10)
    if warmup_steps + decay_steps > max_steps:
        raise InputError(
            f"warmup_steps {warmup_steps} and decay_steps {decay_steps} do not fit into trainer.max_steps "
            f"{max_steps}: shorten one, or train longer"
        )
    return decay_steps


def _decay_start(options: dict[str, float | None], warmup_steps: int) -> float:
    start, interval = options["decay_start"], options["decay_interval"]
    if interval is None:
        raise InputError(
            "schedule 'step' needs decay_interval, the steps between two reductions: give a whole number "
            "from 1 on"
        )
    if start is None:
        return warmup_steps + interval
    if start < warmup_steps:
        raise InputError(
            f"decay_start is {start}, before the warm-up ends at step {warmup_steps}: give {warmup_steps} or "
            "more"
        )
    return start
