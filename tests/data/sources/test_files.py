import pytest

from lightning_seq.data.sources.files import check_utf8, find_files, read_text
from lightning_seq.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.TXT", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(files):
    return [file.name for file in files]


def test_a_path_is_a_file_a_directory_or_a_glob(folder):
    assert names(find_files(str(folder / "readme.md"), [".txt"])) == ["readme.md"]
    assert names(find_files(str(folder), [".txt"])) == ["a.txt", "b.txt", "c.TXT"]
    assert names(find_files(str(folder / "[ab].txt"), [".txt"])) == ["a.txt", "b.txt"]
    assert names(find_files(str(folder / "**" / "*.TXT"), [".txt"])) == ["c.TXT"]


def test_home_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert names(find_files("~/a.txt", [".txt"])) == ["a.txt"]
    assert names(find_files("~/*.txt", [".txt"])) == ["a.txt", "b.txt"]


def test_what_is_not_there(folder):
    with pytest.raises(
        InputError, match=r"no file or directory .*readm\.md' \(did you mean .*/readme\.md'\?\)"
    ):
        find_files(str(folder / "readm.md"), [".txt"])
    with pytest.raises(InputError, match=r"no file matches .*\*\.csv"):
        find_files(str(folder / "*.csv"), [".txt"])
    with pytest.raises(InputError, match=r"has no \.csv or \.json file"):
        find_files(str(folder), [".csv", ".json"])
    with pytest.raises(InputError, match=r"did you mean 'python-docs'"):
        find_files("python-doc", [".txt"], ["python-docs"])
    with pytest.raises(InputError, match="'/dev/null' is a device or a pipe, neither a file nor a directory"):
        find_files("/dev/null", [".txt"])


def test_text_is_read_as_it_is_without_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\xc3\xa9\n")
    assert read_text(file) == "one\r\ntwo\ré\n"


def test_an_undecodable_byte_is_named(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"a" * 1234 + b"\xe9 and more")
    with pytest.raises(
        InputError, match=r"latin\.txt' is not UTF-8: byte 1,234 is 0xe9; convert it to UTF-8"
    ):
        read_text(file)


@pytest.mark.parametrize("before", [0, 5, 2**20 - 1, 2**20, 3 * 2**20 + 1])
def test_an_undecodable_byte_is_named_wherever_it_is_in_a_large_file(tmp_path, before):
    file = tmp_path / "a.txt"
    file.write_bytes("é".encode() * (2**20 + 3))
    check_utf8(file)
    file.write_bytes(b"x" + "é".encode() * (2 * 2**20))
    check_utf8(file)
    file.write_bytes(b"x" * before + b"\xc3\xff\xff")
    with pytest.raises(InputError, match=f"a.txt' is not UTF-8: byte {before:,} is 0xc3; convert it"):
        check_utf8(file)
    file.write_bytes(b"x" * before + b"\xc3")
    with pytest.raises(InputError, match=f"a.txt' is not UTF-8: byte {before:,} is 0xc3; convert it"):
        check_utf8(file)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_text(tmp_path)


def test_hidden_directories_and_samples_of_runs_are_no_data(tmp_path):
    for name in (
        "book.txt",
        ".venv/LICENSE.txt",
        "runs/a-1/samples.txt",
        "runs/a-1/config.yaml",
        "b/samples.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    found = find_files(str(tmp_path), (".txt",))
    assert [file.relative_to(tmp_path).as_posix() for file in found] == ["b/samples.txt", "book.txt"]
