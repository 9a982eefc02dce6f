"""Tokens as people read them: their text, and short labels that every font can draw."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_MARKS = {" ": "␣", "\n": "⏎", "\r": "\\r", "\t": "⇥", "$": "\\$"}  # a bare $ would start a formula
_SPACE = "▁"  # how SentencePiece writes the space before a word, which decoding alone drops


def token_texts(ids: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """Returns the text of each token alone.

    Joined, they are the text for tokenizers of bytes, characters and BPE; half a character is U+FFFD. Words
    come without the space between two.

    Args:
        ids: The ids of the tokens.
        tokenizer: A `tokenizers.Tokenizer`, one of Hugging Face transformers, anything with `decode([id])`,
            or None for the ids as decimal numbers.
    """
    numbers = [int(i) for i in ids]
    if tokenizer is None:
        return tuple(map(str, numbers))
    texts = {i: _text(i, tokenizer) for i in set(numbers)}
    return tuple(texts[i] for i in numbers)


def _text(number: int, tokenizer: Any) -> str:
    try:
        text = str(tokenizer.decode([number], skip_special_tokens=False))
    except TypeError:  # one that knows no such option
        text = str(tokenizer.decode([number]))
    name = _name(number, tokenizer)
    if name.startswith(_SPACE) and not text.startswith((" ", _SPACE)):
        return " " + text
    return text or name or str(number)


def _name(number: int, tokenizer: Any) -> str:
    for method in ("id_to_token", "convert_ids_to_tokens"):
        if hasattr(tokenizer, method):
            return str(getattr(tokenizer, method)(number) or "")
    return ""


def label(text: str, longest: int = 10) -> str:
    """Returns the text of a token as a short label for matplotlib, never empty.

    White space becomes a mark (␣ ⏎ ⇥), what cannot be seen or is not in the font its code (U+4E2D).

    Args:
        text: The text of a token.
        longest: About how many characters to keep; what is cut ends in an ellipsis.
    """
    if not text:
        return "∅"
    parts: list[str] = []
    room = longest
    for i, part in enumerate(_parts(text)):
        width = len(part) - (part == _MARKS["$"])
        room -= width
        if parts and (room < 0 or (room == 0 and i + 1 < len(text))):
            return "".join(parts) + "…"
        parts.append(part)
    return "".join(parts)


def _parts(text: str) -> Iterator[str]:
    drawn = _drawn()
    for character in text:
        # marks that combine, and what is invisible or turns the direction, cannot be read alone
        hidden = unicodedata.category(character)[0] in "CMZ" or ord(character) not in drawn
        yield _MARKS.get(character) or (f"U+{ord(character):04X}" if hidden else character)


@cache
def _drawn() -> frozenset[int]:
    """The characters that the font which comes with matplotlib can draw."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap())
