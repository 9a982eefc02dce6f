"""What a model goes on from: text where it has a tokenizer, ids as decimal numbers where it has none."""

import json
from functools import lru_cache
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from tokenizers import Tokenizer

from lightning_seq.errors import InputError

SHOWN = 8
RARE = "\U00010900 \U00013080 \U00012000"  # letters of ancient scripts, which no vocabulary spells out


class UnknownToken(NamedTuple):
    """What stands for text that a tokenizer does not know."""

    token: str
    id: int


@lru_cache(maxsize=8)
def unknown_token(tokenizer: Tokenizer) -> UnknownToken | None:
    """Returns what ``tokenizer`` gives for text that it does not know, or None where it knows any text."""
    model = tokenizer.model
    token: str | None = getattr(model, "unk_token", None)
    if type(model).__name__ == "Unigram":
        content = json.loads(tokenizer.to_str())["model"]
        token = None if content["unk_id"] is None else content["vocab"][content["unk_id"]][0]
    number = None if token is None else tokenizer.token_to_id(token)
    if token is None or number is None or number not in tokenizer.encode(RARE, add_special_tokens=False).ids:
        return None  # byte-level tokenizers may name one that they never give
    return UnknownToken(token, number)


def report_unknown(prompt: str, tokenizer: Tokenizer | None) -> None:
    """Warns, in one line, of the parts of a prompt that ``tokenizer`` does not know."""
    unknown = None if tokenizer is None else unknown_token(tokenizer)
    if tokenizer is None or unknown is None:
        return
    encoding = tokenizer.encode(prompt, add_special_tokens=False)
    tokens = zip(encoding.ids, encoding.offsets, strict=True)
    parts = [prompt[start:stop] for i, (start, stop) in tokens if i == unknown.id]
    parts = list(dict.fromkeys(part for part in parts if part != unknown.token))
    if parts:
        shown = ", ".join(map(repr, parts[:SHOWN])) + (", ..." if len(parts) > SHOWN else "")
        rank_zero_warn(
            f"the model's vocabulary lacks {shown} of the prompt and reads "
            f"{unknown.token!r} instead: give a prompt of what it was trained on"
        )


def read(prompt: str, tokenizer: Tokenizer | None, vocab_size: int | None = None) -> list[int]:
    """Returns the ids of ``prompt``.

    Args:
        prompt: Text, or, where there is no tokenizer, ids between white space.
        tokenizer: The model's.
        vocab_size: How many ids the model knows, where there is no tokenizer.

    Raises:
        InputError: A word of the prompt is no token.
    """
    if tokenizer is None:
        return [_id(word, vocab_size) for word in prompt.split()]
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not UTF-8 at character {error.start}; give it as UTF-8") from error
    try:
        ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    except Exception as error:  # the Rust side raises bare Exception
        known = tokenizer.get_vocab()
        unknown = next((word for word in prompt.split() if word not in known), None)
        if unknown is None:
            raise
        some = " ".join(sorted(known, key=known.__getitem__)[:SHOWN])
        raise InputError(
            f"the prompt has {unknown!r}, which names no id; there are {len(known):,} names, such as {some}"
        ) from error
    return ids


def _id(word: str, vocab_size: int | None) -> int:
    number = int(word) if word.isascii() and word.isdecimal() else -1
    if number < 0 or (vocab_size is not None and number >= vocab_size):
        expected = "from 0" if vocab_size is None else f"from 0 to {vocab_size - 1:,}"
        raise InputError(
            f"the prompt has {word!r}, and this model has no tokenizer: give ids {expected}, such as '0 1 0'"
        )
    return number


def written(ids: list[int], tokenizer: Tokenizer | None) -> str:
    """Returns ``ids`` as the text that they stand for, or, where there is no tokenizer, as numbers."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    return str(tokenizer.decode(ids, skip_special_tokens=False))
