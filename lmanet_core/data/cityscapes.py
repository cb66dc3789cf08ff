"""Cityscapes as published: `leftImg8bit`, `leftImg8bit_sequence`, `gtFine`, with nothing prepared beforehand.

The labelled frame is the 20th of 30; the frames before it are in `leftImg8bit_sequence`. labelIds become trainIds while they
are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.clips import Clip, ClipSource
from lmanet_core.data.files import check_same_size, fit_image, image_size, read_image, read_label_ids, resize_labels
from lmanet_core.errors import InputError
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES, UNLABELLED

#: labelIds of the 19 classes, in the order of their trainIds (cityscapesScripts, helpers/labels.py).
_EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_HIGHEST_ID = 33
_LABELS, _IMAGE = "_gtFine_labelIds.png", "_leftImg8bit.png"
_FRAMES_BEFORE = 19  # a sequence starts this many frames before the labelled one


def _train_ids() -> UInt8Array:
    table = np.full(256, UNLABELLED, np.uint8)
    table[list(_EVALUATED_IDS)] = np.arange(len(_EVALUATED_IDS), dtype=np.uint8)
    return table


@dataclass(frozen=True)
class _Labelled:
    city: str
    sequence: str
    frame: int

    def stem(self, frames_back: int = 0) -> str:
        return f"{self.city}_{self.sequence}_{self.frame - frames_back:06d}"


class CityscapesSource(ClipSource):
    """One split of Cityscapes.

    Args:
        root: folder that holds `leftImg8bit`, `gtFine` and, for clips, `leftImg8bit_sequence`.
        split: "train", "val", …
        size: of frames and label maps.
        unlabelled: share of clips that end at another frame of the sequence, which has no labels (its label map is void; a
            teacher can label it).

    Raises:
        InputError: nothing labelled in this split.
    """

    def __init__(self, root: Path, split: str, size: Size, unlabelled: float = 0.0) -> None:
        self.root, self.split, self.size, self.unlabelled = Path(root), split, size, unlabelled
        self.labels = CITYSCAPES
        self._table = _train_ids()
        folder = self.root / "gtFine" / split
        names = sorted(
            path.name.removesuffix(_LABELS) for path in folder.glob(f"*/[!.]*{_LABELS}")
        )  # not what macOS puts beside them
        if not names:
            what = "no label maps" if folder.is_dir() else "no such folder"
            raise InputError(f"Cityscapes split {split} is empty: {what} in {folder} (wanted CITY/*{_LABELS})")
        self._items = [_parse(name, folder) for name in names]

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """See `ClipSource`."""
        return self._items[index].stem()

    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """See `ClipSource`."""
        item = self._items[index]
        newest = 0
        if self.unlabelled and rng.random() < self.unlabelled:
            newest = int(rng.integers(0, max(0, _FRAMES_BEFORE - (frames - 1) * stride) + 1))
        paths = [self._frame_path(item, newest + back * stride) for back in range(frames - 1, -1, -1)]
        labels = np.full((frames, *self.size), UNLABELLED, np.uint8)
        images = [_read_frame(path) for path in paths]
        if newest == 0:
            label_path = self._label_path(item)
            ids = self._read_labels(label_path)
            check_same_size(paths[-1], Size(*images[-1].shape[:2]), label_path, Size(*ids.shape))
            labels[-1] = resize_labels(ids, self.size)
        return Clip(np.stack([fit_image(image, self.size) for image in images]), labels)

    def label_map(self, index: int) -> UInt8Array:
        """See `ClipSource`."""
        return self._read_labels(self._label_path(self._items[index]))

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`."""
        reach = (frames - 1) * stride
        if reach > _FRAMES_BEFORE:
            yield f"clips of {frames} frames with stride {stride} reach {reach} frames back; sequences have {_FRAMES_BEFORE}"
        backs = range(1, _FRAMES_BEFORE + 1) if stride > 1 or self.unlabelled else range(1, frames)
        for item in self._items:
            wanted = [0, *(back for back in backs if back <= reach or self.unlabelled)]
            missing = [path for path in (self._frame_path(item, back) for back in wanted) if not path.is_file()]
            yield from (f"missing: {path}" for path in missing)
            if deep and not missing:
                try:
                    image_path, label_path = self._frame_path(item, 0), self._label_path(item)
                    check_same_size(image_path, image_size(image_path), label_path, image_size(label_path))
                    self._read_labels(label_path)
                except InputError as error:
                    yield str(error)

    def _frame_path(self, item: _Labelled, frames_back: int) -> Path:
        folder = "leftImg8bit_sequence" if frames_back else "leftImg8bit"
        return self.root / folder / self.split / item.city / f"{item.stem(frames_back)}{_IMAGE}"

    def _label_path(self, item: _Labelled) -> Path:
        return self.root / "gtFine" / self.split / item.city / f"{item.stem()}{_LABELS}"

    def _read_labels(self, path: Path) -> UInt8Array:
        ids = read_label_ids(path)
        highest = int(ids[ids != UNLABELLED].max(initial=0))
        if highest > _HIGHEST_ID:
            raise InputError(f"{path}: labelIds are 0–{_HIGHEST_ID} (or 255), got {highest}; is this a file of another kind?")
        return np.take(self._table, ids)


def _parse(name: str, folder: Path) -> _Labelled:
    city, _, rest = name.partition("_")
    sequence, _, frame = rest.rpartition("_")
    if not sequence or not frame.isdigit():
        raise InputError(f"{folder}: wanted names like CITY_000000_000019{_LABELS}, got {name}{_LABELS}")
    return _Labelled(city, sequence, int(frame))


def _read_frame(path: Path) -> UInt8Array:
    if not path.is_file():
        raise InputError(
            f"missing frame {path}; `lmanet train … --check` lists all that are missing "
            "(frames before the labelled one are in leftImg8bit_sequence_trainvaltest.zip)"
        )
    return read_image(path)
