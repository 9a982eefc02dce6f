"""Recipes and their data: a family of equal parameters, and datasets of the Hub as recipes ask for them."""

import csv
import math
import random
import re
from dataclasses import dataclass

import datasets
import pytest
import yaml
from huggingface_hub import constants, file_download

import lightning_seq
from lightning_seq import recipes
from lightning_seq.__main__ import main
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from tests.data.hub_server import HubServer, Repository, parquet
from tests.test_recipes import SHORT, read, shrinking

FAMILY = [name for name in recipes.names() if name.startswith("python_docs_")]
OF_THE_HUB = [
    name for name in recipes.names() if read(name)["data"]["class_path"] == "HuggingFaceTextDataModule"
]
NOT_SHRUNK = ("--data=", "--data.path=", "--data.streaming=", "--data.shuffle_buffer=", "--data.tokenizer=")
OWN = ("path", "name", "revision", "text_column", "tokenizer", "streaming", "shuffle_buffer", "batching")
FILE = re.compile(r"/datasets/(\S+)/resolve/(\w+)/(\S+)/\w+-\d+-of-\d+[.]parquet")


def test_the_python_docs_family_differs_in_the_model_alone():
    """So that the same text, tokens and steps compare the families."""
    loaded = {name: read(name) for name in FAMILY}
    assert len({recipe.pop("model")["class_path"] for recipe in loaded.values()}) == len(FAMILY) == 5
    for recipe in loaded.values():
        assert recipe["trainer"].pop("gradient_clip_val") > 0  # each may need its own
        assert recipe == loaded[FAMILY[0]]


def test_the_python_docs_family_has_equal_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built = {name: lightning_seq.from_recipe(name) for name in FAMILY}
    assert {data.vocab_size for _, _, data in built.values()} == {1000}
    counts = [sum(each.numel() for each in model.parameters()) for _, model, _ in built.values()]
    assert max(counts) <= 1.03 * min(counts), dict(zip(built, counts, strict=True))


@dataclass(frozen=True)
class OnTheHub:
    """What of a dataset on the Hub its recipes depend on; the text is another."""

    column: str = "text"
    splits: tuple[str, ...] = ("train", "validation", "test")
    configurations: tuple[str, ...] = ()
    branch: str = "main"

    def files(self, rows):
        """Returns the files of its branch, of every configuration those of its splits."""
        folders = self.configurations or ("data",)
        listed = [{"config_name": each, "data_files": f"{each}/*"} for each in self.configurations]
        files = {
            f"{folder}/{split}-00000-of-00001.parquet": parquet([{"id": 0, self.column: row} for row in rows])
            for folder in folders
            for split in self.splits
        }
        readme = f"---\n{yaml.safe_dump({'configs': listed})}---\n" if listed else "# Text\n"
        return {"README.md": readme.encode(), **files}


WIKITEXT = ("wikitext-103-raw-v1", "wikitext-103-v1", "wikitext-2-raw-v1", "wikitext-2-v1")
STAND_INS = {
    "Salesforce/wikitext": OnTheHub(configurations=WIKITEXT),
    "ptb-text-only/ptb_text_only": OnTheHub("sentence", branch="refs/convert/parquet"),
    "roneneldan/TinyStories": OnTheHub(splits=("train", "validation")),
    "HuggingFaceFW/fineweb-edu": OnTheHub(splits=("train",), configurations=("default", "sample-10BT")),
}
TEXT = "the company said that a film of N million was <unk> and its little house , once upon a time ."


def some_rows(count=600):
    """Returns lines of words, some of them empty, as WikiText's are."""
    draw = random.Random(0)
    return [
        "" if i % 7 == 0 else f" {' '.join(draw.choices(TEXT.split(), k=12))} {i} \n" for i in range(count)
    ]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub, as far as this process knows."""
    with HubServer() as hub:
        for path, dataset in STAND_INS.items():
            repository = hub.repositories[path] = Repository()
            repository.commit({"README.md": b"# No data here\n"})
            repository.commit(dataset.files(some_rows()), dataset.branch)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # the second has one of its own before version 1
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=module is constants)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        yield hub


@pytest.fixture
def tokenizer_file(tmp_path):
    """A tokenizer.json, in place of one that is a model's on the Hub."""
    path = tmp_path / "tokenizer.json"
    build_tokenizer("bpe", some_rows(), 300).save(str(path))
    return path


# What stands for the dataset is a small text, which lacks words of the recipe's prompt.
@pytest.mark.filterwarnings("ignore:the model's vocabulary lacks", "ignore:.* of the tokens of the")
@pytest.mark.parametrize("name", OF_THE_HUB)
def test_a_recipe_trains_on_its_dataset_of_the_hub(name, hub, tokenizer_file, tmp_path, monkeypatch, capsys):
    """With its own path, configuration, revision, columns, tokenizer and batching; only sizes are smaller."""
    monkeypatch.chdir(tmp_path)
    own = read(name)["data"]["init_args"]
    options = [each for each in shrinking(name) if not each.startswith(NOT_SHRUNK)]
    if "/" in own["tokenizer"]:
        own["tokenizer"] = str(tokenizer_file)
        options.append(f"--data.tokenizer={tokenizer_file}")
    assert main(["fit", "--config", name, *options, *SHORT]) == 0, capsys.readouterr()

    run = tmp_path / "runs" / f"{name}-1"
    data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    assert data["class_path"].endswith("HuggingFaceTextDataModule")
    kept = [key for key in OWN if key in own]
    assert [data["init_args"][key] for key in kept] == [own[key] for key in kept]
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert losses
    assert all(map(math.isfinite, losses))

    commit = hub.repositories[own["path"]].sha(STAND_INS[own["path"]].branch)
    asked = {found.groups() for request in hub.requests if (found := FILE.search(request))}
    assert asked == {(own["path"], commit, own.get("name", "data"))}
