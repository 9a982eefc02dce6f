"""One directory a run: what is in it, what it is called, and that none is ever lost."""

import json
import re

import numpy as np
import pytest
import torch
import yaml

import lightning_seq
from lightning_seq.cli import from_recipe
from lightning_seq.cli.run_directory import create, remove_what_is_ours, run_name
from lightning_seq.errors import InputError
from tests.cli.conftest import LSTM, TEXT, TINY


def test_a_run_leaves_everything_in_one_new_directory(command, here):
    extras = [
        "--trainer.val_check_interval=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.gradient_clip_val=1",
    ]
    watchers = [
        f"--trainer.callbacks+={c}" for c in ("GradientClippingMonitor", "AttentionLogger", "SampleLogger")
    ]
    small = ["--model=TransformerLanguageModel", "--model.embedding_dim=16", "--model.num_layers=1"]
    status, said = command("fit", *small, *TINY, *extras, *watchers)
    assert status == 0, said
    assert [p.name for p in (here / "runs").iterdir()] == ["TransformerLanguageModel-1"]
    run = here / "runs" / "TransformerLanguageModel-1"
    files = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "samples.txt",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    } <= files
    assert any(re.fullmatch(r"figures/.*\.png", f) for f in files)
    assert not any(":" in f for f in files)
    assert {p.name for p in here.iterdir()} == {"runs", "text.txt"}
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_loss", "val_loss", "val_perplexity", "val_bits_per_character", "grad/norm"} <= set(header)


def test_the_summary_says_where_everything_is_and_what_comes_next(command):
    extras = ["--trainer.val_check_interval=1", "--trainer.callbacks+=SampleLogger"]
    _, said = command("fit", *LSTM, *TINY, *extras)
    summary = said[said.index("-" * 80) :].split("-" * 80)[1]
    for part in (
        "validation  loss ",
        "perplexity",
        "bits per character",
        "sample",
        "runs/LSTMLanguageModel-1",
    ):
        assert part in summary
    assert "next        lightning-seq generate --prompt" in summary
    assert "--checkpoint runs/LSTMLanguageModel-1/checkpoints/best.ckpt" in summary
    assert all(len(line) <= 80 for line in summary.splitlines())


def test_a_second_run_gets_a_directory_of_its_own(command, here):
    for number in (1, 2):
        assert command("fit", *LSTM, *TINY)[0] == 0
        assert (here / "runs" / f"LSTMLanguageModel-{number}" / "config.yaml").exists()


def test_a_directory_that_holds_something_is_refused_and_kept(command, here):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years of work")
    status, said = command("fit", *LSTM, *TINY, "--run_dir=mine")
    assert status == 1
    assert "run_dir mine exists already" in said
    assert [p.name for p in (here / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_fails_before_its_first_step_leaves_nothing(command, here):
    assert command("fit", *LSTM, *TINY, "--data.path=missing.txt")[0] == 1
    assert command("fit", *LSTM, *TINY, "--data.context_length=100000")[0] == 1
    assert not list((here / "runs").iterdir())


def test_the_resolved_configuration_trains_the_same_again(command, here):
    command("fit", *LSTM, *TINY, "--model.learning_rate=0.02")
    first = here / "runs" / "LSTMLanguageModel-1"
    status, said = command("fit", "--config", first / "config.yaml")
    assert status == 0, said
    second = here / "runs" / "LSTMLanguageModel-2"  # named after the run, not after "config"
    old, new = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (first, second))
    assert all(torch.equal(old["state_dict"][name], new["state_dict"][name]) for name in old["state_dict"])
    assert yaml.safe_load((second / "config.yaml").read_text())["model"]["init_args"]["learning_rate"] == 0.02


def test_the_last_state_is_saved_even_where_no_validation_fell_on_it(command, here):
    command("fit", *LSTM, *TINY, "--trainer.max_steps=3", "--trainer.val_check_interval=2")
    checkpoints = here / "runs" / "LSTMLanguageModel-1" / "checkpoints"
    steps = {p.name: torch.load(p, weights_only=True)["global_step"] for p in checkpoints.iterdir()}
    assert steps == {"best.ckpt": 2, "last.ckpt": 3}


def test_names_are_safe():
    assert run_name(["recipes/quickstart.yaml"], "a.B", "fit") == "quickstart"
    assert run_name(["recipes/quickstart.yaml"], "a.B", "test") == "quickstart-test"
    assert run_name(["runs/quickstart-12/config.yaml"], "a.B", "fit") == "quickstart"
    assert run_name(["we:ird na/me?.yaml"], "a.B", "fit") == "me_"
    assert run_name([], "a.b.C", "fit") == "C"


def test_other_ranks_write_where_rank_zero_said(here, monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    chosen = create("a")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert create("a") == chosen
    assert [p.name for p in (here / "runs").iterdir()] == ["a-1"]


@pytest.mark.filterwarnings("ignore:the model's vocabulary lacks 'T' of the prompt")
def test_from_recipe_gives_trainer_model_and_data(here):
    trainer, model, data = from_recipe(
        "quickstart",
        model={"embedding_dim": 16, "num_layers": 1, "num_heads": 2},
        data={"path": "text.txt", "batch_size": 2, "context_length": 8},
        **{"trainer.max_steps": 1, "trainer.enable_progress_bar": False, "trainer.accelerator": "cpu"},
    )
    assert type(model).__name__ == "TransformerLanguageModel"
    assert (trainer.max_steps, data.batch_size, model.hparams.num_layers) == (1, 2, 1)
    assert model.hparams.vocab_size == data.vocab_size  # the link from data to model holds
    trainer.fit(model, data)
    assert trainer.global_step == 1
    assert lightning_seq.from_recipe is from_recipe


def test_from_recipe_takes_another_class_and_refuses_nonsense(here):
    options = {"data.path": "text.txt", "trainer.accelerator": "cpu"}
    _, model, _ = from_recipe("quickstart", model="GRULanguageModel", **options)
    assert type(model).__name__ == "GRULanguageModel"
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        from_recipe("quickstar")
    with pytest.raises(InputError, match=r"no option 'batchsize' .did you mean 'batch_size'"):
        from_recipe("quickstart", data={"batchsize": 3})


def test_wandb_writes_inside_the_run(command, here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = json.dumps({"class_path": "WandbLogger", "init_args": {"project": "p", "offline": True}})
    status, said = command("fit", *LSTM, *TINY, f"--trainer.logger={logger}", "--trainer.log_every_n_steps=1")
    import wandb

    wandb.finish()
    assert status == 0, said
    run = here / "runs" / "LSTMLanguageModel-1"
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert (run / "metrics.csv").exists()
    assert not (here / "wandb").exists()


def test_a_directory_that_exists_is_never_taken_and_never_removed(command, here):
    (here / "empty").mkdir()
    status, said = command("fit", *LSTM, *TINY, "--run_dir=empty")
    assert status == 1
    assert "run_dir empty exists already" in said
    assert (here / "empty").is_dir()


def test_what_is_not_ours_stays_when_a_run_fails(here):
    path = create("a", "run")
    (path / "config.yaml").write_text("x")
    (path / "thesis.txt").write_text("years of work")
    remove_what_is_ours(path)
    assert [p.name for p in path.iterdir()] == ["thesis.txt"]


def test_a_chosen_directory_is_not_part_of_the_resolved_configuration(command, here):
    assert command("fit", *LSTM, *TINY, "--run_dir=chosen")[0] == 0
    status, said = command("fit", "--config", "chosen/config.yaml")
    assert status == 0, said
    assert (here / "runs/chosen-1/checkpoints/last.ckpt").exists()


def test_explicit_options_win_wherever_they_stand(command, here):
    (here / "own.yaml").write_text("trainer:\n  max_steps: 5\nmodel:\n  class_path: GRULanguageModel\n")
    words = [
        "--trainer.max_steps=3",
        *LSTM,
        *(w for w in TINY if "max_steps" not in w),
        "--config",
        "own.yaml",
    ]
    status, said = command("fit", *words)
    assert status == 0, said
    checkpoint = torch.load(here / "runs/own-1/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint["lightning_seq"]["class_path"].endswith(".LSTMLanguageModel")


def test_from_recipe_takes_paths_and_any_order_and_refuses_objects(here):
    options = {"trainer.accelerator": "cpu", "data.path": here / "text.txt"}
    _, model, _ = from_recipe(
        "quickstart", **{"model.hidden_size": 8, "model": "GRULanguageModel", **options}
    )
    assert model.hparams.hidden_size == 8
    with pytest.raises(InputError, match=r"no section 'trainr' .did you mean 'trainer'"):
        from_recipe("quickstart", trainr={})
    with pytest.raises(InputError, match=r"trainer\.callbacks holds an object"):
        from_recipe("quickstart", trainer={"callbacks": [object()]})


@pytest.mark.parametrize("batching", ["contiguous", "blocks"])
def test_predict_writes_the_loss_of_every_token_in_order(command, trained, here, batching):
    line = ["predict", *LSTM, *TINY, f"--data.batching={batching}", "--ckpt_path", trained, "--run_dir=out"]
    (here / "test.txt").write_text(TEXT[:333])
    status, said = command(*line, "--data.test_path=test.txt")
    assert status == 0, said
    losses = np.load(here / "out" / "losses.npy")
    assert losses.shape == (332,)
    assert "the losses of 332 tokens" in said
    model = lightning_seq.load(trained)
    tokens = torch.tensor([model.tokenizer.encode(TEXT[:333]).ids])
    with torch.no_grad():
        first = model.network(tokens[:, :8], None, tokens[:, 1:9])[0][0]
    torch.testing.assert_close(torch.from_numpy(losses[:8]), first)


def test_predict_puts_documents_back_into_their_order(command, trained, here):
    line = ["predict", *LSTM, *TINY, "--data.batching=documents", "--ckpt_path", trained, "--run_dir=out"]
    texts = [TEXT[:length] + "\n" for length in (50, 3, 120, 9)]
    (here / "test").mkdir()
    for i, text in enumerate(texts):
        (here / "test" / f"{i}.txt").write_text(text)
    status, said = command(*line, "--data.test_path=test", "--data.context_length=200")
    assert status == 0, said
    model = lightning_seq.load(trained)
    expected = []
    for text in texts:
        tokens = torch.tensor([model.tokenizer.encode(text).ids])
        with torch.no_grad():
            expected.append(model.network(tokens[:, :-1], None, tokens[:, 1:])[0][0])
    torch.testing.assert_close(torch.from_numpy(np.load(here / "out" / "losses.npy")), torch.cat(expected))


def test_a_memory_task_shows_its_accuracy_and_goes_on_where_it_is_asked(command, here):
    task = ["--data=CopyTask", "--data.length=2", "--data.delay=3", "--data.symbols=4"]
    run = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.enable_progress_bar=false"]
    sample = ["--trainer.callbacks=SampleLogger", "--trainer.callbacks.max_new_tokens=2"]
    status, said = command("fit", *LSTM, *task, *run, *sample, "--seed_everything=0", "--run_dir=run")
    assert status == 0, said
    assert re.search(r"validation  loss [\d.]+, perplexity [\d.]+, accuracy 0\.\d{4}\n", said)
    text = (here / "run/samples.txt").read_text()
    assert len(re.findall(r"^[a-d] [a-d] \. \. \. recall \S+ \S+$", text, re.MULTILINE)) == 2


def test_a_training_that_diverged_is_no_success(command):
    extras = ["--model.learning_rate=1e30", "--trainer.val_check_interval=1", "--trainer.max_steps=3"]
    status, said = command("fit", *LSTM, *TINY, *extras, "--model.weight_decay=1e10")
    assert status == 0, said
    summary = said[said.index("-" * 80) :].split("-" * 80)[1]
    assert "loss nan" in summary
    assert "diverged    try a lower model.learning_rate, or trainer.gradient_clip_val 1" in summary
    assert "generate" not in summary
    assert all(len(line) <= 80 for line in summary.splitlines())
