"""Names of ids: a tokenizer for sequences that are not text, to write prompts and read samples."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from lightning_seq.data.sources.files import read_text
from lightning_seq.data.tokenization.ready_made import parse_tokenizer
from lightning_seq.data.tokenization.tokenizers import vocabulary_size
from lightning_seq.errors import InputError

SHOWN = 3


def names_tokenizer(names: Sequence[str]) -> Tokenizer:
    """Returns a tokenizer that reads names between white space, and writes them with a space between two.

    It raises an Exception for a word that is no name, unless one of the names is "<unk>".

    Args:
        names: What each id is called, in the order of the ids: words without white space.

    Raises:
        InputError: There is no name, or two ids have the same, or one cannot be told from its neighbours.
    """
    if not names:
        raise InputError("there are no names of ids; give one for each id")
    ids: dict[str, int] = {}
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(
                f"the name of id {i} is {name!r} ({type(name).__name__}), no string; give {str(name)!r}"
            )
        if not name:
            raise InputError(f"the name of id {i} is empty; give it a word")
        if name.split() != [name]:
            raise InputError(
                f"the name of id {i} is {name!r}, more than one word; give it a name without white space"
            )
        if name in ids:
            raise InputError(f"ids {ids[name]} and {i} are both named {name!r}; give each a name of its own")
        ids[name] = i
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def read_names(path: str) -> list[str]:
    """Returns the names of a text file, one a line."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"no file {path!r} with the names of ids; give a text file with a name a line, or a list"
        )
    text = read_text(file).replace("\r\n", "\n").removesuffix("\n")
    return text.split("\n") if text else []  # no other separator of lines: it would shift all later ids


def refuse_other_names(json: str, own: Tokenizer, owner: str, mending: str) -> None:
    """Refuses a checkpoint whose ids are named otherwise, so that they mean something else.

    Args:
        json: The checkpoint's tokenizer as ``tokenizer.to_str()`` gave it.
        own: What it must be equal to.
        owner: Whose that is.
        mending: How to have the checkpoint's names.
    """
    theirs = parse_tokenizer(json, "the checkpoint's tokenizer")
    if theirs.to_str() != own.to_str():
        raise InputError(
            f"the checkpoint was trained on other ids ({outline(theirs)}) than those of {owner} "
            f"({outline(own)}); {mending}, or train anew without the checkpoint"
        )


def outline(tokenizer: Tokenizer) -> str:
    """Returns how many tokens there are and what the first and the last are called."""
    names = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    if len(names) > SHOWN + 2:
        names[SHOWN:-1] = ["..."]
    shown = [name if name.isprintable() else repr(name) for name in names]  # errors are one line
    return f"{vocabulary_size(tokenizer):,}: {' '.join(shown)}"
