import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lightning_seq.data.tokenization.encoding import encode
from lightning_seq.data.tokenization.ready_made import (
    is_ready_made,
    load_ready_made,
    load_tokenizer,
    parse_tokenizer,
)
from lightning_seq.data.tokenization.tokenizers import (
    BPE_VOCAB_SIZE,
    UNKNOWN,
    build_tokenizer,
    byte_symbols,
    characters_per_token,
    kind_of,
    vocabulary_size,
)
from lightning_seq.data.tokenization.vocabulary import agreed, cached, check_spec
from lightning_seq.errors import InputError

NASTY = (
    "two  spaces\n\n\ttab\r\ncrlf <unk> <eos> <|endoftext|> ĠĊ é ü 漢字 🙂👨‍👩‍👧 \u2028\xa0\u0301\0 end \n"
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def bpe(text=NASTY * 3, size=300, use_regex=False):
    """Makes a BPE tokenizer that is none of our kinds: merges go across words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def encoded(tokenizer, text):
    ((_, ids),) = encode(tokenizer, [text])
    return ids.tolist()


def test_byte_symbols_are_the_byte_level_alphabet():
    assert set(byte_symbols()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(byte_symbols()) == 256


@given(texts)
def test_bytes_round_trip_any_text_and_are_its_utf8(text):
    tokenizer = build_tokenizer("byte", [])
    ids = tokenizer.encode(text).ids
    assert ids == list(text.encode("utf-8")) == encoded(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(texts.map(lambda text: text + NASTY))
def test_characters_round_trip_their_own_text(text):
    tokenizer = build_tokenizer("character", [text])
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text)
    assert ids == encoded(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(texts, texts)
def test_unknown_characters_become_one_unknown_token_each(known, other):
    tokenizer = build_tokenizer("character", [known])
    ids = tokenizer.encode(other).ids
    assert ids == encoded(tokenizer, other)
    expected = "".join(c if c in set(known) else UNKNOWN for c in other)
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected
    assert tokenizer.token_to_id(UNKNOWN) == 0


def test_a_custom_tokenizer_is_encoded_as_it_does_itself():
    tokenizer = bpe()
    documents = [NASTY, "", "abc " * 50, *("x" * i for i in range(600))]
    for text, (same, ids) in zip(documents, encode(tokenizer, documents), strict=True):
        assert same == text
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_no_special_tokens_are_added():
    tokenizer = bpe()
    tokenizer.add_special_tokens(["<bos>"])
    special = [("<bos>", tokenizer.token_to_id("<bos>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=special)
    assert tokenizer.encode("abc").ids[0] == special[0][1]
    assert encoded(tokenizer, "abc") == tokenizer.encode("abc").ids[1:]


def test_the_character_vocabulary_does_not_depend_on_the_order_of_texts():
    one, other = build_tokenizer("character", ["ab", "cd"]), build_tokenizer("character", ["dcba"])
    assert one.to_str() == other.to_str()
    assert vocabulary_size(one) == 5


@pytest.mark.parametrize("kind", ["byte", "character", "word", "bpe"])
def test_kind_survives_saving(kind):
    tokenizer = Tokenizer.from_str(build_tokenizer(kind, ["abc"]).to_str())
    assert kind_of(tokenizer) == kind


def test_other_tokenizers_are_custom():
    assert kind_of(bpe()) == "custom"
    assert kind_of(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))) == "custom"
    with_special = build_tokenizer("byte", [])
    with_special.add_special_tokens(["<eos>"])
    assert kind_of(with_special) == "custom"
    fusing = Tokenizer(models.BPE({UNKNOWN: 0, "a": 1}, [], unk_token=UNKNOWN, fuse_unk=True))
    assert kind_of(fusing) == "custom"


BYTES = build_tokenizer("byte", [])
TRAINED = build_tokenizer("bpe", [NASTY * 3, "the cat's paw " * 9])
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


def varied(*added, **steps):
    """Returns the trained BPE tokenizer with other steps and with added tokens."""
    tokenizer = Tokenizer.from_str(TRAINED.to_str())
    for step, value in steps.items():
        setattr(tokenizer, step, value)
    tokenizer.add_tokens(list(added))
    return tokenizer


def cut_by(*steps):
    return varied(pre_tokenizer=pre_tokenizers.Sequence(list(steps)))


def with_model(**changes):
    content = json.loads(TRAINED.to_str())
    content["model"] |= changes
    return Tokenizer.from_str(json.dumps(content))


def without_a_byte(unknown):
    vocabulary = {symbol: i for i, symbol in enumerate(symbol for symbol in byte_symbols() if symbol != "a")}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=unknown))
    tokenizer.pre_tokenizer, tokenizer.decoder = GPT2, decoders.ByteLevel()
    return tokenizer


def words_of_bytes():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = GPT2, decoders.ByteLevel()
    return tokenizer


SPLIT_BEHAVIORS = ("isolated", "merged_with_previous", "merged_with_next", "contiguous")
EXACT = {
    "bytes": BYTES,
    "characters": build_tokenizer("character", ["abc"]),
    "bpe": TRAINED,
    "bpe across words": bpe(),
    "another decoder": varied(decoder=decoders.Fuse()),
    "an empty normalizer": varied(normalizer=normalizers.Sequence([])),
    "added": varied("<unk>", AddedToken("<é 漢>", special=True), AddedToken("a", single_word=True)),
    "added that it has": varied("the", AddedToken("paw", normalized=False)),
    "whole words": with_model(ignore_merges=True),
    "dropout": with_model(dropout=0.5),
    "digits": cut_by(pre_tokenizers.Digits(individual_digits=True), GPT2),
    "punctuation": cut_by(pre_tokenizers.Punctuation(), BYTE_LEVEL),
    "nested": cut_by(pre_tokenizers.Sequence([pre_tokenizers.Digits()]), BYTE_LEVEL),
    **{
        f"split, {how}": cut_by(pre_tokenizers.Split(Regex(r"[a-z]+|\s?|(?!\S)"), how), BYTE_LEVEL)
        for how in SPLIT_BEHAVIORS
    },
}
INEXACT = {
    "words": build_tokenizer("word", ["a b"]),
    "prefix space": varied(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "nested prefix space": cut_by(pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()),
    "normalizer": varied(normalizer=normalizers.NFD()),
    "nested normalizer": varied(normalizer=normalizers.Sequence([normalizers.Strip()])),
    "left stripping": varied(AddedToken("<mask>", lstrip=True)),
    "right stripping": varied(AddedToken("<mask>", rstrip=True)),
    "added as a byte's symbol": varied("©"),  # the second of the bytes of é
    "white space": cut_by(pre_tokenizers.Whitespace(), BYTE_LEVEL),
    "removed": cut_by(pre_tokenizers.Split("-", "removed"), BYTE_LEVEL),
    "removed punctuation": cut_by(pre_tokenizers.Punctuation("removed"), BYTE_LEVEL),
    "removed delimiter": cut_by(pre_tokenizers.CharDelimiterSplit("-"), BYTE_LEVEL),
    "metaspace": cut_by(pre_tokenizers.Metaspace(), BYTE_LEVEL),
    "twice to bytes": cut_by(BYTE_LEVEL, BYTE_LEVEL),
    "never to bytes": cut_by(pre_tokenizers.Digits()),
    "nothing cut": varied(pre_tokenizer=None),
    "a lost byte": without_a_byte(None),
    "an unknown byte": without_a_byte("©"),
    "unknown words": words_of_bytes(),
    "end of word": with_model(end_of_word_suffix="</w>"),
}


@given(texts | st.text("aé the cat's paw1-<unk>漢\n"))
@example("the  <mask>  cat-1é a 漢 ")  # miscounted by every one of INEXACT
def test_characters_per_token_sum_to_the_length_of_the_text(text):
    for name, tokenizer in EXACT.items():
        counts = characters_per_token(tokenizer)
        assert counts.dtype == torch.int64, name
        assert counts.shape == (vocabulary_size(tokenizer),), name
        assert counts[np.array(tokenizer.encode(text).ids, dtype=np.int64)].sum() == len(text), name


@pytest.mark.parametrize("name", INEXACT)
def test_characters_per_token_are_none_where_they_would_be_wrong(name):
    assert characters_per_token(INEXACT[name]) is None


def test_characters_per_token_of_added_tokens():
    tokenizer = varied(AddedToken("<é>", special=True))
    assert characters_per_token(tokenizer)[tokenizer.token_to_id("<é>")] == 3


def test_loads_a_tokenizer_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    bpe().save(str(path))
    assert load_tokenizer(path).to_str() == bpe().to_str()


def test_loads_the_tokenizer_of_a_checkpoint(tmp_path):
    tokenizer = build_tokenizer("character", ["abc"])
    path = tmp_path / "last.ckpt"
    torch.save({"lightning_seq": {"tokenizer": tokenizer.to_str()}, "state_dict": {"w": torch.ones(3)}}, path)
    assert load_tokenizer(path).to_str() == tokenizer.to_str()


def test_refuses_what_holds_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"no tokenizer at .*tokeniser\.json.* \(did you mean .*tokenizer"):
        load_tokenizer(tmp_path / "tokeniser.json")
    with pytest.raises(InputError, match="does not describe a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    Tokenizer(models.BPE()).save(str(tmp_path / "empty.json"))
    with pytest.raises(InputError, match=r"the tokenizer of .*empty\.json has an empty vocabulary; give"):
        load_tokenizer(tmp_path / "empty.json")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="carries no tokenizer"):
        load_tokenizer(tmp_path / "other.ckpt")
    whole = (tmp_path / "other.ckpt").read_bytes()
    (tmp_path / "broken.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"broken\.ckpt .* is no whole checkpoint"):
        load_tokenizer(tmp_path / "broken.ckpt")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path / "binary.json")


def test_refuses_an_unknown_kind():
    with pytest.raises(InputError, match=r"'charcter' \(did you mean 'character'\?\)"):
        build_tokenizer("charcter", [])


@given(texts)
def test_bpe_round_trips_any_text(text):
    ids = TRAINED.encode(text).ids
    assert TRAINED.decode(ids, skip_special_tokens=False) == text
    assert TRAINED.decode(TRAINED.encode(text + NASTY).ids, skip_special_tokens=False) == text + NASTY


def test_bpe_has_the_bytes_and_what_occurs_twice():
    tokenizer = build_tokenizer("bpe", ["low lower lowest\n" * 2])
    assert {*byte_symbols(), "low", "Ġlower"} <= set(tokenizer.get_vocab())
    assert len(tokenizer.encode("low lower lowest\n").ids) == 4
    once = build_tokenizer("bpe", ["abcdefg"])
    assert vocabulary_size(once) == 256
    assert kind_of(once) == "bpe"
    assert not tokenizer.get_added_tokens_decoder()


def test_bpe_is_the_same_for_the_same_text_however_it_is_cut():
    text = "".join(f"{i % 97} words, and {i % 89}'s\r\n of them  é\t" for i in range(20_000))
    whole = bpe(text, 400, use_regex=True)
    assert len(text) > 3 * 2**17
    mine = build_tokenizer("bpe", [text], 400)
    assert mine.get_vocab() == whole.get_vocab()  # trained on the text uncut
    assert build_tokenizer("bpe", iter([text]), 400).to_str() == mine.to_str()


def test_bpe_has_no_more_ids_than_it_may():
    text = "".join(f"{i * i} {i % 100}xy " for i in range(3000))
    assert vocabulary_size(build_tokenizer("bpe", [text], 300)) == 300
    assert vocabulary_size(build_tokenizer("bpe", [text], 256)) == 256
    assert BPE_VOCAB_SIZE == 16_384


def reference_words(text):
    """PTB's and WikiText's own way: the words of each line, and <eos> for its end."""
    lines = text.split("\n")
    tokens = [word for line in lines[:-1] for word in [*line.split(" "), "<eos>"] if word]
    return tokens + [word for word in lines[-1].split(" ") if word]


PTB = " no it was n't <unk> monday \n but while N N of the stocks \n"
WIKITEXT = " \n = Robert <unk> = \n \n Robert <unk> is an English film . \n 0 @.@ 7 – 2 @,@ 000 lb \n"


@pytest.mark.parametrize("text", [PTB, WIKITEXT, PTB + WIKITEXT + "no newline at the end"])
def test_words_are_those_of_ptb_and_wikitext(text):
    tokenizer = build_tokenizer("word", [text])
    encoding = tokenizer.encode(text)
    assert encoding.tokens == reference_words(text)
    assert encoding.ids == encoded(tokenizer, text)
    assert vocabulary_size(tokenizer) == len({"<unk>", "<eos>", *reference_words(text)})


def test_words_are_numbered_by_how_often_they_occur():
    tokenizer = build_tokenizer("word", ["b b a c c", "c\n\n<unk> <eos> d"])
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert vocabulary == ["<unk>", "<eos>", "c", "b", "a", "d"]
    small = build_tokenizer("word", ["b b a c c", "c\n\n<unk> <eos> d"], 4)
    assert small.encode("a b c\nd").tokens == ["<unk>", "b", "c", "<eos>", "<unk>"]
    assert vocabulary_size(small) == 4
    assert vocabulary_size(build_tokenizer("word", ["a b"], 2)) == 2


def test_the_unknown_word_and_the_end_of_a_line_are_always_there():
    tokenizer = build_tokenizer("word", [])
    assert [tokenizer.token_to_id(word) for word in ("<unk>", "<eos>")] == [0, 1]
    assert encoded(tokenizer, "<unk> <eos>\nx<unk>") == [0, 1, 1, 0]


def test_words_are_decoded_into_lines():
    text = "one two\n\n three <unk> ##ing , 's x<eos>y <pad>\nfour"
    tokenizer = build_tokenizer("word", [text])
    plain = "one two\n\nthree <unk> ##ing , 's x<eos>y <pad>\nfour"
    for each in (tokenizer, Tokenizer.from_str(tokenizer.to_str())):
        assert each.decode(each.encode(text).ids) == plain
        assert each.decode(each.encode("one <eos> two nowhere\n").ids) == "one\ntwo <unk>\n"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)))
def test_words_round_trip_up_to_white_space(parts):
    text = "\n".join(parts)
    tokenizer = build_tokenizer("word", [text])
    decoded = tokenizer.decode(tokenizer.encode(text).ids)
    assert tokenizer.encode(decoded).tokens == tokenizer.encode(text).tokens
    assert "  " not in decoded


@pytest.mark.parametrize(
    ("spec", "size", "message"),
    [
        (
            "byte",
            300,
            "max_vocab_size is 300, and the tokenizer 'byte' has as many ids as there are bytes; leave",
        ),
        ("character", 9, "'character' has as many ids as there are characters; leave max_vocab_size out"),
        ("bpe", 255, "max_vocab_size is 255, a vocabulary that does not fit the 256 bytes; .* at least 256"),
        ("word", 1, "max_vocab_size is 1, no room for a word; the tokenizer 'word' needs at least 2"),
        (
            "some/tokenizer.json",
            300,
            "'some/tokenizer.json' has a vocabulary of its own; leave max_vocab_size",
        ),
        ("openai-community/gpt2", 300, "'openai-community/gpt2' has a vocabulary of its own"),
        ("wort", None, r"unknown tokenizer 'wort' \(did you mean 'word'\?\); give"),
        ("/a/b", None, "unknown tokenizer '/a/b'"),
        ("a/b/c", None, "unknown tokenizer 'a/b/c'"),
    ],
)
def test_refuses_sizes_and_names_that_do_not_fit(spec, size, message):
    with pytest.raises(InputError, match=message) as refusal:
        check_spec(spec, size)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["byte", "character", "bpe", "word"])
def test_accepts_every_kind_without_a_size(kind):
    check_spec(kind)
    assert kind_of(build_tokenizer(kind, [NASTY])) == kind


def test_refuses_a_size_when_it_is_built_too():
    with pytest.raises(InputError, match="does not fit"):
        build_tokenizer("bpe", [], 10)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_trained_tokenizer_is_kept_for_its_text_and_its_size(kind, tmp_path):
    read = []

    def texts(split):
        read.append(split)
        return ["one two two three three three " * 2]

    def make(size, fingerprint="text"):
        return cached(kind, tmp_path, lambda split: fingerprint, texts, size).to_str()

    small, large = {"word": (3, None), "bpe": (257, None)}[kind]
    assert make(small) == make(small) != make(large)
    assert read == ["train"] * 2
    assert make(large, "other text") == make(large)
    assert read == ["train"] * 3
    assert len(list((tmp_path / "tokenizers").iterdir())) == 3


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_checkpoints_tokenizer_of_the_same_kind_is_agreed_to(kind):
    theirs = build_tokenizer(kind, ["another text " * 3], 300).to_str()
    assert agreed(theirs, kind).to_str() == theirs
    with pytest.raises(InputError, match=f"trained with a {kind} tokenizer and the data asks for 'byte'"):
        agreed(theirs, "byte")


@pytest.mark.parametrize(
    "spec",
    ["openai-community/gpt2", "Qwen/Qwen2.5-0.5B", "a/b@refs/pr/1", "a/b@v1.json", "meta-llama/Llama-3.1-8B"],
)
def test_ids_of_the_hub_are_known_by_one_slash(spec):
    assert is_ready_made(spec)
    check_spec(spec)


@pytest.mark.parametrize(
    "spec", ["a/b.txt", "./b", "~/b", "a/", "/b", "a/b/c", "gpt2", "bpe", "a/b c", "a/b@"]
)
def test_other_names_are_no_ids_of_the_hub(spec):
    assert not is_ready_made(spec)


def test_a_local_path_wins_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "lightning_seq.data.tokenization.ready_made.tokenizer_from_hub", lambda *_: pytest.fail("asked")
    )
    (tmp_path / "someone" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no tokenizer at 'someone/model'; give"):
        load_ready_made("someone/model")
    bpe().save("someone/model/tokenizer.json")
    assert load_ready_made("someone/model").to_str() == bpe().to_str()
    (tmp_path / "word").mkdir()
    assert not is_ready_made("word")


def test_a_ready_made_tokenizer_reads_all_of_a_text():
    tokenizer = bpe()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    whole = parse_tokenizer(tokenizer.to_str(), "ours")
    assert encoded(whole, NASTY) == bpe().encode(NASTY).ids
    assert encoded(whole, "a") == bpe().encode("a").ids


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Has the tokenizer of someone/model, at its main branch."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self):
        self.server.paths.append(self.path)
        error = {"/someone/empty": "EntryNotFound", "/someone/model/resolve/v9": "RevisionNotFound"}
        missing = [code for path, code in error.items() if self.path.startswith(path)]
        content = b"" if missing or "nobody" in self.path else self.server.content
        self.send_response(200 if content else 404)
        if not content:
            self.send_header("X-Error-Code", [*missing, "RepoNotFound"][0])
        self.send_header("ETag", '"an-etag"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.paths, server.content = [], build_tokenizer("bpe", [NASTY * 3]).to_str().encode("utf-8")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server
        server.shutdown()


def dead_endpoint(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}"


def test_a_tokenizer_of_the_hub_is_fetched_and_kept(hub, monkeypatch, tmp_path):
    ours = hub.content.decode("utf-8")
    assert load_ready_made("someone/model").to_str() == ours
    assert load_ready_made("someone/model@main").to_str() == ours
    assert any(path.startswith("/someone/model/resolve/main/tokenizer.json") for path in hub.paths)
    dead_endpoint(monkeypatch)
    assert load_ready_made("someone/model").to_str() == ours
    hub.paths.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cached("someone/model", tmp_path, pytest.fail, pytest.fail).to_str() == ours
    assert agreed(ours, "someone/model").to_str() == ours
    with pytest.raises(InputError, match="another tokenizer"):
        agreed(build_tokenizer("byte", []).to_str(), "someone/model")
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set, and the cache .* 'someone/other@v1'"):
        load_ready_made("someone/other@v1")
    assert not hub.paths


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("someone/empty", r"it has no tokenizer\.json"),
        ("someone/model@v9", "it has no such revision"),
        ("nobody/model", "there is no such repository, or none that you may see"),
    ],
)
def test_what_the_hub_has_not_is_said_in_one_line(hub, spec, reason):
    message = rf"cannot get the tokenizer '{spec}' from the Hub \({reason}\); check the id"
    with pytest.raises(InputError, match=message) as refusal:
        load_ready_made(spec)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("silent", [False, True])
def test_a_hub_that_does_not_answer_is_said_within_five_seconds(silent, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        if silent:
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
        else:
            endpoint = dead_endpoint(monkeypatch)
        start = time.monotonic()
        message = f"{endpoint} does not answer, and the cache '{tmp_path}' has no .* 'a/b'.*HF_HUB_OFFLINE"
        with pytest.raises(InputError, match=message) as refusal:
            load_ready_made("a/b")
    assert time.monotonic() - start < 5
    assert "\n" not in str(refusal.value)
