"""Tunes in ABC notation: known answers."""

import pytest

from lightning_seq.evaluation.abc_notation import read_tune

HEADER = "X:1\nT:A tune\nM:4/4\nL:1/8\nK:D\n"
# a scale up and down, in four bars
TUNE = "X:1\nM:4/4\nL:1/8\nK:C\nCDEF GABc|defg abc'2|BAGF EDCB,|A,4 z4|]\n\n"


def bars(music, header=HEADER):
    return read_tune(header + music).bars


@pytest.mark.parametrize(
    "bar",
    [
        "ABcd efga",
        "A2B2 c2d2",
        "A4 z4",
        "A8",
        "z8",
        "Z",
        "A3/2B/2 A3/2B/ A3/B/ A2",
        "A//B//c/d e6",
        "^A,,2_B'2 =c''2 __d^^e",
        "(3ABc d2 A4",  # three in the time of two
        "(3:2:2A2B (3:2:2A2B A4",
        "(3::2A2B A6",
        "(2AB A4 z",  # two in the time of three
        "(4ABcd A4 z",
        "(6ABcdef A6",
        "(5ABcde A6",  # in the time of two: the metre is simple
        "A>B c<d A4",
        "A>>B A>>>B A4",
        "(3A>Bc d2 A4",
        "[CEG]2 [C2E2]2 [C2E3]/ A",  # a chord is as long as its first note
        "{AB}A2 {c}B2 A>{g}B A2",
        '"D7"A2 "^slowly"B2 !trill!c2 +fermata+d2',
        "~A2 .B2 uc2 vd2",
        "A2-A2 (A2B2)",
        "A2 y2 B2 c2 d2 \\",
        "[K:G] A4 [r:a remark] A4",
    ],
)
def test_the_lengths_of_a_bar_of_four_quarters(bar):
    assert bars(f"A8|{bar}|A8|") == [True] * 3


@pytest.mark.parametrize(
    "bar",
    [
        "ABcd efg",
        "ABcd efgab",
        "A2B2 c2d",
        "(3ABc A4",
        "(3AB",
        "A>",
        ">A8",
        "A> >B A6",
        "A8 ?",
        "A8 &",
        "A/0B8",
        "A0 B8",
        f"A{9 * '9'}",
        "[CEG A6",
        "(3A(3Bcd A8",
        "A<B",
        "{AB}A4",
    ],
)
def test_what_does_not_add_up_or_cannot_be_read(bar):
    assert bars(f"A8|{bar}|A8|") == [True, False, True]


@pytest.mark.parametrize(
    ("metre", "unit", "bar"),
    [
        ("C", "1/8", "A8"),
        ("C|", "1/4", "A4"),
        ("6/8", "1/8", "ABc def"),
        ("9/8", "1/8", "(2AB d3 e3"),
        ("6/8", "1/8", "(5ABcde f3"),  # in the time of three: the metre is compound
        ("3/4", "1/16", "A4B4c4"),
        ("2/4", "1/8", "A>B cd"),
        ("5/4", "1/4", "ABcde"),
    ],
)
def test_metres_and_units(metre, unit, bar):
    header = f"X:1\nM:{metre}\nL:{unit}\nK:D\n"
    assert bars(f"{bar}|{bar}|{bar} A|", header) == [True, True, False]


def test_the_unit_follows_from_the_metre_where_it_is_left_out():
    assert bars("ABcdefga|ABcdefga|", "X:1\nM:2/4\nK:D\n") == [True, True]
    assert bars("ABcdef|ABcdef|", "X:1\nM:6/8\nK:D\n") == [True, True]


def test_metre_and_unit_change_within_a_tune():
    assert bars("A8|A8|\nM:3/4\nA6|A6|[M:2/4]A4|[L:1/4]A2|A2|") == [True] * 7
    assert bars("A8|\nM:none\nA8|A8|") == [True, False, False]


def test_short_bars_at_the_edges_of_a_section_alone():
    assert bars("A|A8|A7:|B|A8|A7|]") == [True] * 6
    assert bars("A|A8|A7|A8|A8|]") == [True, True, False, True, True]
    assert bars("A8|A8|A8||A|A8|A7::A|A8|A7:|") == [True] * 9
    assert bars("A8|A6|[1 B2|A8|A6:|[2 c2|A8|A8|]") == [True] * 8
    assert bars("A8|A6|1 B2|A8|A6:|2 c2|A8|A8|]") == [True] * 8
    assert bars("A|A8|A9:|A9|A8|]") == [True, True, False, False, True]  # never too long
    assert bars("A|A8|A8|A2") == [True, True, True, True]


def test_lines_repeats_and_comments_are_no_bars():
    assert bars("|:A8|A8|!\n|A8|A8:|!\n% a remark: A9\nA8|A8|% another\nw:some words|here\n") == [True] * 6
    assert bars("") == []
    assert bars("d:|\nA:|") == [True, True]  # a line of music, not a field


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        ("X:1\nT:A\nM:C\nL:1/8\nK:G Major\n", True),
        ("X:1\nM:6/8\nK:Ador\n", True),
        ("X:12\nT:A\nT:B\nZ:somebody\nL:1/8\nM:C|\nR:reel\nK:F#m\n", True),
        ("X:1\nM:4/4\nK:D exp _b ^c\n", True),
        ("X:1\n% a remark\nM:4/4 % another\nK:D\n", True),
        ("T:A\nM:C\nK:G\n", False),
        ("X:1\nT:A\nK:G\n", False),
        ("X:1\nT:A\nM:C\n", False),
        ("X:1\nM:C\nT:A\nK:G\n", False),
        ("T:A\nX:1\nM:C\nK:G\n", False),
        ("X:\nM:C\nK:G\n", False),
        ("X:a\nM:C\nK:G\n", False),
        ("X:1\nM:much\nK:G\n", False),
        ("X:1\nM:0/8\nK:G\n", False),
        ("X:1\nM:C\nL:8\nK:G\n", False),
        ("X:1\nM:C\nK:H Major\n", False),
        ("X:1\nM:C\nK:GMoon\n", False),
        ("X:1\nM:C\nM:C\nK:G\n", False),
        ("X:1\nM:C\nABc\nK:G\n", False),
    ],
)
def test_headers(header, valid):
    assert read_tune(f"{header}A8|A8|]").valid_header is valid


def test_a_tune_is_valid_as_a_whole_if_all_of_it_is():
    assert read_tune(TUNE).valid
    assert not read_tune(TUNE.replace("X:1\n", "")).valid
    assert not read_tune(TUNE.replace("EDCB,", "EDC")).valid
    assert not read_tune(HEADER).valid


def test_pitches_have_no_lengths():
    assert read_tune(f"{HEADER}^A,2 b'3/2 z [CEG]2|{{g}}_c=d|").pitches == ["^A,", "b'", "C", "_c", "=d"]
