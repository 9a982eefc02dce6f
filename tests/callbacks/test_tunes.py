"""What a training logs of the tunes that its model writes."""

import csv

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_seq.callbacks import TuneMonitor
from lightning_seq.callbacks.tunes import Corpus
from lightning_seq.data import SequenceDataModule
from lightning_seq.errors import InputError
from lightning_seq.evaluation.abc_notation import read_tune
from lightning_seq.models import LSTMLanguageModel
from tests.evaluation.test_abc_notation import HEADER, TUNE


def tune_of(notes):
    return read_tune(HEADER + notes)


def test_overlap_with_other_tunes():
    corpus = Corpus([tune_of("ABcdefgabc'|d'8"), tune_of("CDEFGAB")])
    exact = corpus.overlap([tune_of("A4B4|c4d4|e4f4|g4a4|")])  # whatever the lengths
    assert exact == {"tunes/seen_windows": 1.0, "tunes/longest_copy": 8.0}
    half = corpus.overlap([tune_of("ABcdefga A"), tune_of("CDE")])
    assert half == {"tunes/seen_windows": 0.5, "tunes/longest_copy": 8.0}
    assert corpus.overlap([tune_of("^A^A")]) == {"tunes/seen_windows": 0.0, "tunes/longest_copy": 0.0}
    across = corpus.overlap([tune_of("c'd'CDEF")])  # not from one tune into the next
    assert across["tunes/longest_copy"] == 4.0


class Tunes(SequenceDataModule):
    """One tune, many times, so that it is soon learnt by heart."""

    def documents(self, split):
        return [TUNE] * (60 if split == "train" else 2)


def model():
    seed_everything(1, verbose=False)
    return LSTMLanguageModel(
        vocab_size=len(set(TUNE)) + 1, embedding_dim=16, hidden_size=64, learning_rate=0.02
    )


@pytest.fixture
def train(quiet_trainer, tmp_path):
    def train(*callbacks, max_steps=4, logger=False):
        data = Tunes(batch_size=4, context_length=32, cache_dir=str(tmp_path / "cache"))
        trainer = quiet_trainer(
            max_steps=max_steps,
            val_check_interval=2,
            log_every_n_steps=2,
            callbacks=list(callbacks),
            logger=logger,
        )
        module = model()
        trainer.fit(module, data)
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    return train


def test_what_is_logged_of_a_model_that_knows_its_tune(train, tmp_path):
    monitor = TuneMonitor(n_tunes=3, max_new_tokens=100, temperature=0)
    train(monitor, max_steps=60, logger=CSVLogger(tmp_path, "run", ""))
    untrained, last = monitor.history[0], monitor.history[-1]
    assert (untrained["step"], untrained["tunes/valid"]) == (0, 0.0)
    assert last == {
        "step": 60,
        "tunes/valid_header": 1.0,
        "tunes/valid_bars": 1.0,
        "tunes/valid": 1.0,
        "tunes/seen_windows": 1.0,
        "tunes/longest_copy": 24.0,  # all of its notes
    }
    assert monitor.tunes == [TUNE.rstrip("\n")] * 3
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["tunes/valid"]]
    assert float(logged[-1]["tunes/longest_copy"]) == 24.0
    assert (tmp_path / "run" / "tunes.abc").read_text().startswith(f"% step 60\n\n{TUNE}X:1\n")


def test_a_tune_that_does_not_end_is_measured_up_to_its_last_bar_line(train):
    monitor = TuneMonitor(n_tunes=2, max_new_tokens=45, temperature=0)
    train(monitor, max_steps=60)
    assert monitor.tunes == [TUNE[: TUNE.index("BAGF")]] * 2
    last = monitor.history[-1]
    assert (last["tunes/valid_bars"], last["tunes/valid"]) == (1.0, 0.0)


def test_a_resumed_training_measures_the_overlap_on(train):
    first, resumed = TuneMonitor(n_tunes=2, max_new_tokens=20), TuneMonitor(n_tunes=2, max_new_tokens=20)
    train(first)
    resumed.load_state_dict(first.state_dict())
    train(resumed)
    assert resumed.history[-1] == first.history[-1]
    assert "tunes/longest_copy" in resumed.history[-1]


def test_weights_are_bit_identical(train):
    assert torch.equal(train(), train(TuneMonitor(n_tunes=2, max_new_tokens=20)))


def test_tunes_are_the_same_whenever_they_are_asked_for(train):
    monitors = [TuneMonitor(n_tunes=2, max_new_tokens=20, seed=seed) for seed in (3, 3, 4)]
    for monitor in monitors:
        train(monitor)
    first, same, other = (monitor.tunes for monitor in monitors)
    assert first == same != other


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_model_without_text_is_told_of_and_trained(tiny, quiet_trainer):
    monitor = TuneMonitor()
    with pytest.warns(UserWarning, match="TuneMonitor logs nothing: TinyModel has no tokenizer"):
        quiet_trainer(max_steps=2, callbacks=[monitor]).fit(tiny())
    assert monitor.history == []


@pytest.mark.parametrize(
    "options", [{"n_tunes": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 2.0}]
)
def test_impossible_options_are_refused(options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        TuneMonitor(**options)
