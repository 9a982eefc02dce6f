"""Texts that every Python installation carries, so that a first model needs no network."""

import re
from collections.abc import Callable


def python_docs() -> str:
    """Returns the English of Python's built-in help, some 350,000 characters; it differs between versions.

    Topics repeat whole sections of one another. A paragraph is kept where it first occurs only: otherwise
    the text held out for validation would have been seen in training.
    """
    from pydoc_data.topics import topics

    seen, kept = set(), []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(re.sub(" +", " ", paragraph.strip("\n")))
    return "\n\n".join(kept) + "\n"


CORPORA: dict[str, Callable[[], str]] = {"python-docs": python_docs}
