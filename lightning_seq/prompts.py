"""What a model goes on from: text where it has a tokenizer, ids as decimal numbers where it has none."""

from tokenizers import Tokenizer

from lightning_seq.errors import InputError

SHOWN = 8


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
