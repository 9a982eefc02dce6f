from pathlib import Path

from lightning_seq.data.disk import default_cache_dir, write_whole


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_SEQ_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path


def test_the_cache_honours_xdg_and_falls_back_to_home(monkeypatch, tmp_path):
    monkeypatch.delenv("LIGHTNING_SEQ_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "lightning_seq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "lightning_seq"


def test_a_small_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]
