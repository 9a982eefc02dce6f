"""The Hugging Face Hub: whether it answers, and what to do when it does not."""

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from lightning_seq.errors import InputError

PATIENCE = 3.0  # seconds


def load_from_hub(path: str, name: str | None, revision: str | None) -> Any:
    """Returns the splits of a dataset of the Hub, from the local cache where the Hub does not answer.

    `datasets` itself tries for up to minutes before it gives up, hence the question before.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer = ask(endpoint)  # while `datasets` is imported, which takes as long

    import datasets

    if not datasets.config.HF_HUB_OFFLINE and answer():
        return _load(path, name, revision)
    try:
        with offline():
            return _load(path, name, revision)
    except Exception as error:
        raise InputError(
            f"{endpoint} does not answer, and the cache {str(datasets.config.HF_DATASETS_CACHE)!r} has no "
            f"dataset {path!r}{f' ({name})' if name else ''}; connect and try again, or give a local path "
            "(HF_HUB_OFFLINE=1 goes to the cache at once)"
        ) from error


def ask(endpoint: str) -> Callable[[], bool]:
    """Asks whether anything answers HTTP at ``endpoint``; what it returns waits three seconds at most."""
    answered: list[bool] = []
    deadline = time.monotonic() + PATIENCE

    def head() -> None:
        with suppress(OSError, ValueError, HTTPException):
            try:
                request = urllib.request.Request(endpoint, method="HEAD")
                urllib.request.urlopen(request, timeout=PATIENCE).close()
            except urllib.error.HTTPError as error:
                error.close()  # an answer all the same
            answered.append(True)

    def answer() -> bool:
        thread.join(max(deadline - time.monotonic(), 0))
        return bool(answered)

    # In a thread, because looking up a host's name cannot be given a time limit.
    thread = threading.Thread(target=head, daemon=True)
    thread.start()
    return answer


@contextmanager
def offline() -> Iterator[None]:
    """Keeps `datasets` from asking the Hub."""
    import datasets
    import huggingface_hub

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps `datasets` quiet."""
    import datasets

    were_shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


def _load(path: str, name: str | None, revision: str | None) -> Any:
    import datasets

    with no_progress_bars():
        return datasets.load_dataset(path, name=name, revision=revision)
