"""The Hugging Face Hub: whether it answers, and what to do when it does not."""

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from lightning_seq.errors import InputError

PATIENCE = 3.0  # seconds
SLOW = 10.0  # for what answers, but takes its time
DEFAULT_ENDPOINT = "https://huggingface.co"
TOKENIZER = "tokenizer.json"
WHAT_TO_CHECK = "path, name and revision"


@contextmanager
def one_line_errors(path: str, check: str = WHAT_TO_CHECK) -> Iterator[None]:
    """Turns the many exceptions of `datasets` and of the Hub into one that names the reason.

    Args:
        path: The dataset, or the file of it that is read.
        check: What may be wrong.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        import datasets
        from huggingface_hub import errors

        reason: BaseException = error
        while isinstance(reason, datasets.exceptions.DatasetGenerationError) and reason.__cause__:
            reason = reason.__cause__
        line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        if any(isinstance(each, errors.RevisionNotFoundError) for each in (reason, reason.__cause__)):
            line = "it has no such revision"
        elif isinstance(reason, errors.RepositoryNotFoundError | datasets.exceptions.DatasetNotFoundError):
            gated = isinstance(reason, errors.GatedRepoError) or "gated" in line
            line = "its owner wants to be asked first" if gated else "there is none, or none that you may see"
            line += "; private and gated ones need `hf auth login`"
        raise InputError(f"cannot load the dataset {path!r} ({line}); check {check}") from error


def tokenizer_from_hub(repository: str, revision: str | None) -> Path:
    """Returns the tokenizer.json of a repository of the Hub, from the cache where that does not answer."""
    import huggingface_hub
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    download = partial(
        huggingface_hub.hf_hub_download, repository, TOKENIZER, revision=revision, endpoint=endpoint
    )
    name = f"{repository}@{revision}" if revision else repository
    unreachable = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        if ask(endpoint)():
            return _downloaded(download, name)
        unreachable = f"{endpoint} does not answer"
    try:
        return Path(download(local_files_only=True))
    except Exception as error:
        raise InputError(
            f"{unreachable}, and the cache {str(constants.HF_HUB_CACHE)!r} has no {TOKENIZER} of {name!r}; "
            "connect and try again, or give the path of a tokenizer.json (HF_HUB_OFFLINE=1 goes to the cache "
            "at once)"
        ) from error


def _downloaded(download: Callable[..., str], name: str) -> Path:
    from huggingface_hub import errors

    reasons = {
        errors.GatedRepoError: "its owner wants to be asked first: do so, and log in by `hf auth login`",
        errors.RepositoryNotFoundError: "there is no such repository, or none that you may see",
        errors.RevisionNotFoundError: "it has no such revision",
        errors.EntryNotFoundError: f"it has no {TOKENIZER}",
    }
    try:
        return Path(download(etag_timeout=PATIENCE))
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), line)
        raise InputError(
            f"cannot get the tokenizer {name!r} from the Hub ({reason}); check the id and the revision, or "
            "give the path of a tokenizer.json"
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
def quiet_datasets() -> Iterator[None]:
    """Keeps `datasets` from showing progress, and from logging what its exceptions say anyway."""
    import datasets

    were_shown, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if were_shown:
            datasets.enable_progress_bars()


def quietly(tables: Iterable[Any]) -> Iterator[Any]:
    """Yields ``tables``, with `datasets` quiet while it reads each: not longer, for others read as well."""
    remaining = iter(tables)
    while True:
        with quiet_datasets():
            table = next(remaining, None)
        if table is None:
            return
        yield table
