"""Text that is read as it is needed: who reads what of it, and where one stands in it."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lightning_seq.data.sources.documents import Split
from lightning_seq.data.streaming.shards import Shards
from lightning_seq.data.tokenization.encoding import encode
from lightning_seq.errors import InputError

HELD_OUT_ONE_IN = 100

State = dict[str, int | None]
START: State = {"pass": 0, "unit": 0, "row": 0, "document": 0, "token": 0, "carry": None}
Place = tuple[int, int]  # a unit of a share, and a row of it


def part_of(text: str, held_out: Sequence[Split]) -> Split:
    """Says by its content alone in which split a text is: one in a hundred in each that is held out."""
    number = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    chosen = int.from_bytes(number, "little") % HELD_OUT_ONE_IN
    return held_out[chosen] if chosen < len(held_out) else "train"


class Window(NamedTuple):
    """Consecutive tokens, where in them documents begin, and how to go on behind them."""

    tokens: npt.NDArray[np.uint32]
    beginnings: npt.NDArray[np.int64]
    state: State


@dataclass(frozen=True)
class Stream:
    """Training documents without end: one pass after another over a share of the text.

    Args:
        shards: The text.
        held_out: The splits that take their documents out of it.
        shuffle_buffer: Documents to read and shuffle at once; 0 for the order in which they come.
        seed: Of that shuffling.
        index: Which of the shares: no document is in two.
        of: How many shares there are.
    """

    shards: Shards
    held_out: Sequence[Split] = ()
    shuffle_buffer: int = 0
    seed: int = 0
    index: int = 0
    of: int = 1

    def documents(self, state: State) -> Iterator[tuple[State, str]]:
        """Yields documents, each with where it is read again.

        Args:
            state: Where to begin: at the document that came with it.
        """
        pass_, unit, row, skipped = (state[key] or 0 for key in ("pass", "unit", "row", "document"))
        while True:
            empty = (unit, row) == (0, 0)
            for place, texts in self._chunks(pass_, (unit, row)):
                empty = False
                if self.shuffle_buffer:
                    texts = [texts[i] for i in self._permutation(len(texts), pass_, *place)]
                here = {**START, "pass": pass_, "unit": place[0], "row": place[1]}
                for document, text in enumerate(texts[skipped:], skipped):
                    yield {**here, "document": document}, text
                skipped = 0
            if empty:
                raise self._without_text()
            pass_, unit, row, skipped = pass_ + 1, 0, 0, 0

    def _chunks(self, pass_: int, start: Place) -> Iterator[tuple[Place, list[str]]]:
        """Yields the texts that are shuffled at once, from ``start`` on, each time with where they begin."""
        place, texts = start, list[str]()
        for behind, text in self._rows(pass_, start):
            texts.append(text)
            if len(texts) >= self.shuffle_buffer:
                yield place, texts
                place, texts = behind, []
        if texts:
            yield place, texts

    def _rows(self, pass_: int, start: Place) -> Iterator[tuple[Place, str]]:
        """Yields the texts from ``start`` on, each with the place behind it."""
        # As many whole files for each share as there are; the rest, or all of too few, by rows.
        whole = len(self.shards) // self.of * self.of
        units = [(shard, 1, 0) for shard in range(self.index, whole, self.of)]
        units += [(shard, self.of, self.index) for shard in range(whole, len(self.shards))]
        if self.shuffle_buffer:
            units = [units[i] for i in self._permutation(len(units), pass_)]
        unit, row = start
        for i, (shard, step, offset) in enumerate(units[unit:], unit):
            for number, text in self.shards.texts(shard, row if i == unit else 0):
                if text and number % step == offset and part_of(text, self.held_out) == "train":
                    yield (i, number + 1), text

    def _permutation(self, length: int, *what: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, self.index, *what]).permutation(length)

    def _without_text(self) -> InputError:
        files = f"{len(self.shards)} file{'s' if len(self.shards) != 1 else ''}"
        return InputError(
            f"the training stream has {files} and no text for share {self.index + 1} of {self.of}, one for "
            "each rank and each of its num_workers; use fewer of these, or a dataset of more rows"
        )


def windows(
    documents: Iterable[tuple[State, str]], tokenizer: Tokenizer, length: int, state: State
) -> Iterator[Window]:
    """Packs documents into windows of tokens, each of which begins with the last of the one before.

    Args:
        documents: The documents from ``state`` on, and where each is read again.
        tokenizer: Tokenizes them.
        length: Tokens of a window.
        state: Where to begin; that of a window goes on behind it.
    """
    carry, consumed = state["carry"], state["token"] or 0
    tokens, beginnings = np.empty(length, dtype=np.uint32), list[int]()
    filled = 0 if carry is None else 1
    tokens[:filled] = carry or 0
    silent: int | None = None  # the pass that the last token is of, where documents since had none
    for here, ids in _encoded(documents, tokenizer):
        pass_ = here["pass"] or 0
        silent = None if len(ids) else pass_ if silent is None else silent
        if silent is not None and pass_ > silent + 1:
            raise InputError(
                "the tokenizer has no ids for any document of a whole pass over the training stream; give "
                "text that is more than white space, or another tokenizer"
            )
        if consumed == 0:
            beginnings.append(filled)
        while consumed < len(ids):
            taken = ids[consumed : consumed + length - filled]
            tokens[filled : filled + len(taken)] = taken
            filled, consumed = filled + len(taken), consumed + len(taken)
            if filled == length:
                carry = int(tokens[-1])
                yield Window(
                    tokens, np.array(beginnings, np.int64), {**here, "token": consumed, "carry": carry}
                )
                tokens, beginnings, filled = np.empty_like(tokens), [], 1
                tokens[0] = carry
        consumed = 0


def _encoded(
    documents: Iterable[tuple[State, str]], tokenizer: Tokenizer
) -> Iterator[tuple[State, npt.NDArray[np.uint32]]]:
    waiting: deque[State] = deque()  # tokenizers take some texts ahead

    def texts() -> Iterator[str]:
        for here, text in documents:
            waiting.append(here)
            yield text if text.endswith("\n") else text + "\n"

    for _, ids in encode(tokenizer, texts(), num_proc=1, progress=False):
        yield waiting.popleft(), ids
