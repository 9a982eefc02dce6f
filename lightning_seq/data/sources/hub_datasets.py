"""Datasets of the Hugging Face Hub: their files, or what `datasets` makes of those that only it reads."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_seq.data.disk import write_whole
from lightning_seq.data.sources import hub
from lightning_seq.data.sources.documents import digest
from lightning_seq.data.sources.hub import DEFAULT_ENDPOINT, SLOW, offline, quiet_datasets
from lightning_seq.data.sources.row_files import RowFile
from lightning_seq.errors import InputError

CSV = ("sep", "quotechar", "escapechar", "doublequote", "quoting", "skipinitialspace", "names", "encoding")
OPTIONS = {"csv": CSV, "json": ("field", "encoding"), "parquet": ()}
# What a dataset's card may set for its files, and is not read here; what else it may set guesses types
REFUSED = {
    "csv": (
        "skiprows",
        "nrows",
        "comment",
        "lineterminator",
        "dialect",
        "skipfooter",
        "encoding_errors",
        "on_bad_lines",
    ),
    "json": ("encoding_errors",),
    "parquet": ("filters", "on_bad_files"),
}


def load_from_hub(
    path: str, name: str | None, revision: str | None, cache_dir: Path, streamed: bool
) -> tuple[dict[str, Any], str]:
    """Returns the splits of a dataset of the Hub, and the commit they are of.

    A split is a list of files of rows, or a dataset of `datasets`. Where the Hub does not answer, the splits
    are those of last time, of a stream each None: their tokens may be kept.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    answer = hub.ask(endpoint)  # while `datasets` is imported, which takes as long

    import datasets
    import huggingface_hub

    memory = cache_dir / ("streams" if streamed else "hub")
    memory /= f"{digest([path, name or '', revision or ''])[:32]}.json"
    is_offline = datasets.config.HF_HUB_OFFLINE
    if is_offline or not answer():
        reason = "HF_HUB_OFFLINE is set" if is_offline else f"{endpoint} does not answer"
        return _remembered(memory, streamed) or _cached(path, name, revision, streamed, reason)
    info = huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=SLOW, expand=["sha"])
    commit = str(info.sha)
    with quiet_datasets():
        builder = datasets.load_dataset_builder(path, name=name, revision=commit)
        splits: dict[str, Any] = dict(_files(builder, path, streamed))
        there = {split: [asdict(file) for file in files] for split, files in splits.items()}
        if not splits:
            at = {"revision": commit, "streaming": True} if streamed else {"revision": revision}
            splits = dict(datasets.load_dataset(path, name=name, **at))
    if streamed or there:
        _remember(memory, [list(splits) if streamed else there, commit])
    return splits, commit


def _remember(memory: Path, what: Any) -> None:
    content = json.dumps(what).encode("utf-8")
    if not memory.exists() or memory.read_bytes() != content:  # the cache may be a read-only one
        write_whole(memory, content)


def _remembered(memory: Path, streamed: bool) -> tuple[dict[str, Any], str] | None:
    if not memory.exists():
        return None
    splits, commit = json.loads(memory.read_text(encoding="utf-8"))
    if streamed:
        return dict.fromkeys(splits), commit
    files = {split: [RowFile(**file) for file in some] for split, some in splits.items()}
    there = all(Path(file.place).exists() for some in files.values() for file in some)
    return (files, commit) if there else None


def _cached(
    path: str, name: str | None, revision: str | None, streamed: bool, reason: str
) -> tuple[dict[str, Any], str]:
    """Returns what `datasets` itself keeps of a dataset, if its types were not guessed."""
    import datasets

    cache = str(datasets.config.HF_DATASETS_CACHE)
    if streamed:
        raise InputError(
            f"{reason}, and {path!r} is to be streamed from there; connect and unset HF_HUB_OFFLINE, give a "
            f"local path, or leave streaming and max_tokens out where the cache {cache!r} has it"
        )
    of_what = f"{path!r}{f' ({name})' if name else ''}"
    try:
        with offline(), quiet_datasets():
            loaded = dict(datasets.load_dataset(path, name=name, revision=revision))
    except Exception as error:
        raise InputError(
            f"{reason}, and the cache {cache!r} has no dataset {of_what}; connect and try again, or give a "
            "local path (HF_HUB_OFFLINE=1 goes to the cache at once)"
        ) from error
    kinds = {dataset.builder_name for dataset in loaded.values()}
    if kinds & {"csv", "json"}:
        raise InputError(
            f"{reason}, and the cache {cache!r} has {of_what} only as `datasets` reads "
            f"{' and '.join(sorted(kinds))} files, which changes texts such as NA and dates; connect "
            "once, or give a local path"
        )
    return loaded, ""


def _files(builder: Any, path: str, streamed: bool) -> dict[str, list[RowFile]]:
    """Returns the files of each split, downloaded unless streamed; none if only `datasets` reads them."""
    import datasets

    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in OPTIONS or not builder.config.data_files:
        return {}
    options = _options(builder.config, kind, path)
    manager = datasets.StreamingDownloadManager() if streamed else datasets.DownloadManager()
    splits: dict[str, list[RowFile]] = {}
    for split, urls in builder.config.data_files.items():
        places = manager.download_and_extract([str(url) for url in urls])
        splits[str(split)] = [
            RowFile(kind, str(inner), _short(str(url), str(inner)), options)
            for url, place in zip(urls, places, strict=True)
            for inner in _inner(manager, str(place))
        ]
    return splits


def _inner(manager: Any, place: str) -> list[str]:
    """Returns the files of an archive, or the one file that there is."""
    if place.startswith("zip://") or Path(place).is_dir():
        return list(manager.iter_files(place))
    return [place]


def _short(url: str, inner: str) -> str:
    """Returns the name of a file for errors: its place in the repository, of an archive that in there."""
    if inner.startswith("zip://"):
        return inner
    repository, _, rest = url.removeprefix("hf://datasets/").partition("@")
    return f"{repository}/{rest.partition('/')[2]}" if rest else url


def _options(config: Any, kind: str, path: str) -> Mapping[str, Any]:
    """Returns how the files are written, as far as the dataset's card says that it is not the usual way."""
    usual = type(config)()
    set_ = {
        name: getattr(config, name)
        for name in (*OPTIONS[kind], *REFUSED[kind])
        if getattr(config, name, None) != getattr(usual, name, None)
    }
    header = getattr(config, "header", "infer")
    refused = [name for name in set_ if name in REFUSED[kind]]
    if refused or (header not in ("infer", 0) and not (header is None and "names" in set_)):
        raise InputError(
            f"the card of {path!r} sets {refused[0] if refused else 'header'} for its {kind} files, which "
            "is not supported; download the files, write them without it, and give their path"
        )
    if set_.get("encoding") in ("utf-8", "utf8", "UTF-8"):
        del set_["encoding"]
    if "sep" in set_:
        set_["delimiter"] = set_.pop("sep")
    return set_
