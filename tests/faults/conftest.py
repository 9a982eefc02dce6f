"""The table of what a training survived."""

import pytest

SURVIVED = {}


@pytest.fixture
def ledger():
    """Counts a try of a fault; what follows must hold for it to have been survived."""

    def count(fault):
        tries = SURVIVED.setdefault(fault, [0, 0])
        tries[0] += 1
        return lambda: tries.__setitem__(1, tries[1] + 1)

    return count


def pytest_terminal_summary(terminalreporter):
    if SURVIVED:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':44s} tries  survived")
        for fault, (tries, survived) in SURVIVED.items():
            terminalreporter.write_line(f"{fault:44s} {tries:5d} {survived:9d}")
