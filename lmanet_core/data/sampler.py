"""Which clips make up which batch: a function of the seed and the batch's number, so that a run can go on anywhere.

The stream of clips is one shuffled round of the set after the other. Batch n is its clips n·B … n·B + B − 1; with several
processes each takes every so-many-th of them, so that together they see what one process would.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Key = tuple[int, int]


class BatchStream(Sampler[list[Key]]):
    """Batches `start` … `stop` − 1 of the stream, as lists of (round, index).

    Args:
        clips: in the set.
        batch_size: B, of all processes together; divisible by `processes`.
        seed: of the shuffling.
        start, stop: range of batch numbers.
        process, processes: which share of each batch.
    """

    def __init__(
        self, clips: int, batch_size: int, seed: int, start: int, stop: int, process: int = 0, processes: int = 1
    ) -> None:
        self._clips, self._batch_size, self._seed = clips, batch_size, seed
        self._start, self._stop = start, stop
        self._process, self._processes = process, processes
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in range(self._start, self._stop):
            first = batch * self._batch_size
            yield [self._key(first + offset) for offset in range(self._process, self._batch_size, self._processes)]

    def _key(self, position: int) -> Key:
        turn, place = divmod(position, self._clips)
        if turn not in self._orders:
            self._orders = {turn: np.random.default_rng((self._seed, turn)).permutation(self._clips)}
        return turn, int(self._orders[turn][place])
