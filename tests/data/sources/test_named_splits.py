import datasets
import numpy as np
import pytest
from datasets.data_files import SPLIT_KEYWORDS

from lightning_seq.data import HuggingFaceTextDataModule, TextDataModule, TokenDataModule
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.data.sources.files import find_files
from lightning_seq.data.sources.named_splits import KEYWORDS, split_files
from lightning_seq.errors import InputError

BOOKS = ["Emma.txt", "Middlemarch.txt", "Time.txt", "Ulysses.txt"]


def fill(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n" * 20)
    return folder


def found(folder, pattern="", suffixes=(".txt",)):
    """The names of the files of each split, below the folder."""
    path = str(folder / pattern)
    splits = split_files(find_files(path, suffixes), path)
    return [[str(file.relative_to(folder)) for file in splits.get(split, [])] for split in SPLITS]


def test_keywords_are_those_of_datasets():
    assert {split: set(words) for split, words in KEYWORDS.items()} == {
        str(split): set(words) for split, words in SPLIT_KEYWORDS.items()
    }


@pytest.mark.parametrize("keyword", [word for words in KEYWORDS.values() for word in words])
@pytest.mark.parametrize("name", ["{}.txt", "{}-1.txt", "2_{}.txt", "{}-00000-of-00001-0a1b.txt"])
def test_a_keyword_alone_is_the_split(tmp_path, keyword, name):
    fill(tmp_path, [name.format(keyword), name.format("train")])
    expected = next(split for split, words in KEYWORDS.items() if keyword in words)
    assert name.format(keyword) in found(tmp_path)[SPLITS.index(expected)]


@pytest.mark.parametrize(
    "names",
    [
        ["train", "valid", "test"],
        ["Train", "Dev", "Eval"],
        ["wiki.train", "wiki.valid", "wiki.test"],
        ["ptb.train", "ptb.val", "ptb.test"],
        ["train.en", "val.en", "test.en"],
        ["train.raw.lower", "validation.raw.lower", "test.raw.lower"],
        ["my-training set", "my-dev set", "my-evaluation set"],
        ["shakespeare_train", "dickens_valid", "austen_test"],
        ["01-train", "02-val", "03-test"],
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".tokens", ""])
def test_splits_are_told_by_names(tmp_path, names, suffix):
    files = [name + suffix for name in names]
    fill(tmp_path, files)
    assert found(tmp_path, "*") == [[file] for file in files]


@pytest.mark.parametrize("names", [["train", "valid", "test"], ["wiki-train", "wiki-val", "wiki-test"]])
def test_splits_are_told_by_directories_before_names(tmp_path, names):
    files = [f"{names[0]}/The Acid Test.txt", f"{names[1]}/deep/train.txt", f"{names[2]}/1.txt"]
    fill(tmp_path, files)
    assert found(tmp_path) == found(tmp_path, "**/*.txt") == [[file] for file in files]
    assert found(tmp_path / names[1]) == [["deep/train.txt"], [], []]  # the directory is given by hand
    (tmp_path / files[2]).rename(tmp_path / "test.txt")
    assert found(tmp_path) == [*[[file] for file in files[:2]], ["test.txt"]]


@pytest.mark.parametrize(
    "title",
    ["The Test of Time", "the-test-of-time", "Detest", "A Valid Point", "Testament", "Training Day",
     "Train to Pakistan", "The Last Train", "Validity", "Évaluation", "détest"],
)  # fmt: skip
def test_a_book_is_no_split(tmp_path, title):
    books = sorted([*BOOKS, f"{title}.txt"])
    assert found(fill(tmp_path, books)) == [books, [], []]
    assert found(tmp_path, f"{title}.txt") == [[f"{title}.txt"], [], []]


def test_a_file_is_taken_whatever_its_name_is(tmp_path):
    fill(tmp_path, ["test.txt", "train.txt"])
    assert found(tmp_path, "test.txt") == [["test.txt"], [], []]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.txt", "b.txt", "test.txt"], [["a.txt", "b.txt"], [], ["test.txt"]]),
        (["rows.txt", "rows-dev.txt"], [["rows.txt"], ["rows-dev.txt"], []]),
        (["train.txt", "test_a.txt", "test_b.txt"], [["train.txt"], [], ["test_a.txt", "test_b.txt"]]),
        (["train-1.txt", "train-2.txt"], [["train-1.txt", "train-2.txt"], [], []]),
    ],
)
def test_some_splits_are_named(tmp_path, files, expected):
    assert found(fill(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            ["train.txt", "vocab.txt"],
            r"'train\.txt', named for training, and 'vocab\.txt', whose name says no",
        ),
        (["train.txt", "test.txt", "LICENSE.txt"], r"'LICENSE\.txt', whose name says no split; move such"),
        (["train/a.txt", "b.txt"], r"'a\.txt', named for training, and 'b\.txt', whose name"),
        (["test.txt"], r"nothing to train on: 'test\.txt' and all others are named for test; add training"),
        (["test/a.txt", "val/b.txt"], r"nothing to train on: .* for validation and test; add training files"),
        (["train.txt", "dev-test.txt"], r"'dev-test\.txt' in .* says validation and test; rename it"),
        (
            [*BOOKS, "my_test.txt"],
            r"'my_test\.txt' in .* may be for test or one more to train on; name it test",
        ),
        (
            [*BOOKS, "Valid Points.txt"],
            r"'Valid Points\.txt' in .* may be for validation or .*validation\.txt",
        ),
    ],
)
def test_what_is_ambiguous_is_refused_with_what_to_do(tmp_path, files, said):
    with pytest.raises(InputError, match=said) as refusal:
        found(fill(tmp_path, files))
    assert "\n" not in str(refusal.value)


SIZES = {"train": 51_000, "valid": 3_400, "test": 3_200}


def corpus(folder, suffix):
    """The files of the splits, each of its own letter or id."""
    folder.mkdir()
    for i, (name, size) in enumerate(SIZES.items()):
        file = folder / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(file, np.full(size, i))
        elif suffix == ".txt":
            file.write_text("abc"[i] * size)
        else:
            rows = {"text": ["abc"[i] * size]}
            getattr(datasets.Dataset.from_dict(rows), f"to_{suffix[1:]}")(file)
    return folder


def make(folder, suffix, **options):
    options["cache_dir"] = str(folder.parent / "cache")
    if suffix == ".npy":
        return TokenDataModule(folder, vocab_size=3, **options)
    if suffix == ".txt":
        return TextDataModule(folder, tokenizer="byte", **options)
    return HuggingFaceTextDataModule(folder, tokenizer="byte", **options)


def tokens(data):
    """How often each token is in each split."""
    data.prepare_data()
    stores = [data._store(split).tokens for split in SPLITS]
    return [{int(token): int((store == token).sum()) for token in np.unique(store)} for store in stores]


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".parquet"])
def test_every_data_module_takes_splits_by_name_and_says_so(tmp_path, suffix, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    folder = corpus(tmp_path / "corpus", suffix)
    data = make(folder, suffix)
    first = 0 if suffix == ".npy" else ord("a")
    assert tokens(data) == [{first + i: size} for i, size in enumerate(SIZES.values())]
    data.setup("fit")
    names = f"train: train{suffix}; validation: valid{suffix}; test: test{suffix}"
    assert names in " ".join(caplog.text.split())
    assert "held out" not in data.describe()


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".parquet"])
def test_a_split_that_none_is_named_for_is_held_out_of_train(tmp_path, suffix, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    folder = corpus(tmp_path / "corpus", suffix)
    (folder / f"test{suffix}").unlink()
    data = make(folder, suffix)
    first = 0 if suffix == ".npy" else ord("a")
    assert [set(counts) for counts in tokens(data)] == [{first}, {first + 1}, {first}]
    assert tokens(data)[2][first] == pytest.approx(0.05 * SIZES["train"], rel=0.02)
    data.setup("fit")
    assert f"train, test: train{suffix}; validation: valid{suffix}" in " ".join(caplog.text.split())


@pytest.mark.parametrize("suffix", [".txt", ".npy"])
def test_paths_of_their_own_go_before_names_and_never_against_them(tmp_path, suffix):
    folder = corpus(tmp_path / "corpus", suffix)
    named = {"val_path": folder / f"valid{suffix}", "test_path": folder / f"test{suffix}"}
    expected = tokens(make(folder, suffix))
    for paths in (named, {"test_path": named["test_path"]}):
        assert tokens(make(folder, suffix, **paths)) == expected
    own = corpus(tmp_path / "own", suffix)
    with pytest.raises(
        InputError, match=rf"val_path is .*, and .* has .*valid\{suffix}', named for validation"
    ):
        tokens(make(folder, suffix, val_path=own / f"train{suffix}"))
    with pytest.raises(
        InputError, match=r"val_path '.*own' has files named for train and validation and test"
    ):
        tokens(make(folder / f"train{suffix}", suffix, val_path=own))


def test_the_files_of_each_split_are_named_however_many_there_are(tmp_path, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    TextDataModule(fill(tmp_path / "books", [f"{i:02}.txt" for i in range(20)]), cache_dir=tmp_path).setup(
        "fit"
    )
    TextDataModule(fill(tmp_path / "two", ["a.txt", "b/c.txt"]), cache_dir=tmp_path).setup("fit")
    np.save(tmp_path / "1.npy", np.zeros((30, 5), int))
    np.save(tmp_path / "2.npy", np.zeros((30, 5), int))
    TokenDataModule(tmp_path / "*.npy", cache_dir=tmp_path).setup("fit")
    said = " ".join(caplog.text.split())
    assert "train: 00.txt to 17.txt (18 files); validation: 18.txt; test: 19.txt" in said
    assert "train, validation, test: a.txt, b/c.txt" in said
    assert "train: 1.npy, 2.npy; validation, test: 2.npy" in said


def test_an_empty_file_that_is_named_for_a_split_is_refused(tmp_path):
    fill(tmp_path, ["train.txt", "valid.txt"])
    (tmp_path / "valid.txt").write_text("")
    with pytest.raises(InputError, match=r"valid\.txt' is empty; give a file that has text"):
        list(TextDataModule(tmp_path).documents("validation"))
