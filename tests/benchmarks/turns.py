"""Contenders in turns, and a table of what they gave: ratios of one run, with their spread."""

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

PACKAGES = ("lightning-seq", "lightning", "torch", "transformers", "datasets")


@dataclass
class Table:
    """What a question's contenders measured: `measured[name]` has a dict of figures for each round."""

    title: str
    protocol: str
    unit: str  # the figure that ratios are of
    lower_is_better: bool
    reference: str
    measured: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def ratios(self, name):
        """How many times better than the reference, round by round."""
        pairs = zip(self.measured[name], self.measured[self.reference], strict=True)
        quotients = [mine[self.unit] / other[self.unit] for mine, other in pairs]
        return [1 / q for q in quotients] if self.lower_is_better else quotients

    def __str__(self):
        others = sorted({key for rounds in self.measured.values() for each in rounds for key in each})
        others.remove(self.unit)
        lines = [f"## {self.title}", "", self.protocol, ""]
        lines.append("| | " + " | ".join([self.unit, "least to most", *others, f"x {self.reference}"]) + " |")
        lines.append("|---" * (len(others) + 4) + "|")
        for name, rounds in self.measured.items():
            values = [each[self.unit] for each in rounds]
            cells = [_short(median(values)), f"{_short(min(values))} to {_short(max(values))}"]
            for other in others:
                known = [each[other] for each in rounds if other in each]
                cells.append(_short(median(known)) if known else "")
            cells.append(f"{median(self.ratios(name)):.2f}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def in_turns(table, contenders, rounds):
    """Fills a table: each contender once in every round, A B A B; a contender returns its figures."""
    table.measured = {name: [] for name in contenders}
    for number in range(rounds):
        for name, measure in contenders.items():
            figures = measure()
            table.measured[name].append(figures)
            told = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
            print(f"round {number + 1} of {rounds}: {name}: {told}", file=sys.stderr, flush=True)
    return table


def timed(command, place, environment, listen=None):
    """Runs a process; returns the seconds of all of it. `listen` is called with what it said."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    if listen is not None:
        listen(done.stdout)
    return seconds


def machine():
    """The machine and the versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [
        f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores",
        f"Python {platform.python_version()}",
    ]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join([*parts, str(date.today())])


def save(tables, path):
    """Writes all figures of all rounds as JSON."""
    content = {"machine": machine(), "tables": [asdict(table) for table in tables]}
    Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _short(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
