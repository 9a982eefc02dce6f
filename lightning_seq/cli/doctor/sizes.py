"""How much text there is, how large its tokens are on disk, and where a model's parameters are."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lightning_seq.cli.doctor.building import Complain
from lightning_seq.cli.doctor.report import Section, size
from lightning_seq.data import HuggingFaceTextDataModule, SequenceDataModule
from lightning_seq.data.sources.documents import Split
from lightning_seq.data.token_store import TokenStore
from lightning_seq.data.tokenization.ready_made import is_ready_made
from lightning_seq.data.tokenization.tokenizers import kind_of
from lightning_seq.errors import InputError
from lightning_seq.models.sizes import check_sizes

PREPARED_UP_TO = 32 << 20  # characters: what takes a second or two is tokenized, as fit would
SAMPLE = 1 << 20  # characters to estimate the rest from


@dataclass
class Text:
    """What could be found out of a DataModule: sizes are of tokens, None where they are not known."""

    vocab_size: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    estimated: bool = False


def examine_data(data: Any, prepare: str, complain: Complain) -> tuple[Section, Text]:
    """Returns what there is of the data; the Hub is not to be asked meanwhile.

    Args:
        data: A DataModule, or None.
        prepare: The command that downloads what is not there.
        complain: Is told what is wrong.
    """
    section, text = Section("data"), Text()
    if data is None:
        section.add("source", None, "none that could be built")
        return section, text
    section.add("class", type(data).__name__)
    try:
        _examine(data, section, text)
    except InputError as error:
        if not any(sign in str(error) for sign in ("does not answer", "HF_HUB_OFFLINE")):
            complain(str(error))
            return section, text
        section.add("state", "not downloaded", "not downloaded: run prepare")
        complain(f"{_missing(data, text)} not downloaded: run `{prepare}` where there is a network")
    return section, text


def _missing(data: Any, text: Text) -> str:
    tokenizer = data.hparams.get("tokenizer")
    ready_made = text.vocab_size is None and is_ready_made(tokenizer)
    return f"the tokenizer {tokenizer!r} is" if ready_made else f"the dataset {data.path!r} is"


def _examine(data: Any, section: Section, text: Text) -> None:
    if not isinstance(data, SequenceDataModule):
        text.vocab_size = getattr(data, "vocab_size", None)
        section.add("vocabulary", text.vocab_size)
        return
    if isinstance(data, HuggingFaceTextDataModule):
        section.add("source", data.path)
    section.add("tokenizer", data.hparams.get("tokenizer"))
    if not isinstance(data, HuggingFaceTextDataModule):
        section.add("source", data.describe())
    text.vocab_size = data.vocab_size
    section.add("vocabulary", text.vocab_size, f"{text.vocab_size:,} ({kind_of(data.tokenizer)})")
    section.add("sha256", str(data.identity()["text"]).removeprefix("sha256 "))
    _add_tokens(data, section, text)
    _add_disk(data, section, text)


def _add_tokens(data: SequenceDataModule, section: Section, text: Text) -> None:
    stores = {split: TokenStore.open(data.store_path(split)) for split in data.stored_splits}
    if any(store is None for store in stores.values()):
        characters = {split: _length(data, split) for split in stores}
        if sum(characters.values()) <= PREPARED_UP_TO:
            data.prepare_data()
            stores = {split: TokenStore.open(data.store_path(split)) for split in stores}
        else:
            text.estimated = True
            text.tokens = {split: _estimate(data, split, count) for split, count in characters.items()}
    text.tokens |= {split: len(store) for split, store in stores.items() if store is not None}
    about = "about " if text.estimated else ""
    shown = [f"{split} {about}{count:,}" for split, count in text.tokens.items()]
    if "train" not in text.tokens:
        shown = ["train streamed, and never counted", *shown]
    section.add("tokens", text.tokens, ", ".join(shown))


def _length(data: SequenceDataModule, split: Split) -> int:
    """Returns the characters of ``split`` or, where it is no text, its ids."""
    if data.hparams.get("tokenizer") is None:
        return sum(len(ids) for _, ids in data.encoded(split))
    return sum(map(len, data.documents(split)))


def _estimate(data: SequenceDataModule, split: Split, characters: int) -> int:
    """Returns about how many tokens ``characters`` make, from those that come first."""
    if data.hparams.get("tokenizer") is None:
        return characters
    sample = _beginning(data.documents(split))
    tokens = len(data.tokenizer.encode(sample, add_special_tokens=False).ids)
    return round(tokens * characters / max(len(sample), 1))


def _beginning(documents: Iterable[str]) -> str:
    parts, total = [], 0
    for document in documents:
        parts.append(document[: SAMPLE - total])
        total += len(parts[-1])
        if total >= SAMPLE:
            break
    return "\n".join(parts)


def _add_disk(data: SequenceDataModule, section: Section, text: Text) -> None:
    paths = {data.store_path(split) for split in data.stored_splits}
    there = sum(file.stat().st_size for path in paths if path.is_dir() for file in path.iterdir())
    to_come = 0
    if text.estimated:
        to_come = sum(text.tokens.values()) * np.min_scalar_type((text.vocab_size or 1) - 1).itemsize - there
    free = free_space(data.cache_dir)
    state = f"{size(there)} there" if there or not to_come else ""
    state += f"{', ' if state else ''}about {size(to_come)} to come" if to_come > 0 else ""
    section.add("token store", there + max(0, to_come), f"{state}; {size(free)} free")
    section.add("cache", str(data.cache_dir))
    if to_come > free:
        raise InputError(
            f"the tokens take about {size(to_come)} and {data.cache_dir} has {size(free)} free: give another "
            "data.cache_dir, or fewer data.max_tokens"
        )


def free_space(path: Path) -> int:
    """Returns the bytes that are free where ``path`` is or will be."""
    there = next(each for each in [path.absolute(), *path.absolute().parents] if each.exists())
    return shutil.disk_usage(there).free


def examine_model(model: Any, data: Any, assumed: int | None, complain: Complain) -> Section:
    """Returns the parameters of each part; ``assumed`` is the vocabulary where none is known."""
    section = Section("model")
    section.add("class", f"{type(model).__module__}.{type(model).__qualname__}", type(model).__name__)
    network = getattr(model, "network", model)
    if assumed is not None:
        section.add("vocabulary", assumed, f"{assumed:,}, assumed: the data's is not known yet")
    elif (known := model.hparams.get("vocab_size")) is not None:
        matches = data is None or getattr(data, "vocab_size", known) == known
        section.add("vocabulary", known, f"{known:,}, {'as' if matches else 'not as'} the data's")
        try:
            check_sizes(model, data)
        except InputError as error:
            complain(str(error))
    seen: set[nn.Parameter] = set()
    for name, part in network.named_children():
        _add_part(section, name, part, seen)
    section.add("total", sum(p.numel() for p in set(model.parameters())))
    return section


def _add_part(section: Section, name: str, part: nn.Module, seen: set[nn.Parameter]) -> None:
    every = set(part.parameters())
    own, shared = every - seen, every & seen
    seen |= every
    if not every:
        return
    count = sum(p.numel() for p in own)
    text = f"{count:,}"
    if isinstance(part, nn.ModuleList):
        kinds = [(type(each).__name__, sum(p.numel() for p in set(each.parameters()))) for each in part]
        text += f" = {' + '.join(_kinds(kinds))}"
    if shared:
        text += f", and {sum(p.numel() for p in shared):,} shared with a part above"
    section.add(name, count, text)


def _kinds(kinds: list[tuple[str, int]]) -> Iterable[str]:
    for (name, count), several in ((kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)):
        yield f"{several} x {name} of {count:,}" if several > 1 else f"{name} of {count:,}"
