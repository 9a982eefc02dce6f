"""The splits that the names of files and directories say, by the keywords of `datasets`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from lightning_seq.data.sources.documents import SPLITS, Split
from lightning_seq.data.sources.files import literal_root, place_of
from lightning_seq.errors import InputError

KEYWORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ARGUMENTS: dict[Split, str] = {"train": "path", "validation": "val_path", "test": "test_path"}

_SPLIT_OF = {word: split for split, words in KEYWORDS.items() for word in words}
_SHARD = re.compile(r"\d+[-_]of[-_]\d+.*")  # train-00000-of-00002-0a1b2c
_BETWEEN_WORDS = re.compile(r"[\W\d_]+")
_Source = TypeVar("_Source")


class _Name(NamedTuple):
    """What the words of a name say."""

    splits: frozenset[Split]
    rest: tuple[str, ...]  # the other words
    outermost: bool  # whether the first or the last word is a keyword


def splits_by_name(files: Sequence[Path], path: str) -> list[Split]:
    """Returns the split of each of the files that ``path`` means.

    A directory below ``path`` says the split of all that is in it, or else the name of a file its own. A
    keyword is a word between separators: "wiki.train.tokens", "dev-0001.txt". It counts where a name has no
    other word, where the names say several splits, or where a file is called the same but for the keyword,
    so that "The Test of Time.txt" among other books is one more book. Files whose names say nothing are for
    training, unless others are named for that.

    Args:
        files: As ``find_files`` found them.
        path: Where it did. A file is taken whatever its name is.

    Raises:
        InputError: It is not clear which split a file is for, or none is left for training.
    """
    place = place_of(path)
    if not files or list(files) == [place]:
        return ["train"] * len(files)
    parts = [file.relative_to(literal_root(place)).parts for file in files]
    directories = _counted({name for *above, _ in parts for name in above}, path)
    outside = {name for *above, name in parts if directories.keys().isdisjoint(above)}
    counted = directories | _counted(outside, path)
    said = [next((counted[part] for part in each if part in counted), None) for each in parts]
    return _completed(said, files, path)


def split_files(files: Sequence[Path], path: str) -> dict[Split, list[Path]]:
    """Returns the files that ``path`` means by those splits that there are; see ``splits_by_name``."""
    found: dict[Split, list[Path]] = {split: [] for split in SPLITS}
    for file, split in zip(files, splits_by_name(files, path), strict=True):
        found[split].append(file)
    return {split: some for split, some in found.items() if some}


def assign_splits(
    sources: Mapping[Split, Sequence[_Source]], paths: Mapping[Split, str], name: Callable[[_Source], str]
) -> dict[Split, list[_Source]]:
    """Returns the sources by their splits, none in two of them: a directory may hold the validation file.

    Args:
        sources: Those of each path. The names of those of "train" may say other splits.
        paths: Where they come from.
        name: What a source is known by: the path of its file.
    """
    own: dict[Split, list[_Source]]
    own = {split: list(some) for split, some in sources.items() if split != "train"}
    for split, some in own.items():
        _check_one_split([name(source) for source in some], f"{ARGUMENTS[split]} {paths[split]!r}")
    taken = [_place(name(source)) for some in own.values() for source in some]
    if twice := sorted({each for each in taken if taken.count(each) > 1}):
        raise InputError(f"val_path and test_path both have {twice[0]!r}; nothing may be in two splits")
    path = paths["train"]
    left = [source for source in sources["train"] if _place(name(source)) not in taken]
    if not left:
        raise InputError(
            f"nothing of {path!r} is left for training: val_path and test_path take it all; give path a "
            "source of its own"
        )
    found: dict[Split, list[_Source]] = {}
    for source, split in zip(left, splits_by_name([Path(name(each)) for each in left], path), strict=True):
        if split in own:
            raise InputError(
                f"{ARGUMENTS[split]} is {paths[split]!r}, and {path!r} has {name(source)!r}, named for "
                f"{split} too; give path the training files alone, or leave {ARGUMENTS[split]} out"
            )
        found.setdefault(split, []).append(source)
    return found | own


def _place(name: str) -> str:
    return str(Path(name).resolve())


def _check_one_split(names: Iterable[str], what: str) -> None:
    """Refuses files of several splits, such as train.txt and valid.txt, where those of one are asked for."""
    alone = [each for each in (_parsed(Path(name).name) for name in names) if not each.rest]
    if len(splits := {split for each in alone for split in each.splits}) > 1:
        raise InputError(f"{what} has files named for {_listed(splits)}; give the files of one split")


def _listed(splits: Iterable[Split]) -> str:
    return " and ".join(sorted(splits, key=SPLITS.index))


def _completed(said: Sequence[Split | None], files: Sequence[Path], path: str) -> list[Split]:
    """Returns the splits with that of the files whose names say none."""
    if None in said and "train" in said:
        named, unnamed = files[said.index("train")], files[said.index(None)]
        raise InputError(
            f"{path!r} has {named.name!r}, named for training, and {unnamed.name!r}, whose name says no "
            "split; move such files away, or into a directory named train, validation or test"
        )
    complete: list[Split] = [each or "train" for each in said]
    if "train" not in complete:
        raise InputError(
            f"{path!r} has nothing to train on: {files[0].name!r} and all others are named for "
            f"{_listed(set(complete))}; add training files, or give path a single file, of any name"
        )
    return complete


def _counted(names: Iterable[str], path: str) -> dict[str, Split]:
    """Returns the names, of files or of directories, whose keywords count, with their splits."""
    parsed = {name: _parsed(name) for name in sorted(names)}
    with_keyword = {name: each for name, each in parsed.items() if each.splits}
    others = {each.rest for each in parsed.values() if not each.splits}
    if not _are_of_splits(list(with_keyword.values()), others):
        _refuse_doubtful(with_keyword, path)
        return {}
    counted: dict[str, Split] = {}
    for name, each in with_keyword.items():
        if len(each.splits) > 1:
            raise InputError(
                f"the name {name!r} in {path!r} says {_listed(each.splits)}; rename it, so that it says one"
            )
        (counted[name],) = each.splits
    return counted


def _are_of_splits(names: Sequence[_Name], others: set[tuple[str, ...]]) -> bool:
    """Says whether keywords are meant as such: alone, of several splits, or beside a name without one."""
    several = len({split for name in names for split in name.splits}) > 1
    return several or any(
        not name.rest or ("train" not in name.splits and name.rest in others) for name in names
    )


def _refuse_doubtful(with_keyword: Mapping[str, _Name], path: str) -> None:
    """Refuses a single name that begins or ends with a keyword, such as "my_test.txt" beside other names."""
    for name, each in with_keyword.items():
        if each.outermost and "train" not in each.splits:
            split = _listed(each.splits)
            raise InputError(
                f"{name!r} in {path!r} may be for {split} or one more to train on; name it "
                f"{split}{Path(name).suffix}, or put it and all others into a directory named train"
            )


def _parsed(name: str) -> _Name:
    suffix = Path(name).suffix
    if _SPLIT_OF.keys().isdisjoint(_words(suffix)):  # it is the split of "wiki.train"
        name = name.removesuffix(suffix)
    words = _words(name)
    rest = tuple(word for word in words if word not in _SPLIT_OF)
    outermost = not _SPLIT_OF.keys().isdisjoint([*words[:1], *words[-1:]])
    return _Name(frozenset(_SPLIT_OF[word] for word in words if word in _SPLIT_OF), rest, outermost)


def _words(name: str) -> list[str]:
    return [word for word in _BETWEEN_WORDS.split(_SHARD.sub("", name.lower())) if word]
