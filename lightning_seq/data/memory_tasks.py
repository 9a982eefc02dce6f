"""Tasks that tell memories apart: copy, add, recall, and close brackets."""

from collections.abc import Sequence
from itertools import count, islice, product
from string import ascii_lowercase
from typing import Any

import numpy as np

from lightning_seq.data.batching.draws import Draws, Numbers
from lightning_seq.data.checks import at_least
from lightning_seq.data.memory_task import MemoryTask, Scored
from lightning_seq.errors import InputError

RECALL = "recall"


class CopyTask(MemoryTask):
    """Repeat a few symbols after a delay: ``c a b . . . . . recall c a b``.

    Hochreiter and Schmidhuber 1997 (https://doi.org/10.1162/neco.1997.9.8.1735), as Arjovsky et al. 2016
    (https://arxiv.org/abs/1511.06464) made it common. The symbols after "recall" are scored; chance is one
    in ``symbols``.

    Args:
        length: Symbols to remember.
        delay: Blanks between them and their recall.
        symbols: How many different symbols there are.
        **kwargs: Batches, evaluation and seed, see MemoryTask.
    """

    def __init__(self, length: int = 10, delay: int = 40, symbols: int = 8, **kwargs: Any) -> None:
        at_least(1, length=length, symbols=symbols)
        at_least(0, delay=delay)
        super().__init__(**kwargs)
        self.length = length
        self.delay = delay
        self.symbols = symbols

    @property
    def names(self) -> Sequence[str]:
        """Letters, the blank, and "recall"."""
        return [*letters(self.symbols), ".", RECALL]

    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns symbols, blanks, "recall" and the symbols again."""
        symbols = draws.below(self.symbols, self.length)
        between = np.full((len(draws), self.delay + 1), self.symbols)
        between[:, -1] += 1
        tokens = np.concatenate([symbols, between, symbols], 1)
        return tokens, np.arange(tokens.shape[1]) > self.length + self.delay


class AddingProblem(MemoryTask):
    """Add the two marked digits of many: ``3 7 4* 9 1 2* 5 = 0 6``.

    Hochreiter and Schmidhuber 1997 (https://doi.org/10.1162/neco.1997.9.8.1735), with digits for the real
    numbers and, as in Arjovsky et al. 2016 (https://arxiv.org/abs/1511.06464), one mark in each half. The
    two digits of the sum are scored; who remembers nothing finds a third of them.

    Args:
        length: Digits, two of them marked.
        **kwargs: Batches, evaluation and seed, see MemoryTask.
    """

    def __init__(self, length: int = 50, **kwargs: Any) -> None:
        at_least(2, length=length)
        super().__init__(**kwargs)
        self.length = length

    @property
    def names(self) -> Sequence[str]:
        """Digits, marked digits, and the equals sign."""
        digits = list(map(str, range(10)))
        return [*digits, *(f"{digit}*" for digit in digits), "="]

    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns the digits, "=", and the sum of those marked."""
        digits, half, rows = draws.below(10, self.length), self.length // 2, np.arange(len(draws))
        marks = np.stack([draws.below(half, 1)[:, 0], half + draws.below(self.length - half, 1)[:, 0]])
        total = digits[rows, marks].sum(0)
        digits[rows, marks] += 10
        answer = np.stack([np.full_like(total, 20), total // 10, total % 10], 1)
        tokens = np.concatenate([digits, answer], 1)
        return tokens, np.arange(tokens.shape[1]) > self.length


class AssociativeRecall(MemoryTask):
    """Give the value that came with each key: ``c 3 a 7 b 1 recall a 7 c 3``.

    Ba et al. 2016 (https://arxiv.org/abs/1610.06258), with several queries a sequence as in the MQAR of
    Arora et al. 2023 (https://arxiv.org/abs/2312.04927). The values after "recall" are scored; chance is one
    in ``values``, and one in ``pairs`` for who knows which values there were.

    Args:
        pairs: Keys and values to remember; no key comes twice.
        queries: How many of the keys are asked for, each once, in random order.
        keys: How many different keys there are.
        values: How many different values there are.
        **kwargs: Batches, evaluation and seed, see MemoryTask.
    """

    def __init__(
        self, pairs: int = 8, queries: int = 8, keys: int = 32, values: int = 32, **kwargs: Any
    ) -> None:
        at_least(1, pairs=pairs, queries=queries, keys=keys, values=values)
        for name, value, bound, most in (
            ("queries", queries, "pairs", pairs),
            ("pairs", pairs, "keys", keys),
        ):
            if value > most:
                raise InputError(
                    f"{name} is {value} and {bound} is {most}: no key comes twice, so give {name} of {most} "
                    f"or less, or {bound} of {value} or more"
                )
        super().__init__(**kwargs)
        self.pairs = pairs
        self.queries = queries
        self.keys = keys
        self.values = values

    @property
    def names(self) -> Sequence[str]:
        """Letters for keys, numbers for values, and "recall"."""
        return [*letters(self.keys), *map(str, range(self.values)), RECALL]

    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns the pairs, "recall", and some of the pairs again in another order."""
        keys = draws.permutations(self.keys)[:, : self.pairs]
        pairs = np.stack([keys, self.keys + draws.below(self.values, self.pairs)], 2)  # (rows, pairs, 2)
        asked = draws.permutations(self.pairs)[:, : self.queries]
        queries = np.take_along_axis(pairs, asked[:, :, None], 1)
        recall = np.full((len(draws), 1), self.keys + self.values)
        tokens = np.concatenate([pairs.reshape(len(draws), -1), recall, queries.reshape(len(draws), -1)], 1)
        behind = np.arange(tokens.shape[1]) - 2 * self.pairs
        return tokens, (behind > 0) & (behind % 2 == 0)


class DyckBrackets(MemoryTask):
    """Close the bracket that was opened last: ``( [ ] { ( ) } )``.

    The language Dyck-(k, m) of Hewitt et al. 2020 (https://arxiv.org/abs/2010.07515): well-nested brackets of
    k kinds, at most m deep. Closing brackets are scored, since what was opened determines them; chance is one
    in ``kinds``.

    Args:
        kinds: Kinds of brackets.
        depth: Most brackets that are open at once.
        length: Brackets of a sequence, an even number.
        **kwargs: Batches, evaluation and seed, see MemoryTask.
    """

    def __init__(self, kinds: int = 4, depth: int = 8, length: int = 64, **kwargs: Any) -> None:
        at_least(1, kinds=kinds, depth=depth)
        at_least(2, length=length)
        if length % 2:
            raise InputError(
                f"length is {length}, and every bracket is closed: give an even number, {length + 1}"
            )
        super().__init__(**kwargs)
        self.kinds = kinds
        self.depth = depth
        self.length = length

    @property
    def names(self) -> Sequence[str]:
        """Opening brackets, then closing ones in the same order."""
        opening = islice([*"([{<", *(f"({i}" for i in range(5, self.kinds + 1))], self.kinds)
        closing = islice([*")]}>", *(f"{i})" for i in range(5, self.kinds + 1))], self.kinds)
        return [*opening, *closing]

    def sequences(self, draws: Draws) -> tuple[Numbers, Scored]:
        """Returns brackets that open and close with equal chances wherever both are allowed."""
        opens, levels = self._walk(draws)
        # Of each level's brackets, taken in their order, every second one closes the one before it.
        order = levels.argsort(1, kind="stable")
        kinds = draws.below(self.kinds, self.length // 2)
        tokens = np.empty(opens.shape, np.int64)
        np.put_along_axis(tokens, order[:, 0::2], kinds, 1)
        np.put_along_axis(tokens, order[:, 1::2], self.kinds + kinds, 1)
        return tokens, ~opens

    def _walk(self, draws: Draws) -> tuple[Scored, Numbers]:
        """Returns which brackets open, and how many are open around each, both (rows, length)."""
        left = np.arange(self.length, 0, -1)[:, None, None]
        depth = np.arange(min(self.depth, self.length // 2) + 1)
        wish = np.array([[False], [True]])
        opens = (depth == 0) | (wish & (depth < np.minimum(left, depth[-1])))
        after = (depth + np.where(opens, 1, -1)).astype(np.int16)  # (length, 2, depths): what comes of each
        wishes = draws.below(2, self.length).T.copy()  # (length, rows): the loop reads rows
        depths = np.zeros((self.length + 1, len(draws)), np.int16)
        for i in range(self.length):
            depths[i + 1] = after[i][wishes[i], depths[i]]
        return (depths[1:] > depths[:-1]).T, np.minimum(depths[1:], depths[:-1]).T


def letters(number: int) -> list[str]:
    """Returns as many names as asked for: a to z, then aa, ab and so on."""
    words = ("".join(word) for size in count(1) for word in product(ascii_lowercase, repeat=size))
    return list(islice(words, number))
