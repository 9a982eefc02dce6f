"""Rows of CSV, JSON and Parquet files are read as they are written, and only the columns that are used."""

import csv
import datetime
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.data.sources.columns import RowText
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.data.sources.row_files import RowFile
from lightning_seq.errors import InputError

AS_WRITTEN = [
    *("NA", "null", "None", "nan", "N/A", "007", "1e3", "1.10", "2024-01-18", "2024-01-18T10:00:00Z", "true"),
    *("12345678901234567890", " padded ", 'a "quoted", b', "two\r\nlines\n", "\u2028é\x0b", "-0", "[]", "{}"),
]
READERS = pytest.mark.parametrize(
    "options",
    [{}, {"max_tokens": 10**7}, {"streaming": True, "batching": "blocks"}],
    ids=["whole", "max_tokens", "streamed"],
)


def write(file, rows):
    """Writes rows, each a dict, as text alone."""
    if file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    else:
        content = json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows))
        file.write_text(content, encoding="utf-8")
    return file


def texts(file, column="text", template=None, **options):
    formats = {".csv": "csv", ".parquet": "parquet"}
    read = RowFile(formats.get(file.suffix, "json"), str(file), str(file), options)
    return list(read.texts(RowText(column, template)))


@pytest.fixture
def documents(tmp_path):
    def documents(path, **options):
        data = HuggingFaceTextDataModule(str(path), cache_dir=str(tmp_path / "cache"), **options)
        return [text for split in SPLITS for text in data.documents(split)]

    return documents


@READERS
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_strings_are_as_they_are_written(documents, tmp_path, suffix, options):
    file = write(tmp_path / f"a{suffix}", [{"text": text} for text in AS_WRITTEN])
    assert sorted(documents(file, **options)) == sorted(AS_WRITTEN)
    assert sorted(documents(file, template="<{text}>", **options)) == sorted(
        f"<{text}>" for text in AS_WRITTEN
    )


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("alike", [["007", "010"], ["2024-01-18"] * 3, ["NA", "NA"], ["1.50", "true"]])
def test_a_column_whose_strings_all_look_like_another_type_is_text(tmp_path, suffix, alike):
    assert texts(write(tmp_path / f"a{suffix}", [{"text": text} for text in alike])) == alike


def test_a_template_takes_numbers_and_dates_as_they_are_written(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1.10, "b": 12345678901234567890}\n{"a": -0, "b": true}\n{"a": 1E+2, "b": null}\n')
    assert texts(file, template="{a}|{b}") == ["1.10|12345678901234567890", "-0|true", "1E+2|"]
    (tmp_path / "a.csv").write_text("a,b\n1.10,007\n-0,\n")
    assert texts(tmp_path / "a.csv", template="{a}|{b}") == ["1.10|007", "-0|"]
    rows = {
        "i": [1, None],
        "d": [1.0, 0.1],
        "f": pa.array([0.1, 3.0], pa.float32()),
        "b": [True, False],
        "t": [datetime.date(2024, 1, 18), None],
    }
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", template="{i}|{d}|{f}|{b}|{t}") == [
        "1|1.0|0.1|true|2024-01-18",
        "|0.1|3.0|false|",
    ]


def test_numbers_alone_are_no_text_column(tmp_path):
    with pytest.raises(InputError, match=r"row 1 of .*a\.jsonl' holds float, not text, in column 'text'"):
        texts(write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": 1.5}]))
    for structure in (["a"], {"b": "a"}):
        with pytest.raises(InputError, match=r"row 0 of .* holds (list|dict), not text, in column 'text'"):
            texts(write(tmp_path / "a.jsonl", [{"text": structure}]), template="{text}")


OTHERS = [
    [None, "2024-01-18", 3],
    [1, "one", None],
    [{"a": 1}, {"b": ["c"]}, {"a": "x"}],
    [[1], ["a"], [{"a": 1}]],
]


@READERS
@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_columns_that_are_not_used_may_differ_between_files(documents, tmp_path, suffix, others, options):
    folder, expected = tmp_path / "rows", []
    folder.mkdir()
    for part, other in enumerate([*others, "missing"]):
        rows = [{"text": f"{part} {i}", "other": other} for i in range(9)]
        if other == "missing":
            rows = [{"more": 1, "text": row["text"]} for row in rows]
        expected += [row["text"] for row in rows]
        write(folder / f"{part}{suffix}", rows)
    assert sorted(documents(folder, **options)) == sorted(expected)


def test_columns_that_are_not_used_may_differ_within_a_file(tmp_path):
    file, padding = tmp_path / "a.jsonl", "x" * 4000
    others = ["1", '"a"', "null", '{"a": 1}', '{"a": "b"}', "[1]", '["a"]']
    lines = [f'{{"text": "t{i}", "pad": "{padding}", "other": {others[i // 500]}}}' for i in range(3500)]
    file.write_text("\n".join(lines))  # 14 MB
    assert texts(file) == [f"t{i}" for i in range(3500)]


@READERS
@pytest.mark.parametrize(
    "row",
    [
        {"type": "user", "message": {"role": "user", "content": "a"}},
        {"messages": [{"role": "user", "content": "a"}]},
        {"type": "event_msg", "payload": {"a": 1}},
    ],
    ids=["message", "messages", "payload"],
)
def test_chats_are_rows_like_others(documents, tmp_path, row, options):
    file = write(tmp_path / "a.jsonl", [{**row, "text": f"text {i}"} for i in range(40)])
    assert sorted(documents(file, **options)) == sorted(f"text {i}" for i in range(40))


@READERS
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_first_file_may_have_no_text(documents, tmp_path, suffix, options):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / f"a{suffix}", [{"text": None}] * 5)
    write(folder / f"b{suffix}", [{"text": f"b{i}"} for i in range(9)])
    assert documents(folder, template="{text}", **options) == [f"b{i}" for i in range(9)]


def test_a_value_may_be_missing_in_a_row_but_a_column_not_in_a_file(tmp_path):
    rows = [{"text": "a"}, {"title": "b"}, {"title": "c", "text": "d"}]
    assert texts(write(tmp_path / "a.jsonl", rows), template="{title}:{text}") == [":a", "b:", "c:d"]
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        with pytest.raises(InputError, match=rf"a\{suffix}' has no column 'txet' \(did you mean 'text'\?\)"):
            texts(write(tmp_path / f"a{suffix}", [{"text": "a"}] * 2000), column="txet")


@READERS
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b"}\n{"text": "c\n',
            r"row 2 of .*a\.jsonl' is not JSON \(Unterm",
        ),
        ("a.jsonl", '{"text": "a"}\n7\n', r"row 1 of .*a\.jsonl' is int, not an object"),
        (
            "a.json",
            '[{"text": "a"}, {"text": "b"}, {"text" "c"}]',
            r"row 2 of .*a\.json' is not JSON \(Expecting",
        ),
        ("a.json", '[{"text": "a"}, {"text": "b"}', r"row 2 of .*a\.json' is not JSON"),
        ("a.csv", 'text,n\na,1\n"b,2\nc,3\n', r"row 1 of .*a\.csv' is not CSV \(unexpected end of data\)"),
        ("a.csv", 'text,n\na,1\n"b" c,2\n', r"row 1 of .*a\.csv' is not CSV \(',' expected after '\"'\)"),
        ("a.csv", "text,n\na,1\nb, c,2\n", r"row 1 of .*a\.csv' has 3 values and the file 2 columns"),
        ("a.csv", "n,text\n1,a\n2,b\nc\n", r"row 2 of .*a\.csv' has 1 values and the file 2 columns"),
        ("a.csv", "text,text\na,b\n", r"a\.csv' has several columns 'text'"),
        ("a.parquet", "PAR1 and nothing", r"a\.parquet' \(.*check that file"),
    ],
)
def test_a_broken_file_is_named_with_the_row(documents, tmp_path, name, content, message, options):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        documents(tmp_path / name, **options)


def test_large_values_are_read(tmp_path):
    large = 'a "b", ' * 300_000
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        rows = [{"text": "a"}, {"text": large}, {"text": "c"}]
        assert texts(write(tmp_path / f"a{suffix}", rows)) == ["a", large, "c"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\ufeff{"text": "a"}\r\n\r\n{"text": "b"}\r\n', ["a", "b"]),
        ('\ufeff[\n {"text": "a"},\n\n {"text": "b"}\n]\n', ["a", "b"]),
        ('["a", "b, ]"]', ["a", "b, ]"]),
        ("[]", []),
        ("\n", []),
        ('{\n "text": ["a", "b"],\n "n": [1, 2]\n}', ["a", "b"]),
        ('{"text": "\\ud83d\\ude00\\u0000"}', ["\U0001f600\0"]),
    ],
)
def test_json_comes_in_several_shapes(tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert texts(tmp_path / "a.json") == expected


def test_an_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_seq.data.sources.json_rows.READ_AT_ONCE", 5)
    rows = [{"text": 'é, ] } "' * i, "n": [i, {"a": i}]} for i in range(1, 50)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    assert texts(file, template="{text}.") == [row["text"] + "." for row in rows]


def test_csv_comes_in_several_shapes(tmp_path):
    file = tmp_path / "a.csv"
    for content in ("\ufefftext,n\r\na,1\r\n\r\nb,2\r\n", "text,n\ra,1\rb,2\r", '"text","n"\n"a",1\n"b",2'):
        file.write_bytes(content.encode())
        assert texts(file) == ["a", "b"]
    file.write_text("a\t1\n'b\t'\t2\n")
    assert texts(file, delimiter="\t", quotechar="'", names=["text", "n"]) == ["a", "b\t"]


@pytest.mark.parametrize(
    "names", [("part [1].jsonl", "part 1.jsonl"), ("q?.jsonl", "qa.jsonl"), ("a::b.jsonl", "b.jsonl")]
)
@READERS
def test_names_of_files_are_literal(documents, tmp_path, names, options):
    for name in names:
        write(tmp_path / name, [{"text": f"{name} {i}"} for i in range(20)])
    for name in names:
        assert sorted(documents(tmp_path / name, **options)) == sorted(f"{name} {i}" for i in range(20))
    (tmp_path / "[v1]").mkdir()
    write(tmp_path / "[v1]" / "a.jsonl", [{"text": f"v1 {i}"} for i in range(20)])
    for path in ("[v1]", "[v1]/a.jsonl"):
        assert sorted(documents(tmp_path / path, **options)) == sorted(f"v1 {i}" for i in range(20))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_has_several_types_of_text(tmp_path, kind):
    column = pa.array(["a", None, "007"] * 900).cast(kind)
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=1300)
    assert texts(tmp_path / "a.parquet") == ["a", "", "007"] * 900
