import json
import os
from itertools import chain

import datasets
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.data.sources.local_datasets import is_local
from lightning_seq.data.sources.row_files import RowFile
from lightning_seq.errors import InputError

ROWS = [f"row {i} é\r\n" for i in range(100)]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def refuse(*args):
        pytest.fail("asked the Hub")

    monkeypatch.setattr("lightning_seq.data.sources.dataset_splits.load_from_hub", refuse)


@pytest.fixture
def make(tmp_path):
    def make(path, **options):
        return HuggingFaceTextDataModule(str(path), **{"cache_dir": str(tmp_path / "cache"), **options})

    return make


def write(file, rows):
    rows = [{"text": row, "number": i} for i, row in enumerate(rows)]
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(file)
    elif file.suffix == ".csv":
        datasets.Dataset.from_list(rows).to_csv(file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def sizes(data):
    return [len(list(data.documents(split))) for split in SPLITS]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_local_rows(make, tmp_path, suffix):
    data = make(write(tmp_path / f"rows{suffix}", ROWS))
    assert sizes(data) == [90, 5, 5]
    assert [row for split in SPLITS for row in data.documents(split)] == ROWS
    assert data.describe().endswith(f"rows{suffix}, validation and test held out of train")


def test_local_text_keeps_its_lines(make, tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo é\n\n".encode() * 100)
    data = make(tmp_path / "a.txt")
    texts = ["".join(data.documents(split)) for split in SPLITS]
    assert "".join(texts) == "one\r\ntwo é\n\n" * 100
    assert all(texts)


def test_a_directory_tells_splits_by_the_names_of_files(make, tmp_path):
    for name, rows in (("train-0", ROWS[:50]), ("train-1", ROWS[50:]), ("dev", ROWS[:7])):
        write(tmp_path / f"{name}.jsonl", rows)
    data = make(tmp_path)
    assert sizes(data) == [95, 7, 5]
    assert data.describe().endswith(", test held out of train")


def test_a_rewritten_file_of_the_same_size_and_time_is_read_anew(make, tmp_path):
    file = write(tmp_path / "rows.jsonl", ["old"] * 40)
    before, stat = make(file), file.stat()
    fingerprint = before.fingerprint("train")
    assert set(before.documents("train")) == {"old"}
    write(file, ["new"] * 40)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert set(make(file).documents("train")) == {"new"}
    assert make(file).fingerprint("train") != fingerprint


def test_fingerprints_differ_between_splits_and_columns(make, tmp_path):
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"text": ["a"] * 40, "other": ["b"] * 40}).to_parquet(file)
    all_ = [
        make(file, text_column=column).fingerprint(split) for column in ("text", "other") for split in SPLITS
    ]
    assert len(set(all_)) == 6
    assert make(file).fingerprint("train") == all_[0]


def test_trains(make, tmp_path):
    data = make(write(tmp_path / "rows.csv", ROWS), batch_size=2, context_length=8)
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"].shape == (2, 8)
    assert data.vocab_size == len(set("".join(ROWS))) + 1


def test_a_wrong_column_is_named(make, tmp_path):
    file = write(tmp_path / "rows.parquet", ROWS)
    message = r"no column 'txet' \(did you mean 'text'\?\); text_column can be one of \['text'\]"
    with pytest.raises(InputError, match=message):
        _ = make(file, text_column="txet").vocab_size
    with pytest.raises(InputError, match=r"column 'number' of .* holds int64, not text"):
        _ = make(file, text_column="number").vocab_size
    lists = tmp_path / "lists.parquet"
    datasets.Dataset.from_dict({"text": [["a"], ["b"]]}).to_parquet(lists)
    with pytest.raises(InputError, match=r"column 'text' of .* holds structures, not text"):
        _ = make(lists).vocab_size


def test_a_column_of_nothing_is_named(make, tmp_path):
    with pytest.raises(InputError, match=r"text_column='text' of .* holds no text, only empty rows"):
        _ = make(write(tmp_path / "rows.jsonl", ["", " "] * 40)).vocab_size


def test_rows_without_text_are_the_empty_lines_of_wikitext(make, tmp_path):
    """The Hub's WikiText has a line a row, and nothing in the rows of empty lines: each is an <eos>."""
    rows = ["", " = Title = \n", "", " one two <unk> \n", " three \n", ""] * 40
    original = "".join(row or " \n" for row in rows).split("\n")[:-1]
    expected = [word for line in original for word in [*line.split(), "<eos>"]]
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        write(folder / f"{name}.jsonl", rows)
    for blank_lines, wanted in ((True, len(expected)), (False, len(expected) - rows.count(""))):
        data = make(folder, tokenizer="word", blank_lines=blank_lines)
        data.prepare_data()
        assert len(data._store("train").tokens) == wanted
    data = make(folder, tokenizer="word", blank_lines=True)
    data.prepare_data()
    assert [data.tokenizer.id_to_token(i) for i in np.asarray(data._store("train").tokens)] == expected


def test_a_template_joins_columns(make, tmp_path):
    rows = {
        "title": ["one", None, "three", ""] * 10,
        "text": ["first", "second", None, ""] * 10,
        "number": list(range(40)),
    }
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(file)
    every = ["{one}\nfirst", "{}\nsecond", "{three}\n"] * 10
    template = "{{{title}}}\n{text}"
    for options in ({}, {"max_tokens": 10_000}, {"streaming": True, "batching": "blocks"}):
        data = make(file, template=template, text_column="nowhere", **options)
        assert sorted(text for split in SPLITS for text in data.documents(split)) == sorted(every)
    prints = [make(file, **option).fingerprint("train") for option in ({}, {"template": "{text}"})]
    prints.append(make(file, template="{title}").fingerprint("train"))
    assert len(set(prints)) == 3


def test_a_wrong_template_is_explained(make, tmp_path):
    file = write(tmp_path / "rows.parquet", ROWS)
    unknown = r"no column 'txet' \(did you mean 'text'\?\); template can name any of \['text', 'number'\]"
    lists = tmp_path / "lists.parquet"
    datasets.Dataset.from_dict({"text": ["a"], "lists": [["b"]]}).to_parquet(lists)
    for streaming in ({}, {"streaming": True, "batching": "blocks"}):
        with pytest.raises(InputError, match=unknown):
            _ = make(file, template="{txet}", **streaming).vocab_size
        with pytest.raises(
            InputError, match=r"column 'lists' of .* holds structures, not text; template can"
        ):
            _ = make(lists, template="{text}{lists}", **streaming).vocab_size
        with pytest.raises(InputError, match=r"no column 'text\.__class__'; template can name"):
            _ = make(file, template="{text.__class__}", **streaming).vocab_size
    for template in ("{text!r}", "{text:>10}"):
        with pytest.raises(InputError, match="has a format or a conversion in its braces; give columns"):
            make(file, template=template)
    for template in ("text", "", "{}", "{{text}}"):
        with pytest.raises(InputError, match="does not name its columns; give columns in braces"):
            make(file, template=template)
    with pytest.raises(InputError, match=r"cannot be read \(expected '}' before end of string\); give"):
        make(file, template="{text")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_local_rows_can_be_streamed(make, tmp_path, suffix):
    rows = [*ROWS, "", "last"]
    data = make(write(tmp_path / f"rows{suffix}", rows), max_tokens=10**6)
    texts = {split: list(data.documents(split)) for split in SPLITS}
    assert sorted(chain(*texts.values())) == sorted(filter(None, rows))
    assert len(texts["train"]) > 90
    assert data.describe().endswith("held out of train, 1,000,000 tokens at most")
    with pytest.raises(InputError, match="no column 'txet'"):
        make(tmp_path / f"rows{suffix}", max_tokens=10, text_column="txet").prepare_data()


def test_wrong_splits_are_named(make, tmp_path):
    file = write(tmp_path / "rows.csv", ROWS)
    with pytest.raises(
        InputError, match=r"no split 'trian' \(did you mean 'train'\?\); train_split can be one"
    ):
        _ = make(file, train_split="trian").vocab_size
    with pytest.raises(InputError, match="no split 'held'; validation_split can be one of"):
        _ = make(file, validation_split="held").vocab_size
    with pytest.raises(InputError, match="test_split and train_split are both 'train'"):
        _ = make(file, test_split="train").vocab_size


@pytest.mark.parametrize(
    "path", ["./data", "../data", "/data", "~/data", "data.csv", "a/b.parquet", "data/*"]
)
def test_a_missing_local_path_is_never_sent_to_the_hub(make, path):
    assert is_local(path)
    with pytest.raises(InputError, match="no file"):
        _ = make(path).vocab_size


def test_a_hub_id_is_not_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("someone/text")
    (tmp_path / "someone" / "text").mkdir(parents=True)
    assert is_local("someone/text")


def test_broken_files_are_said_in_one_line(make, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(
        InputError, match=r"cannot load the dataset .*broken\.parquet' \(.*check that file"
    ) as raised:
        _ = make(tmp_path / "broken.parquet").vocab_size
    assert "\n" not in str(raised.value)


def test_an_undecodable_byte_is_named(make, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin\.txt' is not UTF-8: byte 3 is 0xe9"):
        _ = make(tmp_path / "latin.txt").vocab_size


def read(data):
    data.prepare_data()
    batches = [batch["inputs"].tolist() for batch in data.train_dataloader()]
    data.teardown("fit")
    return batches


WHOLE_AND_STREAMED = pytest.mark.parametrize(
    "options",
    [
        {"tokenizer": "byte"},
        {"tokenizer": "byte", "max_tokens": 10**7},
        {"tokenizer": "byte", "streaming": True, "batching": "blocks", "batch_size": 8},
        pytest.param(
            {"tokenizer": "byte", "streaming": True, "batching": "blocks", "num_workers": 1},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["whole", "max_tokens", "streamed", "worker"],
)


def fill(folder, good, bad, suffix):
    """Makes a directory of a good file, and one that begins like it and then has something else."""
    folder.mkdir()
    for name in ("validation", "test"):
        write(folder / f"{name}{suffix}", ["held out"] * 9)
    (folder / f"a{suffix}").write_bytes(good)
    (folder / f"b{suffix}").write_bytes(good + bad)
    return folder


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_an_undecodable_byte_anywhere_is_named_with_its_file(make, tmp_path, options, suffix):
    line = {".jsonl": b'{"text": "hello", "number": 1}\n', ".csv": b"hello,1\n", ".txt": b"h\xc3\xa9llo\n"}
    good = (b"text,number\n" if suffix == ".csv" else b"") + line[suffix] * 3000
    bad = line[suffix].replace(b"o", b"\xff")
    data = make(fill(tmp_path / "rows", good, bad, suffix), context_length=1024, **options)
    byte = f"{len(good) + bad.index(0xFF):,}"
    with pytest.raises(InputError, match=rf"b\{suffix}' is not UTF-8: byte {byte} is 0xff; convert it to"):
        read(data)


@WHOLE_AND_STREAMED
def test_an_undecodable_string_of_a_parquet_is_named_with_its_row(make, tmp_path, options):
    write(tmp_path / "a.parquet", ROWS)
    for name in ("validation", "test"):
        write(tmp_path / f"{name}.parquet", ROWS)
    text = [row.encode() for row in ROWS]
    text[70] = b"caf\xe9"
    wrong = pyarrow.array(text, pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": wrong, "number": range(100)}), tmp_path / "b.parquet")
    data = make(tmp_path, context_length=1024, **options)
    message = r"b\.parquet' is not UTF-8: byte 3 of column 'text' in row 70 is 0xe9; convert it to UTF-8"
    with pytest.raises(InputError, match=message):
        read(data)


NO_ROWS = {".jsonl": b"\n", ".json": b"[]", ".csv": b"text,number\n"}


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_without_rows_is_named(make, tmp_path, options, suffix):
    if suffix == ".parquet":
        parquet.write_table(
            pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "e.parquet"
        )
    else:
        (tmp_path / f"e{suffix}").write_bytes(NO_ROWS[suffix])
    with pytest.raises(InputError, match=rf"e\{suffix}' has no rows; give a file that has, or take it away"):
        read(make(tmp_path, **options))


def test_files_without_rows_are_no_fault_beside_others(make, tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl").touch()
    assert sizes(make(tmp_path)) == [90, 5, 5]


@WHOLE_AND_STREAMED
def test_a_later_row_that_is_no_text_is_named(make, tmp_path, options):
    rows = [{"text": "hello"}] * 300
    content = "\n".join(map(json.dumps, [*rows, {"text": 3}]))
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"row 300 of .*rows\.jsonl' holds int, not text, in column 'text'"):
        read(make(tmp_path / "rows.jsonl", **options))


@WHOLE_AND_STREAMED
def test_a_file_whose_column_is_no_text_is_named(make, tmp_path, options):
    for name in ("a", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", ROWS)
    (tmp_path / "b.jsonl").write_text('{"text": ["a"], "number": 1}\n' * 20)
    message = r"column 'text' of .*b\.jsonl' holds structures|row 0 of .*b\.jsonl' holds list, not text"
    with pytest.raises(InputError, match=message):
        read(make(tmp_path, context_length=1024, **options))


def test_nothing_is_logged_beside_the_error(make, tmp_path, capfd):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n')
    for options in ({}, {"max_tokens": 10}):
        with pytest.raises(InputError, match=r"row 1 of .*rows\.jsonl' is not JSON \(Expecting value\)"):
            _ = make(tmp_path / "rows.jsonl", **options).vocab_size
    assert "Failed" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "options",
    [{}, {"max_tokens": 1000}, {"streaming": True, "batching": "blocks"}],
    ids=["whole", "max_tokens", "streamed"],
)
def test_content_counts_wherever_it_lies(make, tmp_path, options, monkeypatch):
    for name in ("here", "there/deep"):
        (tmp_path / name).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            write(tmp_path / name / f"{split}.jsonl", ROWS)
    monkeypatch.chdir(tmp_path / "here")
    folders = (tmp_path / "here", "../here", tmp_path / "there" / "deep")
    assert len({tuple(make(each, **options).fingerprint(split) for split in SPLITS) for each in folders}) == 1
    (tmp_path / "here" / "dev.jsonl").rename(tmp_path / "here" / "train-more.jsonl")
    assert make(folders[0], **options).fingerprint("train") != make(folders[2], **options).fingerprint(
        "train"
    )


def test_prepared_tokens_of_files_need_no_loading(make, tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl", ROWS)
    before = read(make(file, batch_size=2))
    monkeypatch.setattr(RowFile, "open", lambda self: pytest.fail("loaded"))
    assert read(make(file, batch_size=2)) == before


def test_files_that_change_while_they_are_tokenized_are_refused(make, tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS)
    data = make(file, tokenizer="byte")
    assert data.identity()["text"]
    write(file, ["another"] * 200)
    with pytest.raises(InputError, match="changed while it was tokenized"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("options", "option"),
    [({"max_tokens": 1000}, "max_tokens"), ({"streaming": True, "batching": "blocks"}, "streaming")],
)
def test_a_split_that_no_hash_hit_is_explained(make, tmp_path, options, option):
    data = make(write(tmp_path / "few.jsonl", ["", *["hello there"] * 7]), **options)
    data.prepare_data()
    message = (
        "the validation split of .*few.jsonl.* is empty: one document in 100 is held out for it by a hash of "
        f"its content, and none of the 7 in train was; give the data a split 'validation' or .* {option} out"
    )
    with pytest.raises(InputError, match=message):
        data.val_dataloader()
    empty = make(write(tmp_path / "empty.jsonl", ["", ""]), **options)
    with pytest.raises(InputError, match=r"empty\.jsonl' holds no text, only empty rows"):
        empty.val_dataloader()


def test_a_path_object_is_as_good_as_a_string(tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS)
    data = HuggingFaceTextDataModule(file, cache_dir=str(tmp_path / "cache"))
    assert sizes(data) == [90, 5, 5]
    assert data.hparams["path"] == str(file)


def test_formats_do_not_mix(make, tmp_path):
    write(tmp_path / "a.csv", ROWS)
    write(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(InputError, match=r"has files of \['.csv', '.jsonl'\]; give files of one format"):
        _ = make(tmp_path).vocab_size
