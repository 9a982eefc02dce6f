import os
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from lightning_seq.data.tokenization import chunks, encoding, workers
from lightning_seq.data.tokenization.chunks import WHITE_SPACE, ChunkEncoder, WordEncoder, pieces, words
from lightning_seq.data.tokenization.encoding import encode
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.data.tokenization.workers import default_processes, encode_in_processes
from lightning_seq.errors import InputError

SPACES = " \t\n\v\f\r\x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"
NO_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\0\x7f"
LETTERS = "aAsStTrevmldzZéßǅж漢ｆª\u0301\u0345\u1c89"
OTHERS = "019٣²Ⅷ½''’\"-_.,;!([{<>|`~@^\\«—🙂👨👩🏽€"
PHRASES = [
    *(
        "  ",
        "   ",
        "\r\n",
        "\n\n",
        " \n ",
        "\t\t",
        "'s",
        "'ll",
        "'re",
        "'S",
        "''s",
        "don't",
        " '",
        "1st",
        "é's",
    ),
    *("the", " the", "The cat", "foo(bar)", "x=1;", "100%", "...", "<unk>", "<eos>", "<|endoftext|>", "\x1c"),
]
nasty = st.lists(
    st.sampled_from(list(SPACES + NO_SPACES + LETTERS + OTHERS) + PHRASES * 3)
    | st.characters(exclude_categories=["Cs"])
).map("".join)

TRAINING = "the cat's paw, don't foo(bar) 100% 1st <unk>\r\n\n\n   the  cat\t\tжж éé ...\n" * 4
BPE = build_tokenizer("bpe", [TRAINING])
WORDS = build_tokenizer("word", [TRAINING + SPACES + NO_SPACES])


def with_added(*tokens):
    tokenizer = Tokenizer.from_str(BPE.to_str())
    tokenizer.add_tokens([token for token in tokens if not token.special])
    tokenizer.add_special_tokens([token for token in tokens if token.special])
    return tokenizer


PLAIN = with_added(
    *(
        AddedToken(content, special=True, normalized=False)
        for content in ("<|endoftext|>", "<unk>", "<unk>  the")
    )
)
GREEDY = with_added(
    AddedToken("<|endoftext|>", special=True, lstrip=True, rstrip=True),
    AddedToken("the", single_word=True),
    AddedToken("<unk>", normalized=False),
)


def reference(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def check(tokenizer, texts, **options):
    """Compares what `encode` gives with what the tokenizer itself does."""
    got = list(encode(tokenizer, texts, **options))
    assert [text for text, _ in got] == list(texts)
    assert [ids.tolist() for _, ids in got] == [reference(tokenizer, text) for text in texts]
    assert all(ids.dtype == np.uint32 for _, ids in got)


@pytest.fixture
def small(monkeypatch):
    """Makes the limits small, so that a text of a few words is cut, batched and shared."""
    monkeypatch.setattr(encoding, "BATCH", 40)
    monkeypatch.setattr(encoding, "ALONE", 100)
    monkeypatch.setattr(chunks.pieces, "__defaults__", (25,))


def test_white_space_is_what_the_rust_side_takes_for_it():
    everything = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    ours = set(re.findall(f"[{WHITE_SPACE}]", everything))
    assert len(ours) == 25
    parted = pre_tokenizers.WhitespaceSplit().pre_tokenize_str(everything)
    assert set().union(*(word for word, _ in parted)) == set(everything) - ours
    assert {c for c in everything if c.isspace()} - ours == set("\x1c\x1d\x1e\x1f")
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    for c in ours:  # of two between words the second goes by itself, or with the word
        assert gpt2(f"!{c}{c}!")[0][0] == "!"
    for c in NO_SPACES:
        assert len(gpt2(f"!{c}!")) == 1


@given(nasty)
@settings(max_examples=400)
def test_bpe_ids_are_the_tokenizers(text):
    check(BPE, [text])


@given(nasty)
@settings(max_examples=300)
def test_words_ids_are_the_tokenizers(text):
    check(WORDS, [text])


@given(nasty)
@settings(max_examples=200)
def test_added_tokens_are_found_as_the_tokenizer_does(text):
    for tokenizer in (PLAIN, GREEDY):
        check(tokenizer, [text])


def test_characters_of_all_of_unicode_beside_every_kind():
    some = [chr(i) for i in [*range(0x500), *range(0x1FF0, 0x2070), *range(0x500, 0x32000, 97)]]
    some = [c for c in some if not "\ud800" <= c <= "\udfff"]
    check(BPE, [" ".join(f"a{c}b 1{c}2 !{c}! {c} '{c}s" for c in some)])


@given(st.lists(nasty, max_size=6), st.integers(1, 30))
def test_one_encoder_remembers_rightly(texts, size):
    encoder = ChunkEncoder(BPE)
    for _ in range(2):
        for text in texts:
            parts = encoder.encode(list(pieces(text, size)))
            assert np.concatenate(parts).tolist() == reference(BPE, text)
    got = encoder.encode(texts or [""])
    assert [ids.tolist() for ids in got] == [reference(BPE, text) for text in texts or [""]]


@given(nasty, st.integers(1, 30))
def test_words_may_be_encoded_in_pieces(text, size):
    parts = WordEncoder(WORDS).encode(list(pieces(text, size)))
    assert np.concatenate(parts).tolist() == reference(WORDS, text)


@given(nasty, st.integers(1, 30))
def test_pieces_are_the_text(text, size):
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    assert all(cut) or cut == [""]


def test_pieces_are_about_as_long_as_asked():
    cut = list(pieces("some words " * 1000, 100))
    assert max(map(len, cut)) < 110
    assert list(pieces("x" * 1000, 100)) == ["x" * 1000]
    assert list(pieces("  \n\n" * 1000, 100)) == ["  \n\n" * 1000]


@pytest.mark.parametrize("kind", ["byte", "character", "word", "bpe"])
def test_every_kind_gives_documents_in_order(kind, small):
    texts = ["one two\n", "", "three " * 40, "\n", "", "x" * 300, "the cat's paw\r\n" * 20, ""]
    check(build_tokenizer(kind, texts), texts, num_proc=1)
    check(build_tokenizer(kind, texts), [], num_proc=1)


def test_little_memory_is_kept(monkeypatch):
    monkeypatch.setattr(chunks, "MOST_CHUNKS", 20)
    check(BPE, [f"{i} {i}th, foo{i}(bar) " * 3 for i in range(50)])
    encoder = ChunkEncoder(BPE)
    for i in range(100):
        encoder.encode([f"w{i} v{i}"])
    assert len(encoder._cache._numbers) <= 22
    monkeypatch.setattr(chunks, "MOST_CHARACTERS", 10)
    encoder.encode(["a b"])
    encoder.encode(["abcdefghijklmnop"])
    encoder.encode(["a"])
    assert len(encoder._cache._numbers) == 1


def others():
    lowercase = Tokenizer.from_str(BPE.to_str())
    lowercase.normalizer = normalizers.Lowercase()
    prefixed = Tokenizer.from_str(BPE.to_str())
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    other_words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "'": 2}, unk_token="<unk>"))
    other_words.pre_tokenizer = pre_tokenizers.Whitespace()
    without = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], unk_token="a"))
    return {"lowercase": lowercase, "prefix space": prefixed, "other words": other_words, "no regex": without}


@pytest.mark.parametrize("name", others())
def test_other_tokenizers_do_it_themselves(name, monkeypatch):
    monkeypatch.setattr(encoding, "ChunkEncoder", pytest.fail)
    monkeypatch.setattr(encoding, "WordEncoder", pytest.fail)
    check(others()[name], ["The cat's PAW ab", "", "the the"] + ["b a"] * 600)


def test_what_is_added_behind_the_ids_does_not_matter():
    tokenizer = with_added(AddedToken("<|endoftext|>", special=True))
    special = [("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=special
    )
    text = "the cat<|endoftext|> paw <|endoftext|><|endoftext|>"
    check(tokenizer, [text, "the cat"])
    assert len(tokenizer.encode("the").ids) == len(reference(tokenizer, "the")) + 1


def test_words_are_split_at_white_space_alone():
    assert words("a\x1cb\x85c\n\u3000d\u200be") == ["a\x1cb", "c", "<eos>", "d\u200be"]


LONG = [
    "the cat's paw, don't\n" * 30,
    "",
    "é 漢字 <unk> " * 50,
    "x" * 200,
    *("foo(bar) " * i for i in range(30)),
]


def test_two_processes_give_the_same_ids_in_order(small):
    check(BPE, LONG, num_proc=2)
    check(PLAIN, [*LONG, "<|endoftext|>the <unk>  the" * 9], num_proc=2)
    check(GREEDY, [*LONG, " <|endoftext|> the " * 9], num_proc=2)
    check(WORDS, LONG, num_proc=2)


def test_one_long_text_is_shared(small, monkeypatch):
    shared = []

    def spy(tokenizer, batches, processes):
        return encode_in_processes(tokenizer, (shared.append(batch) or batch for batch in batches), processes)

    monkeypatch.setattr(encoding, "encode_in_processes", spy)
    check(BPE, ["the cat's paw, don't\n" * 60], num_proc=2)
    assert len(shared) > 10


def test_little_text_starts_no_process(monkeypatch):
    monkeypatch.setattr(encoding, "encode_in_processes", pytest.fail)
    check(BPE, LONG, num_proc=8)
    monkeypatch.setattr(encoding, "ALONE", 10)
    check(BPE, LONG[:1], num_proc=2)  # done before anybody could help
    check(BPE, LONG, num_proc=1)


def test_no_process_is_started_where_python_does_not_know_itself(small, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(encoding, "encode_in_processes", pytest.fail)
    check(BPE, LONG, num_proc=2)


@pytest.fixture
def started(monkeypatch):
    """Gives the processes that were started."""
    every, start = [], workers.subprocess.Popen

    def spy(*args, **kwargs):
        every.append(start(*args, **kwargs))
        return every[-1]

    monkeypatch.setattr(workers.subprocess, "Popen", spy)
    return every


def endless():
    while True:
        yield "the cat's paw, don't\n" * 5


def all_gone(started):
    names = {thread.name for thread in threading.enumerate()}
    return all(each.returncode is not None for each in started) and not any("tokenizing" in x for x in names)


def test_a_killed_process_is_an_error_of_one_line(small, started):
    encoded = encode(BPE, endless(), num_proc=2)
    for _ in range(50):
        next(encoded)
    os.kill(started[1].pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"ended too early, with status -9 \(killed\); .*num_proc=1"
    ) as error:
        for _ in encoded:
            pass
    assert time.monotonic() - start < 10
    assert "\n" not in str(error.value)
    assert len(started) == 2
    assert all_gone(started)


def test_a_failing_process_is_an_error(started, capfd):
    with pytest.raises(InputError, match="ended too early, with status 1;"):
        list(encode_in_processes("{}", [["a"], ["b"]], 2))
    assert "Traceback" in capfd.readouterr().err
    assert all_gone(started)


def test_garbage_is_an_error(started, monkeypatch, tmp_path):
    program = tmp_path / "chunks.py"
    program.write_text("import time; print('no pickle', flush=True); time.sleep(60)")
    monkeypatch.setattr(chunks, "__file__", str(program))
    start = time.monotonic()
    with pytest.raises(InputError, match="ended too early"):
        list(encode_in_processes(BPE.to_str(), [["a"]], 1))
    assert time.monotonic() - start < 10
    assert all_gone(started)


def test_a_text_that_cannot_be_read_is_the_callers_error(small, started):
    def texts():
        yield from LONG
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(encode(BPE, texts(), num_proc=2))
    assert started
    assert all_gone(started)


def test_who_stops_reading_leaves_no_process(small, started):
    encoded = encode(BPE, endless(), num_proc=2)
    for _ in range(50):
        next(encoded)
    assert len(started) == 2
    encoded.close()
    assert all_gone(started)


def test_a_few_batches_are_taken_ahead_and_no_more(small):
    taken = []
    encoded = encode(BPE, (taken.append(text) or text for text in endless()), num_proc=2)
    for i in range(100):
        next(encoded)
        assert len(taken) - i < 30
    encoded.close()


def test_other_processes_import_neither_torch_nor_this_package():
    program = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-P", "-c", program, chunks.__file__]
    modules = workers.subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert not {"torch", "lightning", "datasets", "lightning_seq"} & set(modules)


def test_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert default_processes() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(300)))
    assert default_processes() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert default_processes() == 5
    with pytest.raises(InputError, match="num_proc is 0; it must be at least 1"):
        list(encode(BPE, ["a"], num_proc=0))


@pytest.mark.parametrize("tokenizer", [BPE, WORDS, build_tokenizer("byte", []), others()["lowercase"]])
def test_progress_counts_characters(tokenizer, monkeypatch, small, capsys):
    bars = []

    class Bar(encoding.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(options)

        def update(self, n):
            bars.append(n)

    monkeypatch.setattr(encoding, "tqdm", Bar)
    list(encode(tokenizer, LONG))
    options, *counts = bars
    assert sum(counts) == sum(map(len, LONG))
    assert (options["delay"], options["disable"], options["leave"]) == (2, None, False)
    assert capsys.readouterr() == ("", "")  # no terminal
