import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_seq.data import TextDataModule, TokenDataModule
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


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_texts_and_ids_are_read_by_their_very_names(here, name):
    for each in (name, NAMES[name]):
        (here / each).parent.mkdir(exist_ok=True)
        (here / f"{each}.txt").write_text(f"{each}\n" * 50)
        np.save(here / f"{each}.npy", np.full((20, 3), len(each)))
        tokens = pa.table({"tokens": [[len(each)]] * 20})
        parquet.write_table(tokens, here / f"{each}.parquet")
    assert set("".join(TextDataModule(f"{name}.txt").documents("train")).split("\n")) == {name, ""}
    assert TokenDataModule(f"{name}.npy").vocab_size == len(name) + 1
    assert TokenDataModule(f"{name}.parquet").vocab_size == len(name) + 1


def test_what_exists_literally_is_no_pattern(here):
    for name in ("[ab]/x.txt", "a/x.txt", "b/x.txt", "~/x.txt"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert [str(file) for file in find_files("[ab]/*.txt", (".txt",))] == ["[ab]/x.txt"]
    assert [str(file) for file in find_files("[a-b]/*.txt", (".txt",))] == ["a/x.txt", "b/x.txt"]
    assert [str(file) for file in find_files("~/x.txt", (".txt",))] == ["~/x.txt"]
    with pytest.raises(InputError, match=r"no file or directory '~no one/x\.txt'"):
        find_files("~no one/x.txt", (".txt",))
