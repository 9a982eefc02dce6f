"""``lightning-seq doctor``."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_seq import recipes
from lightning_seq.cli import wandb_runs
from lightning_seq.data.sources.corpora import CORPORA
from lightning_seq.data.sources.documents import cut_parts
from tests.cli.conftest import LSTM, TINY, command, here  # noqa: F401
from tests.test_recipes import shrinking

VALIDATING = [
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=1",
    "--trainer.check_val_every_n_epoch=null",
]
TITLES = ["configuration", "data", "model", "training", "memory", "plan"]
NO_KEY = "W&B has no key"
OF_THE_HUB = {
    name for name in recipes.names() if "HuggingFaceTextDataModule" in recipes.find(name).read_text()
}
OF_A_FILE = {name for name in recipes.names() if "# --data.path FILE" in recipes.find(name).read_text()}
TRAINING_TEXT, *_ = cut_parts(CORPORA["python-docs"](), 2)  # each Python carries another text
ROWS = (len(TRAINING_TEXT) - 1) // 64  # of quickstart, which predicts 64 characters a row
BATCHES = ROWS // 32


def wandb_without_a_key():
    """Made anew: wandb keeps those of its first use in a process, another test's."""
    import wandb

    return wandb.Settings(api_key=None, base_url="https://wandb.invalid", mode="online")


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch, tmp_path):
    """No Hub, no W&B, and a machine that is always the same."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb_runs, "_settings", wandb_without_a_key)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("lightning_seq.cli.doctor.strategies.lacks_bfloat16", lambda device: False)
    monkeypatch.setattr("lightning_seq.data.sources.hub.ask", lambda endpoint: lambda: False)


@pytest.fixture
def doctor(command, here):  # noqa: F811
    """Runs the command; returns its status and what --json says, and checks that it leaves nothing behind."""

    def run(*words):
        before = sorted(path.name for path in here.iterdir())
        status, said = command("doctor", "--json", "--trainer.accelerator=cpu", *words)
        # __pycache__ is Python's, of a user's own module
        assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == before
        return status, json.loads(said.splitlines()[0])

    return run


# one recipe of each kind; the rest runs with the slow ones
OF_EACH_KIND = {"quickstart", "quickstart_min_gru", "memory_copy", "irish_folk_lstm", "ptb_lstm_small"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.slow)
        for name in recipes.names()
    ],
)
def test_every_recipe_is_well_or_lacks_its_data(name, doctor):
    status, found = doctor("--config", name)
    assert list(found) == [*TITLES, "problems"]
    assert found["configuration"]["files"] == [name]
    if name in OF_A_FILE:
        (problem,) = found["problems"]
        assert "give --data.path FILE" in problem
        assert found["model"]["total"] > 0
        shrunk = shrinking(name)
        assert doctor("--config", name, *shrunk)[1]["problems"] == []
        return
    if name in OF_THE_HUB:
        (problem,) = found["problems"]
        assert problem.endswith(
            f"not downloaded: run `lightning-seq prepare --config {name}` where there is a network"
        )
        assert found["data"]["state"] == "not downloaded"
    else:
        assert found["problems"] == []
        assert found["training"]["validations"] > 0
    assert status == bool(found["problems"])
    assert found["memory"]["total"] > 4 * found["model"]["total"]
    assert found["training"]["tokens_per_step"] > 0


@pytest.mark.parametrize("fragment", recipes.fragments())
def test_every_fragment_is_well_or_rightly_complained_of(fragment, doctor):
    expected = {
        "precision/fp16": "a CPU gets bf16-mixed in its place",
        "logger/wandb": NO_KEY,
        "strategy/fsdp": "requires a GPU accelerator",
        "strategy/deepspeed": "you must have DeepSpeed installed",
        "strategy/tensor_parallel": "tensor_parallel_size is 2, which does not divide the 1 processes",
    }
    status, found = doctor("--config", "quickstart_lstm", "--config", fragment)
    assert found["configuration"]["files"] == ["quickstart_lstm", fragment]
    assert [expected[fragment] in each for each in found["problems"]] == [True] * (fragment in expected)
    assert status == (fragment in expected)


def test_bfloat16_that_is_but_emulated_is_complained_of(doctor, monkeypatch):
    monkeypatch.setattr("lightning_seq.cli.doctor.strategies.lacks_bfloat16", lambda device: True)
    status, found = doctor("--config", "quickstart_lstm", "--config", "precision/bf16")
    assert status == 1
    assert "only emulates bfloat16" in found["problems"][0]


def test_the_report_is_a_table_of_80_columns(command, here):  # noqa: F811
    status, said = command(
        "doctor", "--config=quickstart", "--trainer.accelerator=cpu", "--model.dropout=0.1"
    )
    assert status == 0
    assert [line for line in said.splitlines() if line and line[0] != " "] == [*TITLES, "all is well"]
    assert all(len(line) <= 80 for line in said.splitlines())
    for row in (
        "  files             quickstart",
        "                    --model.dropout=0.1",
        "                    lightning_seq.models.TransformerLanguageModel",
        "  blocks            791,552 = 4 x Block of 197,888",
        "  tokens per step   2,048 = 32 x 64 x 1 accumulated x 1 rank",
        "                    0.004 at step 50 (after warm-up)",
        "                    0.0004 at step 699 (end)",
        "  validations       4",
    ):
        assert f"\n{row}\n" in said
    assert not (here / "runs").exists()


def test_what_it_says_of_a_training_is_what_the_training_does(command, doctor, here):  # noqa: F811
    options = [*LSTM, *TINY, "--data.batch_size=8", "--data.context_length=16", "--trainer.max_steps=40"]
    options += ["--trainer.val_check_interval=7", "--trainer.log_every_n_steps=1"]
    options += [
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.accumulate_grad_batches=3",
        "--model.schedule=cosine",
    ]
    status, found = doctor(*options, "--model.warmup_steps=4")
    assert status == 0, found["problems"]
    assert command("fit", *options, "--model.warmup_steps=4", "--run_dir=run")[0] == 0
    with Path("run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    said = found["training"]
    assert said["steps"] == 40
    assert said["validations"] == sum(bool(row["val_loss"]) for row in rows)
    epochs = [int(row["epoch"]) for row in rows if row["train_loss"]]
    assert epochs[-1] == int(said["epochs"] - 1e-9)
    assert epochs.count(0) == said["steps_per_epoch"]
    assert said["tokens_per_step"] == 8 * 16 * 3
    assert epochs[-1] > 1
    stored = list(Path(found["data"]["cache"]).rglob("tokens.bin"))
    assert stored  # as fit would make it
    assert said["learning_rate"]["after warm-up"] == {"step": 4, "rate": pytest.approx(1e-3)}
    assert said["learning_rate"]["end"]["rate"] == pytest.approx(1e-4, rel=0.1)


def test_classes_of_ones_own_are_marked(doctor, here):  # noqa: F811
    (here / "own.py").write_text(
        "from torch import nn\n"
        "from lightning_seq.models import LanguageModel\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, vocab_size):\n"
        "        super().__init__()\n"
        "        self.embedding, self.out = nn.Embedding(vocab_size, 4), nn.Linear(4, vocab_size)\n"
        "    def forward(self, tokens, state=None, targets=None):\n"
        "        return self.out(self.embedding(tokens)), None\n"
        "class Mine(LanguageModel):\n"
        "    def __init__(self, vocab_size: int, **kwargs):\n"
        "        super().__init__(Net(vocab_size), **kwargs)\n"
        "        self.save_hyperparameters()\n"
    )
    status, found = doctor("--model=own.Mine", *TINY, *VALIDATING)
    assert (status, found["problems"]) == (0, [])
    marked = [each for each in found["configuration"]["classes"] if "your own code" in each]
    assert marked == ["own.Mine (imports your own code)"]
    vocabulary = found["data"]["vocabulary"]
    assert found["model"]["total"] == 4 * vocabulary + 5 * vocabulary
    assert found["memory"]["weights"] == 4 * found["model"]["total"]
    assert found["memory"]["logits_and_others"] + found["memory"]["activations"] >= 4 * 16 * vocabulary


@pytest.mark.parametrize(
    ("line", "problem", "measured"),
    [
        ("x = x + tokens[0, 0].item()", None, False),  # content, which is not there while it is measured
        ("x = x if (tokens.sum() >= 0) else -x", None, False),
        (
            "x = self.missing(x)",
            "AttributeError: 'Net' object has no attribute 'missing': Mine cannot",
            False,
        ),
        ("x = x[:, :, :3]", "RuntimeError: ", False),
        ("x = x if tokens.sum() > 10**9 else x.undefined()", "AttributeError: ", False),
        ("return self.out(x).mean(1), None", "Net returned (1, ", False),
        ("return self.out(x)", "Net returned (1, ", False),
        ("x = x * 2", None, True),
    ],
)
def test_a_network_that_cannot_be_run_is_no_pass(line, problem, measured, doctor, here):  # noqa: F811
    name = f"own_{hashlib.sha256(line.encode()).hexdigest()[:8]}"
    (here / f"{name}.py").write_text(
        "from torch import nn\n"
        "from lightning_seq.models import LanguageModel\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, vocab_size):\n"
        "        super().__init__()\n"
        "        self.embedding, self.out = nn.Embedding(vocab_size, 4), nn.Linear(4, vocab_size)\n"
        "    def forward(self, tokens, state=None, targets=None):\n"
        "        x = self.embedding(tokens)\n"
        f"        {line}\n"
        "        return self.out(x), None\n"
        "class Mine(LanguageModel):\n"
        "    def __init__(self, vocab_size: int, **kwargs):\n"
        "        super().__init__(Net(vocab_size), **kwargs)\n"
        "        self.save_hyperparameters()\n"
    )
    status, found = doctor(f"--model={name}.Mine", *TINY, *VALIDATING)
    assert (status, len(found["problems"])) == ((0, 0) if problem is None else (1, 1))
    assert problem is None or found["problems"][0].startswith(problem)
    assert ("logits_and_others" in found["memory"]) == measured


def test_a_callback_whose_setup_fails_is_no_pass(doctor, monkeypatch):
    def fail(self, trainer, pl_module, stage):
        raise TypeError("no such thing")

    monkeypatch.setattr("lightning_seq.callbacks.SampleLogger.setup", fail)
    status, found = doctor("--config=quickstart")
    assert (status, found["problems"]) == (1, ["TypeError: no such thing"])


def test_resolved_prints_what_fit_would_save(command, here):  # noqa: F811
    status, said = command("doctor", "--config=quickstart", "--resolved", "--model.dropout=0.25")
    assert status == 0
    content = yaml.safe_load(said)
    assert content["model"]["init_args"]["dropout"] == 0.25
    assert content["trainer"]["max_steps"] == 700
    assert content["data"]["init_args"]["seed"] == 0
    (here / "again.yaml").write_text(said)
    status, said = command("doctor", "--config=again.yaml", "--trainer.accelerator=cpu")
    assert status == 0, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.devices=8"], "trainer.devices is 8, and this machine has 4 cores: give 4"),
        (["--trainer.strategy=fsdp"], "The strategy `fsdp` requires a GPU accelerator"),
        (["--trainer.gradient_clip_val=0"], "which clips nothing: give more than 0"),
        (
            ["--trainer.gradient_clip_val=null", "--trainer.gradient_clip_algorithm=norm"],
            "clips nothing without",
        ),
        (["--trainer.val_check_interval=701"], "the training ends before its first validation"),
        (["--trainer.check_val_every_n_epoch=1"], f"an epoch has {BATCHES} batches: Lightning refuses that"),
        (["--model.warmup_steps=700"], "so that the learning rate only rises"),
        (["--trainer.max_steps=0"], "nothing is trained"),
        (["--trainer.limit_train_batches=0"], "nothing is trained"),
        (
            [f"--trainer.accumulate_grad_batches={BATCHES + 1}"],
            f"an epoch has {BATCHES} batches, and Lightning steps at its end",
        ),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches is 0"),
        (["--trainer.log_every_n_steps=701"], "no training loss is logged"),
        ([f"--data.batch_size={ROWS + 1}"], f"too few for one batch of batch_size {ROWS + 1}"),
        (["--data.context_length=65"], "data.context_length is 65 and the model's context_length is 64"),
        (["--data.path=nowhere.txt"], "no file or directory 'nowhere.txt'"),
        (["--model.num_heads=5"], "does not split into 5 heads"),
        (["--model.embedding_dim=65536", "--trainer.enable_checkpointing=false"], "and the device has"),
        (["--trainer.callbacks+=AutoClip"], "got AutoClip and gradient_clip_val=1.0, which both clip"),
        (["--run_dir=."], "run_dir . exists already"),
        (
            ["--config=strategy/tensor_parallel", "--trainer.devices=2", "--model.num_heads=1"],
            "tensor_parallel_size is 2, which does not divide num_heads 1",
        ),
        (
            ["--config=strategy/tensor_parallel", "--trainer.devices=2", "--model=GRULanguageModel"],
            "GRU has no tensor_parallel_plan",
        ),
        (
            ["--model.compile=true", "--data.batching=documents", "--data.tokens_per_batch=4096"],
            "compile is true and data.tokens_per_batch 4096",
        ),
        *(
            (
                [f"--model={name}LanguageModel", "--data.batching=blocks", "--data.separate_documents=true"],
                "cannot keep documents in one row apart",
            )
            for name in ("RNN", "GRU", "LSTM", "MinGRU", "MinLSTM")
        ),
    ],
)
def test_what_cannot_be_is_found_one_line_each(words, message, doctor):
    status, found = doctor("--config=quickstart", "--trainer.val_check_interval=175", *words)
    assert status == 1
    (line,) = found["problems"]
    assert message in line
    assert "\n" not in line


def test_several_things_are_found_at_once(doctor):
    options = ["--trainer.max_steps=-1", "--trainer.strategy.class_path=DDPStrategy", "--trainer.devices=2"]
    options += ["--trainer.strategy.init_args.static_graph=true", "--trainer.accumulate_grad_batches=2"]
    status, found = doctor("--config=quickstart_lstm", *options)
    assert status == 1
    assert len(found["problems"]) == 3
    for message in (
        "schedule 'cosine' falls until the last step",
        "trains for 1,000 epochs",
        "static_graph fails",
    ):
        assert any(message in line for line in found["problems"])
    assert found["plan"]["devices"] == 2
    assert found["training"]["tokens_per_step"] == 32 * 64 * 2 * 2


def test_fp16_with_a_fused_optimizer_of_ones_own_cannot_be_clipped():
    from types import SimpleNamespace

    import torch
    from lightning.pytorch.plugins.precision import MixedPrecision

    from lightning_seq.cli.doctor.strategies import unclippable

    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = SimpleNamespace(precision_plugin=plugin, gradient_clip_val=1.0, precision="16-mixed")
    weights = [torch.nn.Parameter(torch.zeros(2))]
    fused, plain = (torch.optim.AdamW(weights, fused=each) for each in (True, False))
    assert list(unclippable(trainer, [plain])) == []
    assert ["fused=False" in line for line in unclippable(trainer, [plain, fused])] == [True]


def test_a_large_text_is_estimated_and_not_tokenized(doctor, here, monkeypatch):  # noqa: F811
    (here / "estimated").mkdir()
    words = [*LSTM, *TINY, *VALIDATING, "--data.tokenizer=word"]
    exact = doctor(*words)[1]["data"]
    monkeypatch.setattr("lightning_seq.cli.doctor.sizes.PREPARED_UP_TO", 0)
    status, found = doctor(*words, "--data.cache_dir=estimated")
    assert status == 0, found["problems"]
    assert found["data"]["tokens"]["train"] == pytest.approx(exact["tokens"]["train"], rel=0.05)
    assert found["data"]["token_store"] > 0
    assert [path.name for path in (here / "estimated").iterdir()] == ["tokenizers"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "no model is chosen"),
        (["--config=nowhere"], 1, "no recipe 'nowhere'"),
        (["--config=quickstart", "--trainer.max_step=1"], 2, "did you mean '--trainer.max_steps'?"),
        (["--config=quickstart", "--ckpt_path=nothing.ckpt"], 1, "no checkpoint at nothing.ckpt"),
        (["--config=quickstart", "--print_config"], 2, "doctor does not print that"),
    ],
)
def test_wrong_usage(words, status, message, command):  # noqa: F811
    found, said = command("doctor", *words)
    assert found == status
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from lightning_seq.__main__ import main\n"
        "try: main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'numpy', 'jsonargparse', 'yaml'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
