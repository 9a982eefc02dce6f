"""An epoch of words beside pytorch/examples' word_language_model, with its own LSTM."""

import csv
import math
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from tests.benchmarks.time_to_loss import evaluated
from tests.benchmarks.turns import Table, in_turns, timed

QUESTION = "How fast is an epoch of words, beside word_language_model? (--word-language-model)"
NEEDS = ("word_language_model",)
SPLITS = ("train", "valid", "test")
ROWS, STEPS = 20, 35  # its defaults, like the next
LSTM = ["--model=LSTMLanguageModel", "--model.embedding_dim=200", "--model.hidden_size=200"]
LSTM += ["--model.num_layers=2", "--model.forget_gate_bias=0", "--model.dropout=0.2"]
TRAINING = ["--model.optimizer=sgd", "--model.learning_rate=20", "--model.weight_decay=0"]
TRAINING += ["--trainer.gradient_clip_val=0.25", "--trainer.max_epochs=1", "--seed_everything=1111"]
OUTPUTS = {
    "lightning_seq": ["--model.tie_weights=true"],
    "lightning_seq, adaptive softmax": ["--model.adaptive_cutoffs=[2000,8000]"],
}
PROTOCOL = (
    "Its default LSTM, 2 layers of 200, tied, {words:,} words, {tokens:,} tokens to train on; one epoch of "
    "{rows} x {steps}, SGD at 20, gradients clipped at 0.25, dropout 0.2. tokens/s: of training alone, as "
    "logged. seconds: the whole process; its own evaluates the test text, too. perplexity: of the test text, "
    "read as one stream (its own in 10 parts)."
)


def measure(options):
    """Yields the table."""
    corpus = options.wikitext or options.word_language_model / "data/wikitext-2"
    corpus = corpus.resolve()
    texts = {
        name: (corpus / f"{name}.txt").read_text(encoding="utf-8") for name in ("train", "valid", "test")
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tokenizer = build_tokenizer("word", texts.values())  # it has a number for each word of all three
        tokenizer.save(str(place / "words.json"))
        theirs = options.word_language_model.resolve()
        contenders = {"word_language_model": lambda: _theirs(theirs, corpus, place)}
        for name, output in OUTPUTS.items():
            contenders[name] = lambda output=output: _ours(output, corpus, place)
        protocol = PROTOCOL.format(
            words=tokenizer.get_vocab_size(), tokens=len(texts["train"].split()), rows=ROWS, steps=STEPS
        )
        table = Table("An epoch of words, CPU", protocol, "tokens/s", False, "word_language_model")
        yield in_turns(table, contenders, options.rounds)


def _theirs(directory, corpus, place):
    words = ["--tied", "--epochs=1", "--log-interval=50", f"--data={corpus}", f"--save={place / 'model.pt'}"]
    said = []
    seconds = timed([sys.executable, "-u", "main.py", *words], directory, os.environ, said.append)
    a_batch = median(float(each) for each in re.findall(r"ms/batch +([\d.]+)", said[0]))
    perplexity = float(re.findall(r"test ppl +([\d.]+)", said[0])[-1])
    return {"tokens/s": 1000 * ROWS * STEPS / a_batch, "seconds": seconds, "perplexity": perplexity}


def _ours(output, corpus, place):
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    environment = {**os.environ, "LIGHTNING_SEQ_CACHE": str(place / "cache")}
    shutil.rmtree(place / "cache", ignore_errors=True)
    files = zip(("path", "val_path", "test_path"), SPLITS, strict=True)
    data = [f"--data.{option}={corpus / name}.txt" for option, name in files]
    data += [f"--data.tokenizer={place / 'words.json'}", f"--data.batch_size={ROWS}"]
    words = [*LSTM, *output, *TRAINING, "--data=TextDataModule", *data, f"--data.context_length={STEPS}"]
    command = [sys.executable, "-m", "lightning_seq", "fit", *words, "--run_dir", run]
    seconds = timed(command, place, environment)
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row["tokens_per_second"]) for row in rows if row["tokens_per_second"]]
    loss = evaluated(run / "checkpoints/last.ckpt", corpus / "test.txt", "stream")
    return {"tokens/s": median(speeds), "seconds": seconds, "perplexity": math.exp(loss)}
