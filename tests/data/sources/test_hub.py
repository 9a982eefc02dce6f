import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.data.sources.hub import ask, offline, quiet_datasets
from lightning_seq.errors import InputError


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)

    def log_message(self, *args):
        pass


@pytest.fixture
def silent_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_any_answer_is_an_answer():
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert ask(f"http://127.0.0.1:{server.server_port}")()


def test_nonsense_does_not_answer(closed_port):
    assert not ask(closed_port)()
    assert not ask("no address at all")()


def test_a_name_that_is_never_looked_up_does_not_hold_us_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("lightning_seq.data.sources.hub.PATIENCE", 0.1)

    def look_up_slowly(*args, **kwargs):
        release.wait(10)
        raise OSError("no such host")

    monkeypatch.setattr("urllib.request.urlopen", look_up_slowly)
    start = time.monotonic()
    assert not ask("http://127.0.0.1")()
    assert time.monotonic() - start < 5
    release.set()


def test_no_network_is_said_within_five_seconds_when_streaming(silent_server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", silent_server)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    start = time.monotonic()
    message = rf"{silent_server} does not answer, and 'a/b' .*HF_HUB_OFFLINE.*{tmp_path / 'hf'}"
    data = HuggingFaceTextDataModule("a/b", streaming=True, batching="blocks", cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=message):
        _ = data.vocab_size
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("network", ["closed_port", "silent_server"])
def test_no_network_is_said_within_five_seconds(network, request, monkeypatch, tmp_path):
    endpoint = request.getfixturevalue(network)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data = HuggingFaceTextDataModule("someone/some-text", "large", cache_dir=str(tmp_path))
    start = time.monotonic()
    message = rf"{endpoint} does not answer.*{tmp_path / 'hf'}.*'someone/some-text' \(large\).*HF_HUB_OFFLINE"
    with pytest.raises(InputError, match=message):
        _ = data.vocab_size
    assert time.monotonic() - start < 5
    assert not datasets.config.HF_HUB_OFFLINE


def test_that_the_user_is_offline_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    data = HuggingFaceTextDataModule("someone/some-text", cache_dir=str(tmp_path))
    message = "HF_HUB_OFFLINE is set, and the cache .* has no dataset 'someone/some-text'"
    with pytest.raises(InputError, match=message):
        _ = data.vocab_size


def test_without_a_network_the_cache_is_tried(monkeypatch, closed_port, tmp_path):
    asked = []

    def from_cache(path, name, revision):
        asked.append((path, name, revision, datasets.config.HF_HUB_OFFLINE))
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["abc"] * 40}))

    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    monkeypatch.setattr(datasets, "load_dataset", from_cache)
    data = HuggingFaceTextDataModule("someone/some-text", revision="v1", cache_dir=str(tmp_path))
    assert data.vocab_size == 5  # with the newline between documents
    assert asked == [("someone/some-text", None, "v1", True)]


@pytest.mark.parametrize("error", [ValueError("Config name is missing.\nPick one"), OSError("gone")])
def test_what_the_hub_refuses_is_said_in_one_line(monkeypatch, tmp_path, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("lightning_seq.data.sources.hub.ask", lambda endpoint: lambda: True)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda *args, **options: SimpleNamespace(sha="1")
    )
    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    message = (
        rf"cannot load the dataset 'a/b' \({str(error).splitlines()[0]}\); check path, name and revision$"
    )
    with pytest.raises(InputError, match=message):
        _ = HuggingFaceTextDataModule("a/b", cache_dir=str(tmp_path)).vocab_size


def test_progress_bars_and_log_lines_come_back():
    datasets.enable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    with quiet_datasets():
        assert datasets.are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() > datasets.logging.ERROR
    assert not datasets.are_progress_bars_disabled()
    assert datasets.logging.get_verbosity() == verbosity


def test_offline_lasts_as_long_as_it_should():
    def fail_offline():
        with offline():
            assert datasets.config.HF_HUB_OFFLINE
            assert huggingface_hub.constants.HF_HUB_OFFLINE
            raise RuntimeError("as the test wants it")

    with pytest.raises(RuntimeError, match="as the test wants it"):
        fail_offline()
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
