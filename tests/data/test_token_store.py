import errno
import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_seq.data import disk
from lightning_seq.data.token_store import Counts, TokenStore, count_words
from lightning_seq.errors import InputError

TEXTS = ["one\n", "zwei é\n", "🙂"]
FORKING = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def encoded(texts=TEXTS):
    return [(text, np.frombuffer(text.encode("utf-8"), dtype=np.uint8)) for text in texts]


def visible(folder):
    return [each.name for each in folder.iterdir() if not each.name.startswith(".")]


def test_holds_tokens_boundaries_and_counts(tmp_path):
    store = TokenStore.open_or_build(tmp_path / "store", encoded, 256)
    assert bytes(store.tokens.astype(np.uint8)).decode("utf-8") == "".join(TEXTS)
    assert store.documents.tolist() == [0, 4, 12, 16]
    assert store.counts == Counts(tokens=16, documents=3, characters=12, bytes=16, words=4)
    assert len(store) == 16


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(2**8, np.uint8), (2**8 + 1, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_ids_take_as_few_bytes_as_the_vocabulary_allows(tmp_path, vocab_size, dtype):
    largest = np.array([vocab_size - 1], dtype=np.uint32)
    store = TokenStore.open_or_build(tmp_path / "store", lambda: [("x", largest)], vocab_size)
    assert store.tokens.dtype == dtype
    assert store.tokens.tolist() == [vocab_size - 1]


def test_an_empty_text_has_an_empty_store(tmp_path):
    store = TokenStore.open_or_build(tmp_path / "store", list, 256)
    assert store.tokens.tolist() == []
    assert TokenStore.open(tmp_path / "store") is not None


def test_is_built_once(tmp_path):
    TokenStore.open_or_build(tmp_path / "store", encoded, 256)
    store = TokenStore.open_or_build(tmp_path / "store", lambda: pytest.fail("built again"), 256)
    assert len(store) == 16


def test_the_map_is_not_pickled(tmp_path):
    big = [("x", np.zeros(100_000, dtype=np.uint8))]
    store = TokenStore.open_or_build(tmp_path / "store", lambda: big, 256)
    assert len(store.tokens) == 100_000
    content = pickle.dumps(store)
    assert len(content) < 1000
    assert len(pickle.loads(content).tokens) == 100_000


@pytest.mark.parametrize("damage", ["tokens.bin", "documents.npy", "meta.json"])
def test_a_damaged_store_is_rebuilt(tmp_path, damage):
    path = tmp_path / "store"
    TokenStore.open_or_build(path, encoded, 256)
    os.truncate(path / damage, (path / damage).stat().st_size - 2)
    assert TokenStore.open(path) is None
    assert TokenStore.open_or_build(path, encoded, 256).tokens.tolist() == list("".join(TEXTS).encode())
    (path / damage).write_bytes(b"")
    assert TokenStore.open(path) is None
    (path / damage).unlink()
    assert TokenStore.open_or_build(path, encoded, 256).documents.tolist() == [0, 4, 12, 16]
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_failing_text_leaves_nothing_and_its_error_is_its_own(tmp_path, error):
    def failing():
        yield from encoded()
        raise error("the text's own")

    with pytest.raises(error, match="the text's own"):
        TokenStore.open_or_build(tmp_path / "store", failing, 256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["write", "fsync"])
def test_a_full_disk_says_where_and_leaves_nothing(tmp_path, monkeypatch, function):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, function, full)
    with pytest.raises(InputError, match=rf"{tmp_path}.*No space left.*LIGHTNING_SEQ_CACHE"):
        TokenStore.open_or_build(tmp_path / "store", encoded, 256)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_directory(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot write to the cache"):
        TokenStore.open_or_build(tmp_path / "cache" / "store", encoded, 256)


def slowly(started=None):
    for i in range(200):
        yield "x", np.full(20_000, i % 256, dtype=np.uint8)
        if started is not None:
            started.set()
            time.sleep(0.05)


def race(path, barrier, results):
    barrier.wait()
    store = TokenStore.open_or_build(path, slowly, 256)
    results.put(int(store.tokens.astype(np.int64).sum()))


def build_forever(path, started):
    TokenStore.open_or_build(path, lambda: slowly(started), 256)


@FORKING
def test_four_processes_build_one_store(tmp_path):
    processes = multiprocessing.get_context("fork")
    barrier, results = processes.Barrier(4), processes.Queue()
    racers = [processes.Process(target=race, args=(tmp_path / "store", barrier, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    sums = {results.get(timeout=30) for _ in racers}
    for racer in racers:
        racer.join()
    assert sums == {20_000 * sum(i % 256 for i in range(200))}
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def race_for_damaged(paths, barrier, results):
    try:
        for path in paths:
            barrier.wait(30)
            TokenStore.open_or_build(path, encoded, 256)
        results.put(None)
    except Exception as error:
        barrier.abort()
        results.put(error)


@FORKING
def test_four_processes_mend_a_damaged_store(tmp_path):
    processes = multiprocessing.get_context("fork")
    paths = [tmp_path / f"store{i}" for i in range(50)]
    for path in paths:
        path.mkdir()
        (path / "meta.json").write_text("damaged")
    barrier, results = processes.Barrier(4), processes.Queue()
    racers = [processes.Process(target=race_for_damaged, args=(paths, barrier, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    assert [results.get(timeout=60) for _ in racers] == [None] * 4
    for racer in racers:
        racer.join()
    assert all(TokenStore.open(path) is not None for path in paths)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@FORKING
def test_a_killed_builder_leaves_nothing_visible(tmp_path):
    processes = multiprocessing.get_context("fork")
    started = processes.Event()
    builder = processes.Process(target=build_forever, args=(tmp_path / "store", started))
    builder.start()
    assert started.wait(30)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert visible(tmp_path) == []
    (left,) = tmp_path.iterdir()

    TokenStore.open_or_build(tmp_path / "other", encoded, 256)
    assert left.exists()  # it might belong to a process at work
    long_ago = time.time() - disk.ABANDONED_AFTER - 1
    for each in (*left.iterdir(), left):
        os.utime(each, (long_ago, long_ago))
    TokenStore.open_or_build(tmp_path / "store", encoded, 256)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other", "store"]


@given(st.text(st.characters(max_codepoint=0x3001) | st.sampled_from(" \t\n\x1c\x85\u3000ab")))
def test_words_are_counted_as_split_does(text):
    assert count_words(text, text.encode()) == len(text.split())
    ascii_text = text.encode("ascii", "ignore").decode()
    assert count_words(ascii_text, ascii_text.encode()) == len(ascii_text.split())
