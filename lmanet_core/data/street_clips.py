"""The generated street as training data: every frame has labels, and its past is what the camera really saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lmanet_core import __version__
from lmanet_core.arrays import UInt8Array
from lmanet_core.data.clips import Clip, ClipSource
from lmanet_core.errors import ConfigError
from lmanet_core.files import output_errors, replace_file
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import DEGRADATIONS, Degradation, Street, StreetConfig

_OPEN_STREETS = 12  # in memory at a time, some megabytes each
_DRIVE_FRAMES = 600  # a drive's clips end within its first minute


@dataclass(frozen=True)
class StreetSource(ClipSource):
    """Clips of generated drives, in the order in which the towns are driven through: that is the fast order to make them.

    Clip `index` is the same in every round, so that rendered frames can be kept.

    Attributes:
        size: of frames and label maps.
        count: number of clips.
        seeds: how many towns.
        first_seed: seed of the first town; the sets of training and validation must not overlap.
        degradations: one of these for each clip: "rain" at a level drawn from 1 to `max_level`, "rain3" at level 3.
        max_level: of the degradation.
        fps: frames a second.
        cache: folder that keeps rendered frames (H · W · 4 bytes each); None renders them every time.

    Raises:
        ConfigError: a value out of range.
    """

    size: Size
    count: int
    seeds: int = 64
    first_seed: int = 0
    degradations: Sequence[str] = ("none",)
    max_level: int = 3
    fps: float = 10.0
    cache: Path | None = None
    labels = CITYSCAPES

    def __post_init__(self) -> None:
        if self.count < 1 or self.seeds < 1 or self.first_seed < 0 or not self.degradations:
            raise ConfigError("a street set has at least 1 clip, 1 seed and 1 degradation")
        if self.max_level < 1:
            raise ConfigError(f"street level must be 1 or more, got {self.max_level}")
        for text in self.degradations:
            kind, level = parse_degradation(text)
            given = self.max_level if level is None else level
            StreetConfig(*self.size[::-1], fps=self.fps, degradation=kind, level=given)  # refuses what is wrong

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """See `ClipSource`."""
        config, last = self._place(index)
        return f"street {config.seed} frame {last} ({config.degradation})"

    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """See `ClipSource`; every frame has its labels. Before the start of a drive its first frame stands still."""
        config, last = self._place(index)
        made = [self._frame(config, max(0, last - back * stride)) for back in range(frames - 1, -1, -1)]
        stacked = np.stack(made)
        return Clip(stacked[..., :3], stacked[..., 3])

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`: nothing can be missing."""
        return iter(())

    def prepare(self, index: int, frames: int, stride: int) -> None:
        """See `ClipSource`: renders what the cache lacks."""
        if self.cache is not None:
            self.clip(index, frames, stride, np.random.default_rng(0))

    def _place(self, index: int) -> tuple[StreetConfig, int]:
        rng = np.random.default_rng((self.first_seed, index))
        degradation, fixed = parse_degradation(self.degradations[int(rng.integers(len(self.degradations)))])
        drawn = int(rng.integers(1, self.max_level + 1))
        town, passed = divmod(index * self.seeds, self.count)
        within = (passed + self.seeds * float(rng.random())) / self.count  # of the drive; each clip has a stretch of its own
        last = int(min(within, 1.0) * (_DRIVE_FRAMES - 1))
        config = StreetConfig(
            *self.size[::-1],
            fps=self.fps,
            seed=self.first_seed + town,
            degradation=degradation,
            level=0 if degradation == "none" else drawn if fixed is None else fixed,
        )
        return config, last

    def _frame(self, config: StreetConfig, number: int) -> UInt8Array:
        """(H, W, 4) uint8: image and labels."""
        if self.cache is None:
            return _render(config, number)
        # The version, for a later one may draw another town.
        folder = self.cache / f"{self.size}-{self.fps:g}fps-{__version__}" / f"{config.seed}-{config.degradation}{config.level}"
        path = folder / f"{number}.npy"
        if path.is_file():
            return np.asarray(np.load(path, allow_pickle=False), np.uint8)
        frame = _render(config, number)
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file, file.open("wb") as open_file:
            np.save(open_file, frame)
        return frame


def parse_degradation(text: str) -> tuple[Degradation, int | None]:
    """Kind and level: "rain3" → ("rain", 3); "rain" → ("rain", None).

    Raises:
        ConfigError: no degradation of the street.
    """
    kind = text.rstrip("0123456789")
    if kind not in DEGRADATIONS or (kind == "none" and kind != text):
        known = ", ".join(DEGRADATIONS)
        raise ConfigError(f"a street degradation is one of {known}, with or without a level behind it (rain3), got {text!r}")
    return kind, int(text[len(kind) :]) if text != kind else None


@lru_cache(maxsize=_OPEN_STREETS)
def _street(config: StreetConfig) -> Street:
    return Street(config)


def _render(config: StreetConfig, number: int) -> UInt8Array:
    frame = _street(config).frame(number)
    return np.dstack((frame.image, frame.labels))
