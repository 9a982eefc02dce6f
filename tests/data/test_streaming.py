import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain, islice, takewhile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import Tokenizer, models, pre_tokenizers

from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.data.batching.batches import gather, separate
from lightning_seq.data.batching.plans import Rows
from lightning_seq.data.streaming.packed_stream import PackedStream
from lightning_seq.data.streaming.shards import FileShards
from lightning_seq.data.streaming.stream import START, Stream, part_of, windows
from lightning_seq.data.streaming.workers import ProcessWindows, Reader
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.errors import InputError

BYTES = build_tokenizer("byte", [])


class Lists:
    """Shards that a test gives."""

    def __init__(self, *shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def texts(self, shard, first=0):
        yield from list(enumerate(self.shards[shard]))[first:]


def documents(shards, rows):
    return Lists(*([f"shard {s} row {r} " + "x" * (r % 5) for r in range(rows)] for s in range(shards)))


def one_pass(stream):
    found = takewhile(lambda each: each[0]["pass"] == 0, stream.documents(START))
    return [text for _, text in found]


def first(stream, count, state=START):
    source = stream.documents(state)
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("shuffle_buffer", [0, 4])
@pytest.mark.parametrize(("shards", "of"), [(1, 1), (1, 3), (4, 2), (5, 2), (3, 4), (7, 3)])
def test_shares_have_every_document_once_and_equally_many(shards, of, shuffle_buffer):
    texts = documents(shards, 24)
    shares = [
        one_pass(Stream(texts, shuffle_buffer=shuffle_buffer, index=index, of=of)) for index in range(of)
    ]
    assert sorted(chain(*shares)) == sorted(chain(*texts.shards))
    assert {len(share) for share in shares} == {shards * 24 // of}


def test_without_a_buffer_documents_come_as_they_are_with_one_they_are_shuffled_anew_in_each_pass():
    texts = documents(3, 20)
    assert [text for _, text in first(Stream(texts), 120)] == list(chain(*texts.shards)) * 2
    passes = [text for _, text in first(Stream(texts, shuffle_buffer=16), 120)]
    assert sorted(passes[:60]) == sorted(passes[60:]) == sorted(chain(*texts.shards))
    assert passes[:60] != passes[60:]
    assert passes[:60] != [text for _, text in first(Stream(texts, shuffle_buffer=16, seed=1), 60)]
    assert [text for _, text in first(Stream(texts, shuffle_buffer=16), 120)] == passes


@pytest.mark.parametrize("shuffle_buffer", [0, 1, 7, 1000])
def test_every_document_can_be_come_back_to(shuffle_buffer):
    stream = Stream(documents(3, 20), shuffle_buffer=shuffle_buffer, index=1, of=2)
    found = first(stream, 75)
    for i in range(40):
        assert first(stream, 30, found[i][0]) == found[i : i + 30]


@pytest.mark.parametrize("kind", ["byte", "character", "word", "bpe"])
def test_windows_overlap_by_one_token_and_can_be_come_back_to(kind):
    texts = documents(2, 15)
    words = [text + "\n" for shard in texts.shards for text in shard]
    tokenizer = build_tokenizer(kind, words)
    ids = [tokenizer.encode(word).ids for word in words] * 2
    expected, beginnings = list(chain(*ids)), np.cumsum([0, *map(len, ids)])

    def read(count, state=START):
        source = windows(Stream(texts).documents(state), tokenizer, 13, state)
        return [next(source) for _ in range(count)]

    count = (len(expected) - 1) // 12
    found = read(count)
    for i, (tokens, starts, _) in enumerate(found):
        assert tokens.tolist() == expected[12 * i : 12 * i + 13]
        here = beginnings[(beginnings > 12 * i) & (beginnings <= 12 * i + 12)] - 12 * i
        assert starts[starts > 0].tolist() == here.tolist()
    for i in range(0, count - 3, 5):
        for one, other in zip(read(3, found[i].state), found[i + 1 :], strict=False):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert (one.beginnings.tolist(), one.state) == (other.beginnings.tolist(), other.state)


def test_separate_documents_are_as_in_a_stored_text():
    texts = documents(2, 30)
    stream = PackedStream(Stream(texts), BYTES, 3, 11, 5, separate_documents=True)
    content = [f"{text}\n".encode() for shard in texts.shards for text in shard]
    tokens = np.frombuffer(b"".join(content), np.uint8)
    ids = np.array([BYTES.token_to_id(symbol) for symbol in map(BYTES.id_to_token, range(256))])[tokens]
    for step in range(5):
        starts = (np.arange(3) + 3 * step) * 11
        rows = Rows(starts, starts + 11, 11)
        expected = gather(ids, rows)
        separate(expected, rows, np.cumsum([0, *map(len, content)]))
        batch = stream.epoch(0)(step)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_texts_are_held_out_by_what_they_are():
    texts = [f"text {i}" for i in range(20_000)]
    parts = [part_of(text, ["validation", "test"]) for text in texts]
    assert parts == [part_of(text, ["validation", "test"]) for text in texts]
    assert 150 < parts.count("validation") < 250
    assert 150 < parts.count("test") < 250
    assert {part_of(text, ["test"]) for text in texts} == {"train", "test"}
    assert {part_of(text, []) for text in texts} == {"train"}


@pytest.mark.parametrize("rows", [["a"], ["", ""], []])
def test_a_share_without_text_is_refused(rows):
    message = "1 file and no text for share 2 of 2, one for each rank and each of its num_workers; use fewer"
    with pytest.raises(InputError, match=message):
        first(Stream(Lists(rows), index=1, of=2), 1)


WORDS = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
WORDS.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


def test_a_stream_that_gives_no_tokens_is_refused():
    def read(rows, state=START):
        source = windows(Stream(Lists(rows)).documents(state), WORDS, 4, state)
        return [next(source).tokens.tolist() for _ in range(3)]

    with pytest.raises(InputError, match="has no ids for any document of a whole pass over the training"):
        read(["  ", " \n"] * 20)
    rows = [" "] * 700 + ["a"] + [" "] * 700  # few tokens are enough
    assert read(rows) == read(rows, {**START, "row": 701}) == [[0] * 4] * 3


# -- processes


def file_of(folder, text):
    (folder / "text.txt").write_text(text)
    return FileShards([folder / "text.txt"])


def test_a_process_reads_the_same_and_ends_when_it_is_told(tmp_path):
    reader = Reader(Stream(file_of(tmp_path, "some text\n" * 9)), BYTES.to_str(), 40)
    here, there = reader.windows(START), ProcessWindows(reader, START)
    for _ in range(10):
        one, other = next(here), next(there)
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.state == other.state
    there._process.kill()
    with pytest.raises(InputError, match=r"ended with status -9 \(killed\); it may have run out of memory"):
        list(islice(there, 1_000_000))  # what it had read ahead, and then the error
    there.close()
    third = ProcessWindows(reader, START)
    process = third._process
    del third
    assert process.poll() is not None


def test_no_tokens_in_a_process_are_said_here(tmp_path):
    reads = ProcessWindows(Reader(Stream(file_of(tmp_path, " \n" * 9)), WORDS.to_str(), 40), START)
    with pytest.raises(InputError, match="has no ids for any document of a whole pass"):
        next(reads)
    reads.close()


def test_what_is_wrong_in_a_process_is_said_here(tmp_path):
    reads = ProcessWindows(Reader(Stream(file_of(tmp_path, "")), BYTES.to_str(), 40), START)
    with pytest.raises(InputError, match="no text for share 1 of 1"):
        next(reads)
    reads.close()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_training(tmp_path, end):
    folder = write(tmp_path / "rows", 2)
    code = (
        "import sys, time\n"
        "from lightning_seq.data import HuggingFaceTextDataModule\n"
        f"data = HuggingFaceTextDataModule({str(folder)!r}, streaming=True, batching='blocks',\n"
        f"    num_workers=2, tokenizer='byte', batch_size=2, cache_dir={str(tmp_path / 'cache')!r})\n"
        "batches = iter(data.train_dataloader())\n"
        "next(batches), next(batches)\n"
        "print(*(each._process.pid for each in data._stream._windows), flush=True)\n"
        "time.sleep(60)\n"
    )  # no `if __name__`: a script that is not made to be imported
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as it:
        pids = [int(pid) for pid in it.stdout.readline().split()]
        assert len(pids) == 2
        it.send_signal(end)
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()  # Z: ended, and nobody asked how
    return False


# -- the DataModule


def write(folder, shards=3, rows=200):
    folder.mkdir()
    for shard, texts in enumerate(documents(shards, rows).shards):
        lines = (json.dumps({"text": text, "number": i}) for i, text in enumerate(texts))
        (folder / f"part-{shard}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def make(tmp_path):
    folder = write(tmp_path / "rows")

    def make(rank=0, world_size=1, path=folder, **options):
        defaults = {
            "streaming": True,
            "batching": "blocks",
            "tokenizer": "byte",
            "batch_size": 2,
            "context_length": 10,
            "steps_per_epoch": 7,
            "cache_dir": str(tmp_path / "cache"),
        }
        data = HuggingFaceTextDataModule(str(path), **{**defaults, **options})
        if world_size > 1:
            data.trainer = SimpleNamespace(
                distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
                overfit_batches=0,
                state=SimpleNamespace(fn=None),
                strategy=SimpleNamespace(root_device=torch.device("cpu")),
            )
        return data

    return make


def epoch(data, loader=None):
    return [
        tuple(batch[name].tolist() for name in sorted(batch)) for batch in loader or data.train_dataloader()
    ]


class Recorder(LightningModule):
    """Trains on next to nothing and keeps what it was given."""

    def __init__(self, raise_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.raise_at = raise_at
        self.seen = []

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.raise_at:
            raise RuntimeError("as the test wants it")
        self.seen.append(tuple(batch[name].tolist() for name in sorted(batch)))
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        _ = self.trainer.estimated_stepping_batches  # makes the loader before its state is restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveOnException(Callback):
    def __init__(self, file):
        self.file = file

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.file)


@pytest.fixture
def run(make, quiet_trainer):
    def run(ckpt_path=None, raise_at=None, callbacks=(), data=(), **options):
        data, model = make(**dict(data)), Recorder(raise_at)
        saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        trainer = quiet_trainer(
            callbacks=list(callbacks), enable_checkpointing=saves, max_epochs=3, **options
        )
        try:
            trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        except RuntimeError:
            assert raise_at is not None
        assert data._stream._windows == []  # nothing is left running
        return model.seen, data.consumed_hash

    return run


STOPS = {
    "mid-epoch": ({"every_n_train_steps": 5}, {}, 5),
    "mid second epoch": ({"every_n_train_steps": 12}, {}, 12),
    "last batch": ({"every_n_train_steps": 7}, {}, 7),
    "epoch end": ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}, 7),
    "accumulation": ({"every_n_train_steps": 3}, {"accumulate_grad_batches": 2}, 6),
    "reloading": ({"every_n_train_steps": 12}, {"reload_dataloaders_every_n_epochs": 1}, 12),
    "limited": ({"every_n_train_steps": 7}, {"limit_train_batches": 6}, 7),
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("shuffle_buffer", [0, 8])
@pytest.mark.parametrize("stop", STOPS)
def test_a_resumed_run_consumes_what_an_uninterrupted_one_does(run, tmp_path, stop, shuffle_buffer):
    saving, options, consumed = STOPS[stop]
    options = {**options, "data": {"shuffle_buffer": shuffle_buffer, "separate_documents": True}}
    whole, hash_ = run(**options)
    assert len({repr(batch) for batch in whole}) == len(whole) == (18 if stop == "limited" else 21)

    def saver():
        return ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, **saving)

    assert run(callbacks=[saver()], **options) == (whole, hash_)
    earliest = min((tmp_path / "saved").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    assert run(earliest, callbacks=[saver()], **options) == (whole[consumed:], hash_)


@pytest.mark.parametrize("raise_at", [4, 7, 12])
def test_a_batch_lost_to_an_exception_is_trained_on_after_all(run, tmp_path, raise_at):
    whole = run()
    done, _ = run(raise_at=raise_at, callbacks=[SaveOnException(tmp_path / "exception.ckpt")])
    rest, hash_ = run(tmp_path / "exception.ckpt")
    assert (done + rest, hash_) == whole


@pytest.mark.slow
@pytest.mark.parametrize("raise_at", [4, 7])
def test_processes_go_on_with_the_very_next_batch(run, tmp_path, raise_at):
    data = {"num_workers": 2, "shuffle_buffer": 8}
    whole = run(data=data)
    done, _ = run(raise_at=raise_at, callbacks=[SaveOnException(tmp_path / "exception.ckpt")], data=data)
    rest, hash_ = run(tmp_path / "exception.ckpt", data=data)
    assert (done + rest, hash_) == whole


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_go_on_each_where_it_stood(make, num_workers):
    ranks, states = [], []
    for rank in (0, 1):
        data = make(rank, 2, num_workers=num_workers)
        epoch(data)
        batches = iter(data._training)
        assert len(list(islice(batches, 3))) == 3
        states.append(data._training.marks())
        state = data._training.state_dict()
        ranks.append([tuple(batch[name].tolist() for name in sorted(batch)) for batch in batches])
        data.teardown("fit")
    for rank in (0, 1):
        data = make(rank, 2, num_workers=num_workers)
        data.load_state_dict(json.loads(json.dumps({**state, "ranks": states})))
        assert epoch(data) == ranks[rank]
        data.teardown("fit")
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_and_processes_share_the_text(make, num_workers):
    texts = []
    for rank in (0, 1):
        data = make(rank, 2, num_workers=num_workers, steps_per_epoch=400)
        assert len(data.train_dataloader()) == 400
        ids = [[] for _ in range(max(num_workers, 1))]
        for step, batch in enumerate(data.train_dataloader()):
            ids[step % len(ids)] += batch["targets"].flatten().tolist()
        data.teardown("fit")
        texts.append({line for each in ids for line in data.tokenizer.decode(each).split("\n")[1:-1]})
    assert not texts[0] & texts[1]
    held_out = [text for split in ("validation", "test") for text in make().documents(split)]
    every = {text for shard in documents(3, 200).shards for text in shard}
    assert texts[0] | texts[1] | set(held_out) == every
    assert not (texts[0] | texts[1]) & set(held_out)


def test_its_state_is_small_and_plain(make):
    data = make(shuffle_buffer=50)
    epoch(data)
    content = json.dumps(data.state_dict())
    assert json.loads(content) == data.state_dict()
    assert len(content) < 1000


def test_another_stream_is_refused_on_resume(make, tmp_path):
    data = make()
    epoch(data)
    state = data.state_dict()
    for option in ({"steps_per_epoch": 8}, {"num_workers": 2}, {"shuffle_buffer": 3}, {"seed": 1}):
        (name,) = option
        other = make(**option)
        other.load_state_dict(state)
        with pytest.raises(InputError, match=f"{name} was .* and is {option[name]}; set it back"):
            other.train_dataloader()
    stored = make(streaming=False)
    stored.load_state_dict(state)
    with pytest.raises(InputError, match="streaming was True and is False"):
        stored.train_dataloader()
    lenient = make(num_workers=2, strict_resume=False)
    lenient.load_state_dict(state)
    assert len(lenient.train_dataloader()) == 7


def test_one_process_gives_the_batches_of_none(make):
    data = make()
    epoch(data)
    batches = data.train_dataloader()
    other = make(num_workers=1)
    other.load_state_dict(data.state_dict())
    assert epoch(other) == epoch(data, batches)
    other.teardown("fit")


def test_a_stream_for_other_processes_begins_anew_and_says_so(caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    stream = Stream(documents(2, 30))
    one = PackedStream(stream, BYTES, 2, 9, 5)
    next_batch = one.epoch(0)
    before = [next_batch(step)["inputs"].tolist() for step in range(3)]
    two = PackedStream(stream, BYTES, 2, 9, 5, num_workers=2)
    two.load_state_dict(one.state_dict())
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the training stream starts from its beginning, since 1 processes of a rank" in said
    assert two.state_dict()["readers"] == [START, START]
    again = PackedStream(stream, BYTES, 2, 9, 5)
    again.load_state_dict(two.state_dict())
    assert [again.epoch(0)(step)["inputs"].tolist() for step in range(3)] == before


def test_what_does_not_fit_a_stream_is_refused(make, quiet_trainer):
    with pytest.raises(InputError, match=r"batching is 'contiguous'.*give batching .blocks., or max_tokens"):
        make(batching="contiguous")
    with pytest.raises(InputError, match="shuffle_buffer is 5, and only streaming uses it"):
        make(streaming=False, shuffle_buffer=5)
    with pytest.raises(InputError, match="max_tokens is 0; it must be at least 1"):
        make(max_tokens=0)
    with pytest.raises(InputError, match="overfit_batches asks for the same batches in every epoch"):
        quiet_trainer(overfit_batches=2, max_steps=1).fit(Recorder(), make())


def test_training_text_is_neither_kept_nor_counted(make, quiet_trainer, caplog, tmp_path):
    caplog.set_level("INFO", "lightning.pytorch")
    quiet_trainer(max_steps=1).fit(Recorder(), make(tokenizer="character"))
    (said,) = [record.getMessage() for record in caplog.records if "data:" in record.getMessage()]
    assert "held out of train, train streamed" in said
    assert "      validation " in said
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2


def test_tokens_are_at_most_as_many_as_are_wanted(make):
    data = make(streaming=False, max_tokens=500, batching="contiguous")
    data.prepare_data()
    counts = {split: data._store(split).counts for split in ("train", "validation", "test")}
    assert 500 <= counts["train"].tokens < 530
    assert 0 < counts["validation"].tokens < 200
    assert make(streaming=False, max_tokens=501).fingerprint("train") != data.fingerprint("train")
    assert make(max_tokens=501).fingerprint("train") == make().fingerprint("train")
    whole = make(streaming=False).train_dataloader().batches
    assert len(whole.store) > 8000


def test_tokenizers_are_made_from_the_beginning(make, monkeypatch):
    monkeypatch.setattr("lightning_seq.data.hugging_face.TOKENIZER_FROM", 30)
    assert make(tokenizer="character").vocab_size < make(tokenizer="character", streaming=False).vocab_size


def test_a_large_text_file_is_read_in_pieces(make, tmp_path):
    lines = [f"line {i}\r\n" for i in range(40_000)]
    (tmp_path / "a.txt").write_bytes("".join(lines).encode())
    data = make(path=tmp_path / "a.txt", batch_size=8, context_length=512, steps_per_epoch=80)
    rows = [batch["targets"].flatten().tolist() for batch in data.train_dataloader()]
    text = data.tokenizer.decode(list(chain(*rows)))
    assert lines[20_000] in text
    assert "\n\n" not in text
    assert sum(len(list(data.documents(split))) for split in ("train", "validation", "test")) == 8
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"b\.txt' is not UTF-8: byte 3 is 0xe9"):
        epoch(make(path=tmp_path / "b.txt"))
