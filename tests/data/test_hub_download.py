"""Datasets over HTTP from a small Hub on this machine: downloaded, cached, streamed, refused."""

import csv
import gzip
import io
import json
import subprocess
import sys
import zipfile

import pytest

from tests.data.hub_server import HubServer, Repository, parquet

PROGRAM = """
import json, sys
from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.errors import InputError

for options in json.loads(sys.argv[1]):
    try:
        data = HuggingFaceTextDataModule(**options, batch_size=2, context_length=16, batching="blocks")
        data.prepare_data()
        batches = [batch["inputs"].tolist() for batch in data.train_dataloader()]
        validation = next(iter(data.val_dataloader()))["inputs"].flatten().tolist()
        told = {
            "described": data.describe(),
            "batches": batches,
            "text": data.tokenizer.decode([i for batch in batches for row in batch for i in row]),
            "validation": data.tokenizer.decode(validation),
            "prints": [data.fingerprint(split) for split in ("train", "validation", "test")],
        }
        data.teardown("fit")
    except InputError as error:
        told = {"error": str(error)}
    print("told", json.dumps(told))
"""


def rows(word, count):
    return [{"title": f"{word} {i}", "text": f"text {word} {i}", "number": i} for i in range(count)]


def lines(some):
    return "\n".join(map(json.dumps, some)).encode()


def table(some):
    return "\n".join(["title,text", *(f"{row['title']},{row['text']}" for row in some)]).encode()


CONFIGURED = """---
configs:
- config_name: cats
  data_files: cats/*.jsonl
- config_name: dogs
  data_files: dogs/*.jsonl
---
"""


@pytest.fixture(scope="module")
def hub():
    hub = HubServer()
    hub.add("someone/letters", {"README.md": b"# Of old\n", "train.csv": table(rows("old", 100))})
    hub.add(
        "someone/letters",
        {
            "README.md": b"---\nlicense: mit\n---\n# Letters\n",
            "data/train-00000-of-00002.parquet": parquet(rows("one", 150)),
            "data/train-00001-of-00002.parquet": parquet(rows("two", 100)),
            "data/validation-00000-of-00001.parquet": parquet(rows("won", 30)),
        },
    )
    hub.add("someone/table", {"train.csv": table(rows("cell", 100))})
    hub.add(
        "someone/pets",
        {
            "README.md": CONFIGURED.encode(),
            "cats/a.jsonl": lines(rows("cat", 300)),
            "dogs/a.jsonl": lines(rows("dog", 300)),
        },
    )
    hub.repositories["someone/gated"] = Repository(refusal=(401, "GatedRepo"))
    hub.repositories["someone/private"] = Repository(refusal=(403, ""))
    return hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def tell(hub, home, options, program=PROGRAM):
    """Runs the program in a process that knows no other Hub than this one."""
    options = [{"cache_dir": str(home / "tokens"), **each} for each in options]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(options)],
        env=hub.environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("told ")) for line in done.stdout.splitlines() if "told " in line]


STREAM = {"streaming": True, "steps_per_epoch": 30}
KEPT = [
    {"path": "someone/letters"},
    {"path": "someone/table", "template": "{title}: {text}"},
    {"path": "someone/letters", "max_tokens": 500},
]
STREAMED = [
    {"path": "someone/letters", **STREAM},
    {"path": "someone/pets", "name": "dogs", "shuffle_buffer": 20, **STREAM},
]


@pytest.mark.slow
def test_datasets_of_the_hub(hub, home):
    before = {"path": "someone/letters", "revision": next(iter(hub.repositories["someone/letters"].commits))}
    wrong = [
        {"path": "someone/nothing"},
        {"path": "someone/gated"},
        {"path": "someone/private"},
        {"path": "someone/letters", "revision": "nowhere"},
        {"path": "someone/pets", "name": "mice"},
    ]
    asked = [
        before,
        {**before, **STREAM},
        *KEPT,
        *STREAMED,
    ]  # the older one first: the cache gives the latest
    asked += [{**each, **more} for each in wrong for more in ({}, STREAM)]
    with hub:
        old, old_stream, *told = (everything := tell(hub, home, asked))[: len(KEPT) + len(STREAMED) + 2]
        assert not any("error" in each for each in told), told
        letters, cells, few, stream, dogs = told
        assert letters["described"] == "someone/letters, test held out of train"
        assert "text one 1" in letters["text"]
        assert letters["validation"].startswith("text won 0\ntext won 1\n")
        assert stream["validation"].startswith("text won 0\ntext won 1\n")
        assert any(
            f"cell {n}: text cell" in cells["text"] for n in range(100)
        )  # windows cut the lines anywhere
        assert len(few["text"]) < len(letters["text"]) / 3
        assert stream["text"].startswith("text one 0\ntext one 1\ntext one 2")
        assert (
            dogs["described"] == "someone/pets (dogs), validation and test held out of train, train streamed"
        )
        assert "text dog " in dogs["text"]
        assert "cat" not in dogs["text"]
        assert "text old 1" in old["text"]
        assert "text old 1" in old_stream["text"]
        assert old_stream["prints"] != stream["prints"]

        errors = [each["error"] for each in everything[len(KEPT) + len(STREAMED) + 2 :]]
        for line, (whole, streamed) in zip(
            [
                "'someone/nothing' (there is none, or none that you may see; private and gated ones need",
                "'someone/gated' (its owner wants to be asked first; private and gated ones need `hf auth",
                "'someone/private' (",
                "'someone/letters' (",
                "'someone/pets' (BuilderConfig 'mice' not found. Available: ['cats', 'dogs'])",
            ],
            zip(errors[::2], errors[1::2], strict=True),
            strict=True,
        ):
            for error in (whole, streamed):
                assert error.startswith(f"cannot load the dataset {line}"), error
                assert error.endswith("; check path, name and revision")
                assert "\n" not in error

    again = tell(hub, home, [*KEPT, *STREAMED[:1]])  # nobody answers any more
    assert [each.get("prints") for each in again[:3]] == [each["prints"] for each in told[:3]]
    assert [each.get("batches") for each in again[:2]] == [letters["batches"], cells["batches"]]
    assert "the Hub does not answer" in again[3]["error"]
    assert "HF_HUB_OFFLINE" in again[3]["error"]


TEXTS = """
import json, sys
from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.errors import InputError

for options in json.loads(sys.argv[1]):
    try:
        data = HuggingFaceTextDataModule(**options, batching="blocks")
        told = [text for split in ("train", "validation", "test") for text in data.documents(split)]
    except InputError as error:
        told = str(error)
    print("told", json.dumps(told))
"""

LIKE_VALUES = [
    "NA",
    "null",
    "None",
    "007",
    "2024-01-18",
    "1e3",
    "true",
    'a "b", c',
    " padded ",
    "two\r\nlines",
]
CARD = "---\nconfigs:\n- config_name: default\n  data_files: '*.*'\n  {}\n---\n"


def written(rows, delimiter=","):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.slow
def test_texts_of_the_hub_are_as_they_are_written(home):
    files = [[{"text": text, "other": other} for text in LIKE_VALUES] for other in (None, 3, {"a": ["b"]})]
    chats = [
        [{"type": "user", "message": {"role": str(i)}, **row} for row in file] for i, file in enumerate(files)
    ]
    csvs = {f"{i}.csv": written(file) for i, file in enumerate(files)}
    datasets = {
        "csv": csvs,
        "tsv": {"0.csv": written(files[0], "\t"), "README.md": CARD.format('sep: "\\t"').encode()},
        "jsonl": {f"{i}.jsonl": lines(file) for i, file in enumerate(chats)},
        "parquet": {f"{i}.parquet": parquet(file) for i, file in enumerate(files)},
        "compressed": {"0.jsonl.gz": gzip.compress(lines(files[0]))},
        "archive": {"0.zip": zipped(csvs)},
        "field": {
            "0.json": json.dumps({"data": files[0], "version": 1}).encode(),
            "README.md": CARD.format("field: data").encode(),
        },
        "lines": {"0.txt": b"\n".join(b"line %d" % i for i in range(30))},
        "skipping": {**csvs, "README.md": CARD.format("skiprows: 1").encode()},
    }
    hub = HubServer()
    for name, content in datasets.items():
        hub.add(f"someone/{name}", content)
    counts = {"csv": 3, "tsv": 1, "jsonl": 3, "parquet": 3, "compressed": 1, "archive": 3, "field": 1}
    asked = [{"path": f"someone/{name}", **more} for name in datasets for more in ({}, {"max_tokens": 10**6})]
    with hub:
        *told, lines_whole, lines_streamed, skipping, _ = tell(hub, home, asked, TEXTS)
    expected = [sorted(LIKE_VALUES * count) for count in counts.values() for _ in range(2)]
    assert [sorted(each) if isinstance(each, list) else each for each in told] == expected
    assert sorted(lines_whole) == sorted(lines_streamed) == sorted(f"line {i}" for i in range(30))
    assert (
        "the card of 'someone/skipping' sets skiprows for its csv files, which is not supported" in skipping
    )
    again = tell(hub, home, [each for each in asked if "max_tokens" not in each], TEXTS)  # from the cache
    assert again[:-1] == [*told[::2], lines_whole]


FIT = """
import json, sys
from lightning.pytorch import Trainer, seed_everything
from lightning_seq.data import HuggingFaceTextDataModule
from lightning_seq.models import LSTMLanguageModel

for options in json.loads(sys.argv[1]):
    seed_everything(0)
    data = HuggingFaceTextDataModule(**options)
    model = LSTMLanguageModel(vocab_size=data.vocab_size, embedding_dim=16, hidden_size=16)
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, data)
    print("told", json.dumps([trainer.global_step, float(trainer.callback_metrics["val_loss"])]))
"""


@pytest.mark.slow
def test_a_model_is_trained_from_the_hub(hub, home):
    common = {"path": "someone/letters", "batch_size": 4, "context_length": 16, "batching": "blocks"}
    with hub:
        stored, streamed, ahead = tell(
            hub,
            home,
            [
                common,
                {**common, **STREAM},
                {**common, **STREAM, "num_workers": 2},
            ],
            FIT,
        )
    assert stored[0] > 30
    assert streamed[0] == ahead[0] == 60
    assert all(0 < loss < 4 for _, loss in (stored, streamed, ahead))
