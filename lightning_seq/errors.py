"""The one error that users are meant to read, and the hint that goes with it."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What a user gave cannot be used.

    Its message is one line: what was got, what was expected, and how to mend it. The command line prints
    it without a traceback.
    """


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest of ``choices``, or an empty string."""
    by_lower = {choice.lower(): choice for choice in choices if choice != name}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    matches = matches or sorted(
        choice for choice in by_lower if len(name) > 2 and choice.startswith(name.lower())
    )
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""
