import os

import pytest

from lightning_seq.data import TextDataModule
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.errors import InputError


@pytest.fixture
def make(tmp_path):
    def make(path="python-docs", **options):
        return TextDataModule(str(path), **{"cache_dir": str(tmp_path / "cache"), **options})

    return make


@pytest.fixture
def books(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(f"book {i}\n" * 10)
    return folder


def texts(data):
    return ["".join(data.documents(split)) for split in SPLITS]


def test_the_embedded_corpus_is_split_at_ends_of_lines(make):
    train, validation, test = texts(make())
    whole = len(train + validation + test)
    assert all(text.endswith("\n") for text in (train, validation, test))
    assert len(validation) / whole == pytest.approx(0.05, abs=0.005)
    assert len(test) / whole == pytest.approx(0.05, abs=0.005)
    assert make().describe().startswith("python-docs (Python 3.")


def test_one_file_is_cut(make, tmp_path):
    file = tmp_path / "one.txt"
    file.write_bytes(b"line\r\n" * 1000)
    assert [len(text) for text in texts(make(file))] == [5400, 300, 300]
    assert make(file).describe() == str(file)


def test_two_files_are_cut_as_one_text(make, tmp_path):
    (tmp_path / "a.txt").write_text("a" * 1000)
    (tmp_path / "b.txt").write_text("b\n" * 500)
    train, validation, test = texts(make(tmp_path / "*.txt"))
    assert train + validation + test == "a" * 1000 + "\n" + "b\n" * 500
    assert len(test) == 100


def test_several_files_stay_whole(make, books):
    data = make(books)
    assert [len(list(data.documents(split))) for split in SPLITS] == [18, 1, 1]
    assert "".join(texts(data)) == "".join(f"book {i}\n" * 10 for i in range(20))
    assert data.describe() == f"{books} (20 files: 18 + 1 + 1)"
    assert len(list(make(books / "0*.txt").documents("train"))) == 8


def test_a_split_may_have_a_path_of_its_own(make, books, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("my own\n")
    data = make(books, val_path=str(own))
    assert [len(list(data.documents(split))) for split in SPLITS] == [19, 1, 1]
    assert list(data.documents("validation")) == ["my own\n"]
    data = make(books, val_path=str(own), test_path=str(books / "03.txt"))
    assert [len(list(data.documents(split))) for split in SPLITS] == [19, 1, 1]
    assert "book 3\n" not in "".join(data.documents("train"))


def test_no_text_is_in_two_splits(make, books):
    file = str(books / "03.txt")
    with pytest.raises(InputError, match=r"val_path and test_path both have .*03\.txt"):
        texts(make(books, val_path=file, test_path=str(books)))
    with pytest.raises(InputError, match="is left for training"):
        texts(make(file, val_path=file))
    (books.parent / "link.txt").symlink_to(file)
    with pytest.raises(InputError, match="is left for training"):
        texts(make(file, val_path=str(books.parent / "link.txt")))


def test_bad_files_are_named(make, tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match=r"empty\.txt' is empty; give a file that has text"):
        _ = make(tmp_path / "empty.txt").vocab_size
    (tmp_path / "blank.txt").write_text(" \n\t\n")
    with pytest.raises(InputError, match=r"blank\.txt' holds nothing but white space"):
        _ = make(tmp_path / "blank.txt").vocab_size
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin\.txt' is not UTF-8: byte 3 is 0xe9"):
        make(tmp_path / "latin.txt", tokenizer="byte").prepare_data()
    with pytest.raises(InputError, match=r"did you mean 'python-docs'"):
        _ = make("python-dcos").vocab_size


def test_a_rewritten_file_of_the_same_size_and_time_is_read_anew(make, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old text\n" * 100)
    before = file.stat()
    make(file).prepare_data()
    file.write_text("new text\n" * 100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    data = make(file, batch_size=1, context_length=8)
    ids = next(iter(data.val_dataloader()))["inputs"][0].tolist()
    assert data.tokenizer.decode(ids) == "new text"


def test_path_objects_are_as_good_as_strings(books, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("my own\n")
    data = TextDataModule(books, val_path=own, test_path=books / "03.txt", cache_dir=str(tmp_path / "cache"))
    assert [len(list(data.documents(split))) for split in SPLITS] == [19, 1, 1]
    expected = {"path": str(books), "val_path": str(own), "test_path": str(books / "03.txt")}
    assert expected.items() <= data.hparams.items()


def test_nothing_heavy_happens_when_it_is_made(tmp_path):
    data = TextDataModule(str(tmp_path / "nowhere.txt"), cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="nowhere"):
        data.prepare_data()


def test_the_command_line_reaches_the_arguments_of_the_base(tmp_path):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TextDataModule, "data")
    config = parser.parse_args(
        [
            "--data=TextDataModule",
            "--data.batch_size=8",
            "--data.batching=blocks",
            f"--data.cache_dir={tmp_path}",
        ]
    )
    data = parser.instantiate(config).data
    assert (data.batch_size, data.batching, data.path) == (8, "blocks", "python-docs")
    assert data.hparams["batch_size"] == 8


def test_a_text_that_changes_while_it_is_tokenized_is_not_kept(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abc " * 50)
    data = TextDataModule(str(file), tokenizer="byte", cache_dir=str(tmp_path / "cache"))
    path = data.store_path("train")
    file.write_text("xyz " * 50)
    with pytest.raises(InputError, match=r"the train split of .*text\.txt changed while it was tokenized"):
        data.prepare_data()
    assert not path.exists()
