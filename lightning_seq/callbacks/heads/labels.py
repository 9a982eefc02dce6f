"""Tokens as people read them: their text, and short labels that the pictures' font can draw."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

_MARKS = {" ": "␣", "\n": "⏎", "\r": "\\r", "\t": "⇥"}
_BLANK = {0x2800, 0xFFFC}  # in the font, but without a shape
_SPACE = "▁"  # how SentencePiece writes the space before a word, which decoding alone drops
_HALF = "\N{REPLACEMENT CHARACTER}"  # what part of a character's bytes decodes to

# Cleaning up takes spaces out of the text, some only when the next token is known.
_OPTIONS: tuple[dict[str, bool], ...] = (
    {"skip_special_tokens": False, "clean_up_tokenization_spaces": False},
    {"skip_special_tokens": False},
    {},
)

_Decode = Callable[..., str]


def token_texts(ids: Sequence[int], tokenizer: Any, after: Iterable[int] | None = None) -> tuple[str, ...]:
    """Returns the text that each token adds to that of the token before it.

    Joined, they are the text as the tokenizer decodes it, before any cleaning up of spaces, with three
    exceptions: part of a character is U+FFFD, a token without a text is its name or its number, and a token
    of which nothing can be told from the one before is as it is alone.

    Args:
        ids: The ids of the tokens.
        tokenizer: A `tokenizers.Tokenizer`, one of Hugging Face transformers, anything with `decode([id])`,
            or None for the ids as decimal numbers.
        after: For each of the ids the one it comes after, for tokens that do not follow each other, such as
            predictions; by default the first begins the text and the others follow each other.
    """
    numbers = [int(i) for i in ids]
    if tokenizer is None:
        return tuple(map(str, numbers))

    @cache
    def decode(*some: int) -> str:
        return _decode(list(some), tokenizer)

    previous = [None, *numbers][: len(numbers)] if after is None else map(int, after)
    return tuple(_text(*pair, decode, tokenizer) for pair in zip(previous, numbers, strict=True))


def _text(previous: int | None, number: int, decode: _Decode, tokenizer: Any) -> str:
    alone = decode(number)
    if previous is None:  # decoders drop the space that begins a text
        return alone or _name(number, tokenizer).lstrip(_SPACE)
    before, both = decode(previous), decode(previous, number)
    text = both.removeprefix(before)
    known = bool(before) and both.startswith(before) and bool(text or alone)
    if known and text.count(_HALF) >= alone.count(_HALF):  # fewer: a half that completes the one before
        return text
    return _alone(alone, _name(number, tokenizer))


def _alone(text: str, name: str) -> str:
    spaces = len(name) - len(name.lstrip(_SPACE))
    if spaces:
        return " " * spaces + text.lstrip(" ")
    return text or name


def _decode(ids: list[int], tokenizer: Any) -> str:
    for options in _OPTIONS[:-1]:
        with suppress(TypeError):  # one that knows no such option
            return str(tokenizer.decode(ids, **options))
    return str(tokenizer.decode(ids))


def _name(number: int, tokenizer: Any) -> str:
    for method in ("id_to_token", "convert_ids_to_tokens", "id_to_piece"):
        if hasattr(tokenizer, method):
            return str(getattr(tokenizer, method)(number) or number)
    return str(number)


def label(text: str, longest: int = 10) -> str:
    """Returns the text of a token as a short label for a picture, never empty.

    White space becomes a mark (␣ ⏎ ⇥), what cannot be seen or is not in the font its code (U+4E2D).

    Args:
        text: The text of a token.
        longest: How many characters to keep, but at least the first; what is cut ends in an ellipsis.
    """
    written = ""
    for i, character in enumerate(text):
        part = _seen(character)
        more = i + 1 < len(text)  # leaves room for the ellipsis
        if written and len(written) + len(part) + more > longest:
            return f"{written}…"
        written += part
    return written or "∅"


def _seen(character: str) -> str:
    # marks that combine, and what is invisible or turns the direction, cannot be read alone
    hidden = unicodedata.category(character)[0] in "CMZ" or ord(character) not in _drawn()
    return _MARKS.get(character) or (f"U+{ord(character):04X}" if hidden else character)


@cache
def _drawn() -> frozenset[int]:
    """The characters that DejaVu Sans, which comes with matplotlib, can draw."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap()) - _BLANK
