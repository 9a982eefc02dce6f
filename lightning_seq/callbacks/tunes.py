"""TuneMonitor: whether the tunes that a model writes are music in ABC notation, and its own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from tokenizers import Tokenizer
from torch import nn

from lightning_seq import prompts
from lightning_seq.callbacks.probe import Entry, Example, Probe
from lightning_seq.errors import InputError
from lightning_seq.evaluation.abc_notation import Tune, read_tune
from lightning_seq.generation import check_sampling, generate
from lightning_seq.networks.base import check_sizes

WINDOW = 8  # notes: a bar of a reel
FIRST_SYMBOL = 0x4E00  # pitches become characters, so that tunes are searched as strings are


class TuneMonitor(Probe):
    """Lets the model write tunes in ABC notation at every validation, and says how much of them is music.

    The tunes are written at once, as the rows of a batch, and with the same seed each time; the last ones are
    in tunes.abc in the run directory, for any ABC player. Logged are

    - `tunes/valid_header`: the share of tunes whose header is whole and in order (X:, T:, ..., M:, ..., K:).
    - `tunes/valid_bars`: the share of bars whose notes and rests add up to the metre. The first and the last
      one of a section may be short.
    - `tunes/valid`: the share of tunes that come to their end, with a valid header and valid bars only.
    - `tunes/seen_windows`: the share of runs of 8 notes that are somewhere in the training tunes, in the same
      key; and `tunes/longest_copy`, the longest run, in notes, that a tune has from there. They are logged
      where the data has `documents("train")`.

    Attributes:
        history: What was logged, oldest first, each with `step`.
        tunes: The last tunes.

    Args:
        n_tunes: How many tunes to write.
        max_new_tokens: The most tokens of a tune; one that has not come to its empty line by then is cut.
        prompt: How each tune begins.
        temperature: Below 1 the model keeps to what it finds likely, above 1 it dares more.
        top_k: Choose among this many likeliest tokens only. All by default.
        top_p: Choose among the likeliest tokens that together have this probability. All by default.
        seed: Seed of the sampling; training draws from its own random numbers.
    """

    def __init__(
        self,
        n_tunes: int = 16,
        max_new_tokens: int = 600,
        prompt: str = "X:",
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        check_sizes(n_tunes=n_tunes, max_new_tokens=max_new_tokens)
        check_sampling(temperature, top_k, top_p)
        super().__init__(None, prompt=prompt)
        self.n_tunes, self.max_new_tokens, self.prompt = n_tunes, max_new_tokens, prompt
        self.sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}

    def reset(self) -> None:
        """Forgets the tunes, and those of the data."""
        super().reset()
        self.tunes: list[str] = []
        self._corpus: Corpus | None = None

    def take(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Example:
        """Returns the prompt's ids: it asks nothing of the batch."""
        tokenizer, network = (getattr(pl_module, name, None) for name in ("tokenizer", "network"))
        if not isinstance(tokenizer, Tokenizer) or not isinstance(network, nn.Module):
            raise InputError(
                f"{type(pl_module).__name__} has no tokenizer and network to write tunes with; expected a "
                "LanguageModel over text"
            )
        prompts.report_unknown(self.prompt, tokenizer)
        return {"prompt": torch.tensor(prompts.read(self.prompt, tokenizer))}

    def look(self, trainer: Trainer, pl_module: LightningModule, example: Example) -> Entry:
        """Writes tunes and measures them."""
        model: Any = pl_module
        tokens = example["prompt"].expand(self.n_tunes, -1)
        suppressed = getattr(model, "suppressed_tokens", ())
        rows = generate(
            model.network, tokens, self.max_new_tokens, **self.sampling, suppress_tokens=suppressed
        )
        written = [prompts.written(row, model.tokenizer) for row in rows.tolist()]
        found = [text.partition("\n\n") for text in written]
        self.tunes = [text if end else _up_to_last_bar_line(text) for text, end, _ in found]
        read = [read_tune(text) for text in self.tunes]
        bars = [bar for tune in read for bar in tune.bars]
        ended = [bool(end) for _, end, _ in found]
        entry = {
            "tunes/valid_header": _share(tune.valid_header for tune in read),
            "tunes/valid_bars": _share(bars),
            "tunes/valid": _share(tune.valid and end for tune, end in zip(read, ended, strict=True)),
        }
        return entry | self._overlap(trainer, read)

    def _overlap(self, trainer: Trainer, tunes: list[Tune]) -> dict[str, float]:
        documents = getattr(getattr(trainer, "datamodule", None), "documents", None)
        if documents is None:
            return {}
        if self._corpus is None:  # read once: a second for a thousand tunes
            self._corpus = Corpus(map(read_tune, documents("train")))
        return self._corpus.overlap(tunes)

    def show(self, trainer: Trainer, entry: Entry) -> None:
        """Writes the tunes to a file."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folders = (logger.log_dir for logger in trainer.loggers)
        folder = Path(next(filter(None, folders), trainer.default_root_dir))
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join([f"% step {entry['step']:,}", *self.tunes])
        (folder / "tunes.abc").write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")

    def pictures(self) -> dict[str, Any]:
        """Returns none."""
        return {}


class Corpus:
    """The notes of tunes, to find those of others in."""

    def __init__(self, tunes: Iterable[Tune]) -> None:
        self._symbols: dict[str, str] = {}
        self._notes = "\n".join(map(self._written, tunes))

    def _written(self, tune: Tune) -> str:
        """Returns a character for each pitch."""
        symbols = self._symbols
        return "".join(symbols.setdefault(each, chr(FIRST_SYMBOL + len(symbols))) for each in tune.pitches)

    def overlap(self, tunes: Iterable[Tune]) -> dict[str, float]:
        """Returns the share of windows of ``tunes`` that are found, and the longest run that is."""
        written = [self._written(tune) for tune in tunes]
        windows = [each[n : n + WINDOW] for each in written for n in range(len(each) - WINDOW + 1)]
        longest = max(map(self._longest_run, written), default=0)
        return {
            "tunes/seen_windows": _share(window in self._notes for window in windows),
            "tunes/longest_copy": float(longest),
        }

    def _longest_run(self, notes: str) -> int:
        longest = 0
        for start in range(len(notes)):
            while start + longest < len(notes) and notes[start : start + longest + 1] in self._notes:
                longest += 1
        return longest


def _up_to_last_bar_line(text: str) -> str:
    before, line, _ = text.rpartition("|")
    return before + line or text


def _share(found: Iterable[bool]) -> float:
    each = list(found)
    return sum(each) / len(each) if each else 0.0
