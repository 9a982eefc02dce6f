"""``lightning-seq evaluate``."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch

from lightning_seq import checkpoints
from lightning_seq.__main__ import main
from lightning_seq.data.sources.documents import cut_parts, digest
from lightning_seq.evaluation import initial_state_loss
from tests.cli.conftest import LSTM, TEXT, TINY, command, here, trained  # noqa: F401

TRANSFORMER = ["--model=TransformerLanguageModel", "--model.embedding_dim=8", "--model.num_heads=1"]
DATA = ["--data=TextDataModule", "--data.path=text.txt"]


@pytest.fixture
def evaluate(command, trained, capsys):  # noqa: F811
    """Runs the command on the small LSTM and returns its JSON."""

    def run(*words):
        capsys.readouterr()
        assert main(["evaluate", "--checkpoint", str(trained), "--json", *map(str, words)]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_stream_is_one_pass_over_the_text(evaluate, trained):  # noqa: F811
    found = evaluate("--protocol=stream", "--text=text.txt", "--context_length=17")
    model = checkpoints.load(trained)
    tokens = torch.tensor([model.tokenizer.encode(TEXT).ids])
    with torch.no_grad():
        losses = model.network(tokens[:, :-1], None, tokens[:, 1:])[0].double()
    rest = TEXT[1:]
    words = len(rest.split()) + rest.count("\n")
    assert found["protocol"] == "stream, 1 lane, chunks of 17"
    assert (found["text"], found["split"], found["device"]) == ("text.txt", None, "cpu")
    assert found["tokens"] == found["characters"] == found["bytes"] == len(rest)
    assert found["words"] == words
    assert found["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_character"] == pytest.approx(found["loss"] / math.log(2))
    assert found["word_perplexity"] == pytest.approx(math.exp(losses.sum().item() / words), rel=1e-4)
    assert found["unknown"] == 0
    start = initial_state_loss(model.network, tokens[0])
    assert found["initial_state_loss"] == pytest.approx(start, rel=1e-5)


def test_the_table(command, trained):  # noqa: F811
    status, said = command("evaluate", "--checkpoint", trained, "--protocol", "sliding", *DATA)
    assert status == 0
    assert "protocol            sliding window, context 128, stride 32\n" in said
    assert re.search(r"\ntext {16}text.txt, validation split, sha256 [0-9a-f]{8}\n", said)
    assert "word perplexity     " in said
    assert "initial-state" not in said  # every window begins without a past
    assert max(map(len, said.splitlines())) <= 80
    status, said = command("evaluate", "--checkpoint", trained, "--protocol", "stream", *DATA)
    assert status == 0
    assert "initial-state loss  " in said
    assert max(map(len, said.splitlines())) <= 80


def test_says_what_the_checkpoint_was_trained_on(command, evaluate, trained, here):  # noqa: F811
    novel = "".join(f"{'the old owl '[: i % 7]}{' sees the cat'[: i % 11]}\n" for i in range(1, 99))
    (here / "novel.txt").write_text(novel)
    (here / "whole.txt").write_text(novel + TEXT)
    train_sha256 = digest(cut_parts(TEXT, 2)[:1])
    line = ("--protocol=blocks", "--context_length=8")
    for words, name, sha256, fraction in (
        (["--text=text.txt"], "text.txt", digest([TEXT]), 1),  # most of it was trained on
        (["--text=whole.txt"], "whole.txt", digest([novel + TEXT]), 1),
        (["--text=novel.txt"], "novel.txt", digest([novel]), 0),
        ([*DATA, "--split=train"], "text.txt", train_sha256, 1),
        ([*DATA, "--data.path=novel.txt"], "novel.txt", None, 0),
    ):
        found = evaluate(*line, *words)
        assert (found["text"], found["training_text_fraction"]) == (name, fraction)
        assert sha256 in (None, found["sha256"])
        assert (found["trained_on"], found["trained_on_sha256"]) == ("text.txt", train_sha256)
    start = ["evaluate", "--checkpoint", trained, *line, DATA[0]]
    paths = ("text.txt", "novel.txt")
    said = {path: " ".join(command(*start, f"--data.path={path}")[1].split()) for path in paths}
    assert "training text the checkpoint was trained on the train split of this data" in said["text.txt"]
    other = f"trained on other data: text.txt, sha256 {train_sha256[:8]} protocol"
    assert other in said["novel.txt"]


def test_blocks_of_a_recipes_split_equal_those_of_its_text(evaluate, here):  # noqa: F811
    (here / "mine.yaml").write_text(
        "model: NoSuchModel\ndata: {class_path: TextDataModule, init_args: {path: text.txt}}\n"
    )
    line = ("--protocol=blocks", "--context_length=8")
    of_split = evaluate(*line, "--config=mine.yaml", "--split=test")
    (here / "end.txt").write_text(TEXT[-of_split["tokens"] - 1 :])
    of_text = evaluate(*line, "--text=end.txt")
    same = ("protocol", "tokens", "loss", "characters", "words", "word_perplexity")
    assert {name: of_split[name] for name in same} == {name: of_text[name] for name in same}
    assert of_split["split"] == "test"
    assert evaluate(*line, "--config", "mine.yaml")["split"] == "validation"
    assert evaluate(*line, "--config", "mine.yaml", "--split=train", "--max_tokens=40")["tokens"] == 39


def test_lanes_and_batch_sizes_and_strides(evaluate):
    text = ("--text=text.txt", "--max_tokens=500")
    assert evaluate("--protocol=stream", "--lanes=3", *text)["protocol"] == "stream, 3 lanes, chunks of 128"
    one = evaluate("--protocol=sliding", "--context_length=8", "--stride=3", "--batch_size=1", *text)
    many = evaluate("--protocol=sliding", "--context_length=8", "--stride=3", *text)
    assert one["protocol"] == "sliding window, context 8, stride 3"
    assert one["loss"] == pytest.approx(many["loss"], rel=1e-6)


def test_words_are_compared_as_words(command, here, capsys):  # noqa: F811
    status, said = command("fit", *LSTM, *TINY, "--run_dir=words", "--data.tokenizer=word")
    assert status == 0, said
    (here / "other.txt").write_text("the zebra sees the cat.\nthe <unk> sees\n")
    line = ["evaluate", "--checkpoint=words/checkpoints/last.ckpt", "--protocol=stream"]
    with pytest.warns(UserWarning, match=r"22.2% of the tokens of 'other.txt' are '<unk>'"):
        assert main([*line, "--text=other.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == found["words"] == 9 - 1 + 1  # of each newline one
    assert found["word_perplexity"] == pytest.approx(found["perplexity"])
    assert (found["unknown"], found["unknown_written"], found["unknown_token"]) == (3, 1, "<unk>")
    assert found["unknown_fraction"] == 3 / 9
    with pytest.warns(UserWarning, match="unk"):
        said = " ".join(command(*line, "--text=other.txt")[1].split())
    assert "unknown tokens 3 (33.3%) are <unk>, 1 of them so written in the text: that a token is" in said


def test_dynamic_evaluation_and_the_cache(evaluate):
    line = ("--protocol=stream", "--context_length=8", "--max_tokens=300")
    plain = evaluate(*line, *DATA)
    dynamic = evaluate(*line, *DATA, "--dynamic_learning_rate=1e-2", "--dynamic_tokens=900")
    assert dynamic["protocol"] == (
        "stream, 1 lane, chunks of 8, dynamic evaluation, learning rate 0.01, decay 0.002, epsilon 2e-05, "
        "scaled by the gradients of 900 tokens in 100 lanes"
    )
    assert dynamic["loss"] < plain["loss"]
    of_text = evaluate(
        *line,
        "--text=text.txt",
        "--dynamic_learning_rate=1e-2",
        "--dynamic_text=text.txt",
        "--dynamic_decay=0",
        "--dynamic_epsilon=1e-3",
    )
    assert "decay 0, epsilon 0.001" in of_text["protocol"]
    cached = evaluate(*line, *DATA, "--cache_window=50", "--cache_theta=1", "--cache_lambda=0.2")
    assert cached["protocol"].endswith("neural cache, window 50, theta 1, lambda 0.2")
    assert cached["loss"] < plain["loss"]


def test_a_transformer_streams_within_its_context(command, here, capsys):  # noqa: F811
    status, said = command("fit", *TRANSFORMER, "--model.context_length=16", *TINY, "--run_dir=transformer")
    assert status == 0, said
    line = ["evaluate", "--checkpoint=transformer/checkpoints/last.ckpt", "--text=text.txt", "--json"]
    for protocol, name in (
        ("stream", "stream, 1 lane, chunks of 8"),
        ("blocks", "blocks of 16"),
        ("sliding", "sliding window, context 16, stride 4"),
    ):
        assert main([*line, "--protocol", protocol]) == 0
        assert json.loads(capsys.readouterr().out)["protocol"] == name


TEXT_LINE = ["--protocol=stream", "--text=text.txt"]


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (["--protocol=stream"], 2, "no text: give --text PATH, or --config RECIPE"),
        ([*TEXT_LINE, "--config=quickstart"], 2, "both --text and the options of data"),
        ([*TEXT_LINE, "--split=test"], 2, "--split divides the data of a recipe"),
        ([*TEXT_LINE, "--lane=3"], 2, "no option --lane (did you mean '--lanes'?)"),
        ([*TEXT_LINE, "--stride=3"], 2, "--stride belongs to --protocol sliding, not stream"),
        (["--protocol=blocks", *DATA, "--lanes=3"], 2, "--lanes belongs to --protocol stream, not blocks"),
        (["--protocol=blocks", *DATA, "--cache_window=3"], 2, "--cache_window belongs to --protocol stream"),
        ([*TEXT_LINE, "--cache_theta=1"], 2, "--cache_theta says nothing without --cache_window"),
        (
            [*TEXT_LINE, "--cache_window=3", "--dynamic_learning_rate=1"],
            2,
            "dynamic evaluation and the cache are not combined",
        ),
        ([*TEXT_LINE, "--lanes=0"], 1, "lanes is 0: give 1 to"),
        ([*TEXT_LINE, "--context_length=0"], 1, "context_length is 0: give one at least 1"),
        ([*TEXT_LINE, "--max_tokens=1"], 1, "max_tokens is 1; it must be at least 2"),
        ([*TEXT_LINE, "--batch_size=0"], 1, "batch_size is 0"),
        ([*TEXT_LINE, "--dynamic_learning_rate=1"], 1, "give it as --dynamic_text PATH"),
        ([*TEXT_LINE, "--dynamic_learning_rate=-1"], 1, "learning_rate is -1.0: give one above 0"),
        ([*TEXT_LINE, "--dynamic_learning_rate=inf"], 1, "dynamic_learning_rate is inf: give one above 0"),
        (
            [*TEXT_LINE, "--dynamic_learning_rate=1e38", "--dynamic_text=text.txt"],
            1,
            "some losses are not finite: dynamic_learning_rate 1e+38 may be too high, lower it",
        ),
        (
            [*TEXT_LINE, "--dynamic_learning_rate=1", "--dynamic_text=text.txt", "--dynamic_tokens=1"],
            1,
            "dynamic_tokens is 1: give 2 or more",
        ),
        ([*TEXT_LINE, "--cache_window=0"], 1, "the cache's window is 0"),
        (["--protocol=stream", "--text=nowhere.txt"], 1, "no file or directory 'nowhere.txt'"),
        (["--protocol=stream", "--text=short.txt"], 1, "'short.txt' has 1 tokens, nothing to predict"),
        (["--protocol=stream", *DATA, "--trainer.max_steps=3"], 1, "evaluate builds only the data: leave"),
        (
            ["--protocol=stream", *DATA, "--data.tokenizer=word"],
            1,
            "the checkpoint was trained with a character tokenizer and the data asks for 'word'",
        ),
        (["--protocol=stream", "--data=CopyTask"], 1, "CopyTask has no text that could be read"),
        (["--protocol=stream", "--data=TextDataModul"], 2, "no class 'TextDataModul' for data"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, trained, here, line, status, message):  # noqa: F811
    (here / "short.txt").write_text("t")
    found, said = command("evaluate", "--checkpoint", trained, *line)
    assert message in said
    assert found == status
    assert said.startswith("error: ")
    assert said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(command, trained):  # noqa: F811
    status, said = command("evaluate", "--checkpoint", trained, *TEXT_LINE, "--device=cuda")
    assert status == 1
    assert "device is cuda, and torch finds none" in said


def test_a_checkpoint_of_diverged_weights_is_refused(command, trained, here):  # noqa: F811
    checkpoint = torch.load(trained, weights_only=True)
    for weight in checkpoint["state_dict"].values():
        weight.fill_(torch.nan)
    torch.save(checkpoint, here / "diverged.ckpt")
    status, said = command("evaluate", "--checkpoint=diverged.ckpt", *TEXT_LINE)
    assert status == 1
    assert "some losses are not finite" in said


@pytest.mark.parametrize(
    "line", [["--help"], ["--checkpoint=x"], [*TEXT_LINE, "--checkpoint=x", "--stride=1"]]
)
def test_help_and_wrong_usage_import_no_torch(line):
    script = (
        "import sys\nfrom lightning_seq.__main__ import main\n"
        f"try:\n    status = main(['evaluate', *{line!r}])\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & sys.modules.keys()\nprint(status)"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == ("0" if line == ["--help"] else "2")
