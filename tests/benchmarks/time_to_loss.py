"""From an empty cache to a checkpoint that reaches a loss: whole processes, start-up included."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.benchmarks.turns import Table, in_turns, timed

QUESTION = "How long until Tiny Shakespeare is learnt to nanoGPT's loss? (--data, --nanogpt)"
NEEDS = ("data",)
PROTOCOL = (
    "Seconds of the whole process, from nothing (no tokens in a cache) to its checkpoint. Loss: nats per "
    "character over the last 10% of the file, each predicted once, after the clock is stopped: recurrent "
    "networks read them as one stream, Transformers in blocks of their context. The first 90% train."
)
NANOGPT = [  # the README's settings for a CPU
    "config/train_shakespeare_char.py",
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]
OURS = {"shakespeare_char_speedrun": "stream", "shakespeare_char_speedrun_transformer": "blocks"}
SCORE = """
import pickle, sys

import torch
from model import GPT, GPTConfig

checkpoint = torch.load("out-shakespeare-char/ckpt.pt", map_location="cpu")
model = GPT(GPTConfig(**checkpoint["model_args"])).eval()
model.load_state_dict({k.removeprefix("_orig_mod."): v for k, v in checkpoint["model"].items()})
with open("data/shakespeare_char/meta.pkl", "rb") as file:
    numbers = pickle.load(file)["stoi"]
ids = torch.tensor([numbers[c] for c in open(sys.argv[1], encoding="utf-8").read()])
size, total = model.config.block_size, 0.0
with torch.no_grad():
    for x, y in zip(ids[:-1].split(size), ids[1:].split(size)):
        total += model(x[None], y[None])[1].item() * len(x)
print(total / (len(ids) - 1))
"""


def measure(options):
    """Yields the tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        text = options.data.read_text(encoding="utf-8")
        held_out = place / "held_out.txt"
        held_out.write_text(text[int(0.9 * len(text)) :], encoding="utf-8")
        contenders = {}
        if options.nanogpt is not None:
            _prepare(options.nanogpt, options.data, place / "nanogpt")
            contenders["nanoGPT"] = lambda: _nanogpt(place / "nanogpt", held_out)
        for name, protocol in OURS.items():
            contenders[name] = lambda name=name, protocol=protocol: ours(
                name, protocol, options.data, held_out, place
            )
        yield _table("Time to 1.88 on Tiny Shakespeare, CPU", contenders, options.rounds)
        contenders = {}
        if torch.cuda.is_available() and options.nanogpt is not None:
            contenders["nanoGPT"] = lambda: _nanogpt(place / "nanogpt", held_out, NANOGPT[:1])
        names = ["shakespeare_char_gold", *(["shakespeare_char_gpu"] if torch.cuda.is_available() else [])]
        for name in names:
            contenders[name] = lambda name=name: ours(name, "stream", options.data, held_out, place)
        yield _table("Time to 1.4697 on Tiny Shakespeare", contenders, 1)


def _table(title, contenders, rounds):
    table = Table(title, PROTOCOL, "seconds", True, next(iter(contenders)))
    return in_turns(table, contenders, rounds)


def ours(recipe, protocol, data, held_out, place):
    """Trains a recipe by the console script's module; returns seconds and the loss."""
    run, cache = place / f"run-{recipe}", place / "cache"
    for each in (run, cache):
        shutil.rmtree(each, ignore_errors=True)
    environment = {**os.environ, "LIGHTNING_SEQ_CACHE": str(cache)}
    fit = ["fit", "--config", recipe, "--data.path", str(data.resolve()), "--run_dir", str(run)]
    seconds = timed([sys.executable, "-m", "lightning_seq", *fit], place, environment)
    checkpoint = run / "checkpoints/best.ckpt"
    if not checkpoint.exists():
        checkpoint = run / "checkpoints/last.ckpt"
    return {"seconds": seconds, "loss": evaluated(checkpoint, held_out, protocol)}


def evaluated(checkpoint, text, protocol):
    """Nats per token, by `lightning-seq evaluate`."""
    words = ["evaluate", "--checkpoint", checkpoint, "--text", text, "--protocol", protocol, "--json"]
    command = [sys.executable, "-m", "lightning_seq", *map(str, words)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(said.stdout)["loss"]


def _prepare(nanogpt, data, copy):
    """Copies nanoGPT, which reads and writes where it lies, and lets it tokenize."""
    shutil.copytree(nanogpt, copy, ignore=shutil.ignore_patterns(".git", "out*"))
    shutil.copy(data, copy / "data/shakespeare_char/input.txt")
    subprocess.run(
        [sys.executable, "prepare.py"], cwd=copy / "data/shakespeare_char", check=True, capture_output=True
    )


def _nanogpt(copy, held_out, settings=NANOGPT):
    shutil.rmtree(copy / "out-shakespeare-char", ignore_errors=True)
    seconds = timed([sys.executable, "train.py", *settings], copy, os.environ)
    command = [sys.executable, "-c", SCORE, str(held_out)]
    said = subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True)
    return {"seconds": seconds, "loss": float(said.stdout.split()[-1])}  # it talks
