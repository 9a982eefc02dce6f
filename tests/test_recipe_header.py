"""The header of a recipe: read, refused where it is wrong, and whole in every recipe."""

import math

import pytest

from lightning_seq import recipe_header, recipes
from lightning_seq.errors import InputError
from lightning_seq.recipe_header import Result

NAMES = recipes.names()
LINES = [
    "# What it does",
    "#   lightning-seq fit --config mine",
    "# source: https://example.org/text: the plain one",
    "# licence: unknown",
    "# citation: Somebody 2014",
    "# data: 0a1b2c3d for Python 3.11",
    "# result: val_loss 1.5 within 2%; best val_accuracy 0.9 within 0.5%; grad/norm 1e-3 within 40%",
    "# measured: 2 CPU cores, one of them busy, 1.5 min, November 2026",
    "seed_everything: 0",
]


@pytest.fixture
def read(tmp_path):
    def of(lines):
        (tmp_path / "mine.yaml").write_text("\n".join(lines), encoding="utf-8")
        return recipe_header.read(tmp_path / "mine.yaml")

    return of


def with_line(number, line):
    return [line if n == number else old for n, old in enumerate(LINES, 1)]


def test_what_a_header_states(read):
    header = read(LINES)
    assert (header.source, header.licence) == ("https://example.org/text: the plain one", "unknown")
    assert (header.data_hash, header.python, header.seconds) == ("0a1b2c3d", "3.11", 90.0)
    assert header.results == (
        Result("val_loss", 1.5, 2.0),
        Result("val_accuracy", 0.9, 0.5, best=True),
        Result("grad/norm", 0.001, 40.0),
    )
    assert header.measured == "2 CPU cores, one of them busy, 1.5 min, November 2026"


def test_what_is_not_yet_measured_and_what_has_no_text(read):
    unmeasured = [f"# {key}: not yet measured" for key in ("data", "result", "measured")]
    header = read([*LINES[:5], *unmeasured, *LINES[8:]])
    assert (header.data_hash, header.python, header.seconds, header.results) == (None, None, None, ())
    assert read(with_line(6, "# data: generated, each sample from its number")).data_hash is None


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (4, "# license: MIT", "mine.yaml line 4: '# license: MIT', and `# licence: ...` is expected here"),
        (5, "# citation:", "line 5: '# citation:', and `# citation: ...` is expected"),
        (6, "# data: 0a1b", "line 6: data is '0a1b', and 8 digits of a sha256"),
        (7, "# result: val_loss 1.5", "line 7: result is 'val_loss 1.5', and METRIC VALUE within TOLERANCE%"),
        (7, "# result: val_loss 1.2.3 within 2%", "line 7: result is 'val_loss 1.2.3 within 2%'"),
        (7, "# result: a 1 within 2%;b 1 within 2%", "line 7: result is 'a 1 within 2%;b 1 within 2%'"),
        (7, "# result: a 1 within 2%; b 0 within 2%", "line 7: result is 'b 0 within 2%', and of 0"),
        (8, "# measured: a while, June 2026", "line 8: measured is 'a while, June 2026', and HARDWARE, 41 s"),
        (8, "# measured: a GPU, 1..2 h, June 2026", "line 8: measured is 'a GPU, 1..2 h, June 2026'"),
        (3, "# a comment", "mine.yaml has no header: six comment lines"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_expected(number, line, message, read):
    with pytest.raises(InputError) as refused:
        read(with_line(number, line))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_line_that_is_missing(read):
    for missing in range(2, 8):
        with pytest.raises(InputError, match=r"is expected here|has no header"):
            read([*LINES[:missing], *LINES[missing + 1 :]])
    with pytest.raises(InputError, match=r"line 5: nothing, and `# citation: ...` is expected here"):
        read(LINES[:4])


def test_a_result_holds_within_its_tolerance_on_both_sides():
    result = Result("val_loss", 2.0, 5.0)
    assert [result.holds(found) for found in (1.89, 1.91, 2.09, 2.11)] == [False, True, True, False]
    assert not result.holds(None)
    assert not result.holds(math.nan)
    assert result.difference(2.1) == pytest.approx(5.0)
    assert Result("score", -2.0, 5.0).difference(-1.9) == pytest.approx(5.0)


def test_the_last_value_counts_or_the_best_finite_one():
    values = [3.0, 1.0, math.nan, 2.0]
    assert Result("val_loss", 1.0, 1.0).among(values) == 2.0
    assert Result("val_loss", 1.0, 1.0, best=True).among(values) == 1.0
    assert Result("val_accuracy", 1.0, 1.0, best=True).among(values) == 3.0
    assert Result("val_loss", 1.0, 1.0).among([]) is None
    assert Result("val_loss", 1.0, 1.0, best=True).among([math.nan]) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_a_header(name):
    path = recipes.find(name)
    header = recipe_header.read(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]
    assert sum(line.startswith("# source:") for line in comments) == 1
    stated = [line for line in comments if line.startswith(tuple(f"# {key}:" for key in recipe_header.KEYS))]
    assert len(stated) == len(recipe_header.KEYS)  # each once, before the content
    assert max(map(len, stated)) <= 110
    assert bool(header.results) <= (header.seconds is not None)  # what was measured was timed
