"""What a labelled set holds of each class, told before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmanet_core.data.clips import ClipSource
from lmanet_core.data.stills import StillsSource
from lmanet_core.errors import InputError
from lmanet_core.labels import UNLABELLED

_MUCH_VOID = 0.5


@dataclass(frozen=True)
class ClassCounts:
    """Pixels by class.

    Attributes:
        names: of the classes.
        pixels: (classes,) int64.
        void: pixels of no class.
        maps: label maps that were counted.
        of: label maps that there are.
        by_file: whether a labels.yaml says what their values mean, which could say it otherwise.
    """

    names: tuple[str, ...]
    pixels: npt.NDArray[np.int64]
    void: int
    maps: int
    of: int
    by_file: bool = True

    @property
    def never(self) -> tuple[str, ...]:
        """Classes that do not occur."""
        return tuple(name for name, count in zip(self.names, self.pixels, strict=True) if not count)

    def describe(self) -> str:
        """Shares of the pixels, most frequent class first, in a line."""
        total = max(1, int(self.pixels.sum()) + self.void)
        shares = [(count / total, name) for name, count in zip(self.names, self.pixels, strict=True) if count]
        listed = [f"{name} {100 * share:.2g} %" for share, name in sorted(shares, key=lambda pair: -pair[0])]
        which = f"{self.maps} label maps" if self.maps == self.of else f"{self.maps} of {self.of} label maps"
        return f"{which}: {', '.join([*listed, f'void {100 * self.void / total:.2g} %'])}"

    def warnings(self) -> Iterator[str]:
        """What looks wrong, a line each."""
        total = int(self.pixels.sum()) + self.void
        if self.never:
            where = "" if self.maps == self.of else f" in {self.maps} of {self.of} label maps"
            yield f"never seen{where}: {', '.join(self.never)}"
        if self.by_file and len(self.never) == len(self.names) - 1 >= 1 and self.pixels[0] and self.void:
            first, second = self.names[:2]
            yield (
                f"label maps hold {first} and void alone; where they are masks of 0 and 255, labels.yaml has to say "
                f"ids: {{0: {first}, 255: {second}}}"
            )
        elif total and self.void / total > _MUCH_VOID:
            question = "; does labels.yaml name all ids of the label maps?" if self.by_file else ""
            yield f"{100 * self.void / total:.0f} % of the pixels are void{question}"


def count_classes(source: ClipSource, most: int | None = None) -> ClassCounts | None:
    """Count the label maps of a set; those that cannot be read are left out.

    Args:
        source: of the label maps.
        most: so many of them at most, evenly spread; None: all.

    Returns:
        None where the set makes its label maps up.
    """
    of = len(source)
    picked = np.unique(np.linspace(0, of - 1, min(of, most or of)).round().astype(int))
    counts, maps = np.zeros(256, np.int64), 0
    for index in picked:
        try:
            labels = source.label_map(int(index))
        except InputError:  # `problems` names it
            continue
        if labels is None:
            return None
        counts += np.bincount(labels.ravel(), minlength=256)
        maps += 1
    classes = len(source.labels.names)
    return ClassCounts(
        source.labels.names, counts[:classes], int(counts[UNLABELLED]), maps, of, isinstance(source, StillsSource)
    )
