"""Tunes in ABC notation (https://abcnotation.com): header, bars and notes."""

import re
from fractions import Fraction
from typing import NamedTuple

# A line of music may begin with a note and a repeat sign; "+:" goes on with the field of the line before.
FIELD = re.compile(r"([A-Za-z]|\+):(?![|:])")
TEXT = re.compile(r"^%%begin(\w+)\b.*?(^%%end\1\b|\Z)", re.DOTALL | re.MULTILINE)  # a block of words
METRE = re.compile(r"(C\|?)(?!\w)|(\d{1,3})/(\d{1,3})(?!\d)")
UNIT = re.compile(r"(\d{1,3})/(\d{1,3})(?!\d)")
MODES = r"m|maj\w*|min\w*|ion\w*|dor\w*|phr\w*|lyd\w*|mix\w*|aeo\w*|loc\w*"
KEY = re.compile(rf"(HP|none|[A-G][#b]?\s*({MODES})?)(\s.*)?$", re.IGNORECASE)
PITCH = r"(?:\^\^?|__?|=)?[A-Ga-g][,']*"
LETTER = re.compile(r"[A-Ga-g][,']*")
LENGTH = r"\d{0,3}(?:/+\d{0,3})?"  # no number that a model writes is too large
NOTE = re.compile(rf"({PITCH})({LENGTH})")
TOKEN = re.compile(
    rf"""(?P<field>\[[A-Za-z]:[^\]]*\])
    |(?P<bar>(?:\[\|\]?|:*\|[|\]:]*|::+)(?:\d[\d,.-]*)?|\[\d[\d,.-]*)
    |(?P<tuplet>\([2-9](?::\d?){{0,2}})
    |(?P<note>{PITCH}{LENGTH}|\[(?:{PITCH}{LENGTH}\s*)+\]{LENGTH})
    |(?P<rest>[zx]{LENGTH})
    |(?P<rests>Z\d*)
    |(?P<broken>>+|<+)
    |"[^"]*"|\{{[^}}]*\}}|!\w[^!|]*!|\+\w+\+|y\d*|[-~.HLMOPSTuv\s()!\\`$]
    |(?P<unknown>.)""",
    re.VERBOSE,
)


class Tune(NamedTuple):
    """What is found in a tune."""

    valid_header: bool
    """Whether X: begins it, K: ends it, T: comes next to X:, and X:, M:, L: and K: mean something."""
    bars: list[bool]
    """Whether the lengths of each bar add up to the metre, or stay below it where that is allowed."""
    pitches: list[str]
    """Its notes, in order: accidental, letter and octave."""

    @property
    def valid(self) -> bool:
        """Whether all of it is: header and bars."""
        return self.valid_header and bool(self.bars) and all(self.bars)


def read_tune(text: str) -> Tune:
    """Reads a tune in ABC notation, as the standard (https://abcnotation.com) has it.

    The first and the last bar of a section may be short. A section ends with the tune, at a double bar, a
    repeat sign, or another ending.
    """
    lines = _lines(text)
    key = next((n for n, line in enumerate(lines) if line.startswith("K:")), -1)
    header, music = lines[: key + 1], lines[key + 1 :]
    reader = _Reader()
    for line in (*header, *music):
        reader.read(line)
    reader.end_bar(ends_section=True)
    return Tune(_is_header(header), reader.bars, reader.pitches)


def melody(music: str) -> list[str]:
    """Returns the notes of the lines behind a tune's key: letters with octaves, in order.

    Lengths and accidentals are left out, which are written in several ways, and so is all that is no note:
    comments, fields such as w: and N:, chord symbols, annotations, decorations, grace notes and bar lines.
    """
    tokens = (token for line in _lines(music) if not FIELD.match(line) for token in TOKEN.finditer(line))
    return [found for token in tokens if token["note"] for found in LETTER.findall(token["note"])]


def _lines(text: str) -> list[str]:
    """Returns the lines that are not empty, without comments."""
    lines = (line.partition("%")[0].strip() for line in TEXT.sub("", text).splitlines())
    return [line for line in lines if line]


def _is_header(lines: list[str]) -> bool:
    names = [line[0] for line in lines if FIELD.match(line)]
    values = {line[0]: line[2:].strip() for line in lines}
    once = all(names.count(name) == 1 for name in "XMK") and names.count("L") <= 1
    if len(names) < len(lines) or not once or (names[0], names[-1]) != ("X", "K"):
        return False
    titled = "T" not in names or names[1] == "T"
    measured = _length_of_bar(values["M"]) and ("L" not in values or _fraction(UNIT.match(values["L"])))
    return titled and values["X"].isdecimal() and bool(measured and KEY.match(values["K"]))


def _length_of_bar(metre: str) -> Fraction | None:
    found = METRE.match(metre)
    return Fraction(1) if found and found[1] else _fraction(found, 2)


def _fraction(found: re.Match[str] | None, first: int = 1) -> Fraction | None:
    """Returns what stands in two groups of a match; none of 0, and of nothing."""
    above, below = map(int, found.group(first, first + 1)) if found else (0, 0)
    return Fraction(above, below) if above and below else None


def _times(length: str) -> Fraction:
    """Returns what the length behind a note means, in unit lengths: 3/2, 2, /, //, and nothing."""
    above, slashes, below = re.split("(/+)", length) if "/" in length else (length, "", "1")
    divisor = int(below) if below else 2 ** len(slashes)
    return Fraction(int(above or 1), divisor) if divisor else Fraction(0)


class _Reader:
    """Goes through the lines of a tune; lengths are in whole notes. Each kind of token has a method."""

    def __init__(self) -> None:
        self.bars: list[bool] = []
        self.pitches: list[str] = []
        self._metre: Fraction | None = None
        self._unit: Fraction | None = None
        self._beats = 2  # of a compound metre 3: what a tuplet of 5, 7 or 9 takes
        self._begins_section = True
        self._short = False  # whether the last bar was shorter than the metre
        self._begin_bar()

    def _begin_bar(self) -> None:
        self._lengths: list[Fraction] = []
        self._factors: list[Fraction] = []  # of the notes of a tuplet that are still to come
        self._next = Fraction(1)  # what broken rhythm makes of the next note
        self._wrong = False

    def read(self, line: str) -> None:
        if FIELD.match(line):
            self.field(f"[{line}]")
            return
        for token in TOKEN.finditer(line):
            if token.lastgroup:
                getattr(self, token.lastgroup)(token[0])

    def field(self, token: str) -> None:
        name, value = token[1], token[3:-1].strip()
        if name == "M":
            self._metre = _length_of_bar(value)
            self._beats = 3 if value in ("6/8", "9/8", "12/8") else 2
        elif name == "L":
            self._unit = _fraction(UNIT.match(value))

    def bar(self, token: str) -> None:
        self.end_bar(ends_section=token != "|")

    def end_bar(self, ends_section: bool) -> None:
        """Judges what came since the last bar line, if anything did."""
        if self._lengths or self._wrong:
            length, readable = sum(self._lengths), not (self._wrong or self._factors or self._next != 1)
            self._short = readable and self._metre is not None and length < self._metre
            self.bars.append((readable and length == self._metre) or (self._short and self._begins_section))
            self._begins_section = False
        if ends_section:
            if self._short:  # the last bar of a section, also where the next ending follows its bar line
                self.bars[-1] = True
            self._begins_section = True
        self._begin_bar()

    def note(self, token: str) -> None:
        """A note, or a chord, which is as long as its first one."""
        found = NOTE.search(token)
        assert found is not None
        self.pitches.append(found[1])
        chord = token.partition("]")[2]
        self._add(_times(found[2]) * _times(chord))

    def rest(self, token: str) -> None:
        self._add(_times(token[1:]))

    def rests(self, token: str) -> None:
        """Whole bars, however many."""
        self._lengths.append(self._metre or Fraction(1))

    def _add(self, times: Fraction) -> None:
        short = self._metre is not None and self._metre < Fraction(3, 4)
        unit = self._unit or Fraction(1, 16 if short else 8)
        factor = self._factors.pop() if self._factors else Fraction(1)
        self._lengths.append(times * unit * factor * self._next)
        self._wrong |= not times
        self._next = Fraction(1)

    def tuplet(self, token: str) -> None:
        """``(p:q:r``: p notes in the time of q, for the next r."""
        notes, time, count = [int(part or 0) for part in f"{token[1:]}::".split(":")][:3]
        usual = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(notes, self._beats)
        self._wrong |= bool(self._factors)
        self._factors = [Fraction(time or usual, notes)] * (count or notes)

    def broken(self, token: str) -> None:
        """``>``: the note before is longer by half, by 3/4 for ``>>``, and the next one shorter."""
        shorter = Fraction(1, 2 ** len(token))
        before, after = (2 - shorter, shorter) if token[0] == ">" else (shorter, 2 - shorter)
        if not self._lengths or self._next != 1:
            self._wrong = True
            return
        self._lengths[-1] *= before
        self._next = after

    def unknown(self, token: str) -> None:
        self._wrong = True
