"""Random numbers by number of sample: the same ones whatever was drawn before, on any rank, in any order."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
_Bits = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """The random numbers of some samples: a pure function of (seed, stream, sample, number of the draw).

    A counter is hashed by splitmix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195), whole
    arrays at once: a generator made for each sample would cost more than the sample does.

    Args:
        seed: Of everything.
        stream: Which of the sources that have nothing to do with one another.
        samples: The samples' numbers (rows,).
    """

    def __init__(self, seed: int, stream: int, samples: Numbers) -> None:
        source = _mix(_mix(np.array([seed % 2**64], np.uint64) + _GOLDEN) + np.uint64(stream))
        self._keys = _mix(_mix(samples.astype(np.uint64) + source))[:, None]  # (rows, 1)
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, count: int) -> _Bits:
        """Returns the next ``count`` numbers of 64 bits of each sample, (rows, count)."""
        counter = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
        self._drawn += count
        return _mix(self._keys + counter * _GOLDEN)

    def below(self, bound: int, count: int) -> Numbers:
        """Returns ``count`` numbers from 0 to ``bound - 1``, (rows, count).

        They are uniform but for a bias of ``bound / 2**32``.
        """
        high = self.bits(count) >> np.uint64(32)
        return (high * np.uint64(bound) >> np.uint64(32)).astype(np.int64)

    def permutations(self, size: int) -> Numbers:
        """Returns a random order of 0 to ``size - 1`` for each sample, (rows, size)."""
        return self.bits(size).argsort(1)


def _mix(x: _Bits) -> _Bits:
    """Splitmix64's finalizer: every bit of the result depends on every bit of ``x``."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
