"""A task that only looking for the previous occurrence solves: what an induction head does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_seq.data.batching.draws import Draws, Numbers
from lightning_seq.data.checks import at_least
from lightning_seq.data.memory_task import MemoryTask, Scored
from lightning_seq.data.memory_tasks import letters


class RepeatedSequence(MemoryTask):
    """Say random symbols again and again: ``c a d b c a d b c a``.

    An induction head solves it (Elhage et al. 2021,
    https://transformer-circuits.pub/2021/framework/index.html): find where the last symbol was said before,
    and say what followed. Each sample has a period of its own, so that looking back by a fixed number of
    tokens does not help, and symbols in an order of its own, so that there is nothing to learn by heart.
    Scored is what is determined: from the second symbol of the first repetition on. Chance is one in
    ``symbols``, and one in the period for who knows which symbols were said.

    Args:
        length: Symbols of a sample.
        min_period: Least number of symbols, all different, that are said before they are repeated.
        max_period: Most of them; each number between the two is as likely.
        symbols: How many different symbols there are.
        **kwargs: Batches, evaluation and seed, see MemoryTask.
    """

    def __init__(
        self, length: int = 64, min_period: int = 8, max_period: int = 32, symbols: int = 64, **kwargs: Any
    ) -> None:
        at_least(1, min_period=min_period)
        at_least(min_period, max_period=max_period)
        at_least(max_period, symbols=symbols)
        at_least(max_period + 2, length=length)
        super().__init__(**kwargs)
        self.length = length
        self.min_period = min_period
        self.max_period = max_period
        self.symbols = symbols

    @property
    def names(self) -> Sequence[str]:
        """Letters."""
        return letters(self.symbols)

    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns the first symbols of a random order, as many as the period, over and over."""
        period = self.min_period + draws.below(self.max_period - self.min_period + 1, 1)  # (rows, 1)
        order, place = draws.permutations(self.symbols), np.arange(self.length)
        return np.take_along_axis(order, place % period, 1), place > period
