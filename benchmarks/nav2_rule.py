"""How nav2's semantic segmentation layer makes costs of labels and points, in Python: for figures where nav2 is not installed.

Written from the layer's behaviour, as its README and its jazzy branch have it
(github.com/kiwicampus/semantic_segmentation_layer):

* Of the pixels of a frame that fall into a tile, the one whose class has the highest `max_cost` counts, the first of several.
* A tile keeps what it saw by class, each for `tile_map_decay_time`. A class takes the tile over where it was seen more often
  than the one that has it, or at once where it has `dominant_priority`; what was seen of other classes is forgotten then.
* The cost is the class's `max_cost` once it was seen `samples_to_max_cost` times with a mean confidence above
  `mark_confidence`, its `base_cost` until then. A tile of which nothing is left keeps its last cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Tile = tuple[int, int]


@dataclass
class Sights:
    """What a tile saw: class → (time in seconds, confidence 0–255), the oldest first; and the class that has the tile."""

    of_class: dict[int, deque[tuple[float, int]]] = field(default_factory=dict)
    owner: int = -1
    owned_by: int = 0  # sights

    def forget(self, before_s: float) -> bool:
        """Whether there was anything to forget."""
        if all(sights[0][0] >= before_s for sights in self.of_class.values()):
            return False
        for number in list(self.of_class):
            sights = self.of_class[number]
            while sights and sights[0][0] < before_s:
                sights.popleft()
            if not sights:
                del self.of_class[number]
        if self.owner not in self.of_class:
            self.owner = max(self.of_class, key=lambda number: len(self.of_class[number]), default=-1)
        self.owned_by = len(self.of_class[self.owner]) if self.owner >= 0 else 0
        return True

    def add(self, number: int, time_s: float, confidence: int, at_once: bool) -> None:
        sights = self.of_class.setdefault(number, deque())
        sights.append((time_s, confidence))
        if at_once or len(sights) > self.owned_by:
            if self.owner != number:
                self.of_class = {number: sights}
            self.owner, self.owned_by = number, len(sights)


class Layer:
    """The layer with one source.

    Args:
        source: its parameters.
        names: classes in the order of their ids.
        resolution_m: side of a tile.
    """

    def __init__(self, source: Mapping[str, Any], names: tuple[str, ...], resolution_m: float) -> None:
        self.costs: dict[Tile, int] = {}
        self._resolution = resolution_m
        self._near, self._far = source["min_obstacle_distance"], source["max_obstacle_distance"]
        self._decay_s = source["tile_map_decay_time"]
        self._by_cost = source["use_cost_selection"]
        kinds = {name: source[kind] for kind in source["class_types"] for name in source[kind]["classes"]}
        self._kinds = {number: kinds[name] for number, name in enumerate(names) if name in kinds}
        self._highest = np.zeros(256, np.int64)
        for number, kind in self._kinds.items():
            self._highest[number] = kind["max_cost"]
        self._tiles: dict[Tile, Sights] = {}
        self._changed: set[Tile] = set()

    def add(
        self,
        labels: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.uint8],
        points: npt.NDArray[np.float64],
        origin: npt.NDArray[np.float64],
        time_s: float,
    ) -> None:
        """A frame.

        Args:
            labels, confidence: (H, W).
            points: (H, W, 3) in the costmap's frame, metres; not finite where nothing was measured.
            origin: (3,) the camera there.
        """
        away = np.linalg.norm(points - origin, axis=-1)
        inside = np.isfinite(away) & (away > self._near) & (away < self._far)
        tiles = np.floor(points[inside][:, :2] / self._resolution).astype(np.int64)
        classes, sure = labels[inside], confidence[inside]
        rank = self._highest[classes] if self._by_cost else sure.astype(np.int64)
        order = np.lexsort((np.arange(len(rank)), -rank, tiles[:, 1], tiles[:, 0]))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(tiles[order], axis=0) != 0).any(1)
        self._forget(time_s)
        for at in order[first].tolist():
            number = int(classes[at])
            if number in self._kinds:
                tile = (int(tiles[at, 0]), int(tiles[at, 1]))
                sights = self._tiles.setdefault(tile, Sights())
                sights.add(number, time_s, int(sure[at]), self._kinds[number]["dominant_priority"])
                self._changed.add(tile)

    def update(self, time_s: float) -> None:
        """Bring `costs` up to date."""
        self._forget(time_s)
        for tile in self._changed:
            sights = self._tiles[tile]
            kind = self._kinds[sights.owner]
            many = sights.owned_by >= kind["samples_to_max_cost"]
            sure = sum(one for _, one in sights.of_class[sights.owner]) > kind["mark_confidence"] * sights.owned_by
            self.costs[tile] = kind["max_cost"] if many and sure else kind["base_cost"]
        self._changed.clear()

    def _forget(self, time_s: float) -> None:
        for tile in [tile for tile, sights in self._tiles.items() if sights.forget(time_s - self._decay_s)]:
            self._changed.add(tile)
            if self._tiles[tile].owner < 0:
                del self._tiles[tile]
                self._changed.discard(tile)
