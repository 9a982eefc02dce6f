"""The one command of the benchmarks: its questions, and what it asks for before it begins."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import throughput
from tests.benchmarks.turns import Table, in_turns

ROOT = Path(__file__).parents[1]


def ask(*words):
    command = [sys.executable, "-m", "tests.benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_benchmark_is_a_question():
    helpers = {"__main__", "turns", "memory", "quiet", "gpt2_shape", "__init__"}
    names = {file.stem for file in (ROOT / "tests/benchmarks").glob("*.py")} - helpers
    said = ask("--help").stdout
    assert names <= {line.split()[0] for line in said.splitlines() if line.strip()}


def test_what_a_question_needs_is_asked_for_at_once():
    done = ask("feeding", "time_to_loss")
    assert done.returncode == 2
    assert done.stderr.endswith("error: time_to_loss needs --data\n")


def test_ratios_are_of_pairs_of_the_same_round():
    figures = {"a": iter([10.0, 20.0, 40.0]), "b": iter([5.0, 40.0, 20.0])}
    contenders = {name: lambda each=each: {"seconds": next(each)} for name, each in figures.items()}
    table = in_turns(Table("t", "p", "seconds", True, "a"), contenders, 3)
    assert table.ratios("b") == [2.0, 0.5, 2.0]
    assert "| b | 20 | 5 to 40 | 2.00 |" in str(table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as the benchmark does
def test_the_peers_of_throughput_are_installed():
    work = throughput.Work("tiny", (1, 8, 2), 11, 2, 4, steps=2)
    found = [contender(work) for contender in (throughput._bare, throughput._ours, throughput._transformers)]
    assert all(each["tokens/s"] > 0 for each in found)
