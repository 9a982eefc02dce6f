"""This package beside what one would take instead: python -m tests.benchmarks QUESTION ... [options]

Contenders run in turns (A B A B) in one run; tables show medians, the least and the most, and ratios. Run
nothing else meanwhile. What all questions need is installed by: pip install -c constraints.txt -e ".[test]"
Peers that are scripts are given by path, and left as they are.
"""

import argparse
import importlib
from pathlib import Path

from tests.benchmarks import turns

ANSWERS = "\nQUESTION = "  # what a file of this directory has that takes part


def main():
    files = sorted(Path(__file__).parent.glob("*.py"))
    names = [file.stem for file in files if ANSWERS in file.read_text(encoding="utf-8")]
    modules = {name: importlib.import_module(f"tests.benchmarks.{name}") for name in names}
    width = max(map(len, names))
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="questions:\n"
        + "\n".join(f"  {name:{width}s}  {each.QUESTION}" for name, each in modules.items()),
    )
    add = parser.add_argument
    add("questions", nargs="+", choices=[*modules, "all"], metavar="QUESTION")
    add("--data", type=Path, help="a text; for time_to_loss Tiny Shakespeare, one file")
    add("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    add("--word-language-model", type=Path, metavar="DIR", help="of a checkout of pytorch/examples")
    add("--wikitext", type=Path, metavar="DIR", help="train.txt, valid.txt and test.txt, if not in there")
    add("--rounds", type=int, default=3, help="(default: 3)")
    add("--picture", type=Path, metavar="FILE.png", help="of long_sequences")
    add("--json", type=Path, metavar="FILE", help="all figures of all rounds")
    options = parser.parse_args()
    chosen = list(modules) if "all" in options.questions else options.questions
    for name in chosen:
        for need in getattr(modules[name], "NEEDS", ()):
            if getattr(options, need) is None:
                parser.error(f"{name} needs --{need.replace('_', '-')}")
    print(turns.machine(), end="\n\n")
    tables = []
    for name in chosen:
        for table in modules[name].measure(options):
            print(table, end="\n\n", flush=True)
            tables.append(table)
            if options.json:
                turns.save(tables, options.json)


if __name__ == "__main__":
    main()
