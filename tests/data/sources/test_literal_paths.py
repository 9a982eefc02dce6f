import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_seq.data import HuggingFaceTextDataModule, TextDataModule, TokenDataModule
from lightning_seq.data.sources.files import find_files
from lightning_seq.errors import InputError

NAMES = {
    "part [1]": "part 1",
    "q?": "qa",
    "[v1]/a": "v/a",
    "w*/a": "wx/a",
    "[!a]": "b",
    "**": "c",
    "~t": "t",
    "s3:d": "d",
    "a::b": "a",
}  # beside what each would be as a pattern or an address
STREAMED = {"streaming": True, "batching": "blocks"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(file, name):
    """Writes rows that say the file's name, or the length of the name as ids."""
    file.parent.mkdir(exist_ok=True)
    rows = [f"{name} {i}\n" for i in range(150)]
    if file.suffix == ".parquet":
        tokens = [[len(name)]] * len(rows)
        parquet.write_table(pa.table({"text": rows, "tokens": tokens}), file.absolute())
    elif file.suffix == ".csv":
        file.write_text("".join(["text\n", *(f'"{row}"\n' for row in rows)]))
    else:
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".jsonl", {}), (".csv", {}), (".parquet", {}), (".jsonl", STREAMED), (".parquet", STREAMED)],
)
def test_a_file_is_read_by_its_very_name(here, name, suffix, options):
    for each in (name, NAMES[name]):
        write(here / f"{each}{suffix}", each)
    for path in (f"{name}{suffix}", f"./{name}{suffix}", here / f"{name}{suffix}"):
        data = HuggingFaceTextDataModule(path, **options)
        assert {text.rpartition(" ")[0] for text in data.documents("train")} == {name}


@pytest.mark.parametrize("name", NAMES)
def test_texts_and_ids_are_read_by_their_very_names(here, name):
    for each in (name, NAMES[name]):
        (here / each).parent.mkdir(exist_ok=True)
        (here / f"{each}.txt").write_text(f"{each}\n" * 50)
        np.save(here / f"{each}.npy", np.full((20, 3), len(each)))
        write(here / f"{each}.parquet", each)
    assert set("".join(TextDataModule(f"{name}.txt").documents("train")).split("\n")) == {name, ""}
    assert TokenDataModule(f"{name}.npy").vocab_size == len(name) + 1
    assert TokenDataModule(f"{name}.parquet").vocab_size == len(name) + 1


def test_files_of_a_directory_are_read_by_their_very_names(here):
    for name in ("part [1]", "part 1", "part 2"):
        write(here / "[v1]" / f"{name}.jsonl", name)
    for path in ("[v1]", "[v1]/*.jsonl", str(here / "[v1]" / "part*")):
        texts = list(HuggingFaceTextDataModule(path).documents("train"))
        assert [texts[i].rpartition(" ")[0] for i in (0, 150, 300)] == ["part 1", "part 2", "part [1]"]


def test_what_exists_literally_is_no_pattern(here):
    for name in ("[ab]/x.txt", "a/x.txt", "b/x.txt", "~/x.txt"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert [str(file) for file in find_files("[ab]/*.txt", (".txt",))] == ["[ab]/x.txt"]
    assert [str(file) for file in find_files("[a-b]/*.txt", (".txt",))] == ["a/x.txt", "b/x.txt"]
    assert [str(file) for file in find_files("~/x.txt", (".txt",))] == ["~/x.txt"]
    with pytest.raises(InputError, match=r"no file or directory '~no one/x\.txt'"):
        find_files("~no one/x.txt", (".txt",))
