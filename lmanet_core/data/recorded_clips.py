"""Clips out of recordings, with soft labels that no person made: what `lmanet_core.adaptation` keeps on disk to train on.

    ROOT/clips.json       classes, size, seconds from frame to frame; the clips: a frame, and those before it, oldest first
    ROOT/frames/NAME.jpg  as the network sees them
    ROOT/soft/NAME.png    the likeliest classes of each pixel with their shares, see `pack_soft`
    ROOT/certain/NAME.png how sure the likeliest class is, of 255
    ROOT/labels/NAME.png  the likeliest class of each pixel, 255 where the teacher is not sure enough

Frames that only come before others have no labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array, UInt16Array
from lmanet_core.data.camera_motion import MotionConfig, move_still, past_homographies
from lmanet_core.data.clips import Clip, ClipSource
from lmanet_core.data.files import read_image, read_label_ids
from lmanet_core.errors import InputError
from lmanet_core.files import replace_file
from lmanet_core.geometry import Size
from lmanet_core.labels import UNLABELLED, LabelSet

KINDS = 3  # classes kept of each pixel
_LIST = "clips.json"


@dataclass(frozen=True)
class ClipList:
    """`clips.json`.

    Attributes:
        labels: the classes.
        size: of frames and label maps.
        interval_s: from one frame of a clip to the next, as is usual in the recordings; 0 for stills.
        clips: the frames of each, by name, oldest first; the last one has labels.
        following: the frames after the last one of each, for who labels it.
        stamps_ns: of the last frames.
    """

    labels: LabelSet
    size: Size
    interval_s: float
    clips: tuple[tuple[str, ...], ...]
    following: tuple[tuple[str, ...], ...]
    stamps_ns: tuple[int, ...]

    def write(self, root: Path) -> None:
        """Raises OutputError."""
        content = {**asdict(self), "labels": self.labels.to_dict(), "size": list(self.size)}
        with replace_file(root / _LIST) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, root: Path) -> ClipList:
        """Raises InputError where there is none, or none that can be understood."""
        path = root / _LIST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            clips, following = (tuple(tuple(map(str, names)) for names in content[key]) for key in ("clips", "following"))
            return cls(
                labels=LabelSet.from_dict(content["labels"]),
                size=Size(*content["size"]),
                interval_s=float(content["interval_s"]),
                clips=clips,
                following=following,
                stamps_ns=tuple(int(stamp) for stamp in content["stamps_ns"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a list of clips as lmanet adapt writes it ({error})") from error


class RecordedClips(ClipSource):
    """Clips as the module lays them out; the frames before a labelled one are real, but for those of a still.

    Args:
        root: see the module.

    Attributes:
        list: what there is.

    Raises:
        InputError: no list of clips, or an empty one.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.list = Path(root), ClipList.read(Path(root))
        self.labels, self.size, self.interval_s = self.list.labels, self.list.size, self.list.interval_s
        if not self.list.clips:
            raise InputError(f"the set is empty: no clips in {self.root}")

    def __len__(self) -> int:
        return len(self.list.clips)

    def name(self, index: int) -> str:
        """See `ClipSource`."""
        return self.list.clips[index][-1]

    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """See `ClipSource`; the past of a still is made up."""
        names = self.list.clips[index]
        kept = [names[max(0, len(names) - 1 - back * stride)] for back in range(frames - 1, -1, -1)]
        images = np.stack([self.image(name) for name in kept])
        if len(names) == 1:
            void = np.full(self.size, UNLABELLED, np.uint8)
            maps = past_homographies(*self.size, frames, stride, MotionConfig(), rng)[:-1]
            images[:-1] = [move_still(images[-1], void, homography)[0] for homography in maps]
        labels = np.full(images.shape[:3], UNLABELLED, np.uint8)
        own = self.root / "labels" / f"{names[-1]}.png"
        if not own.is_file():
            return Clip(images, labels)
        labels[-1] = read_label_ids(own)
        return Clip(images, labels, self.soft(names[-1]))

    def label_map(self, index: int) -> UInt8Array | None:
        """See `ClipSource`."""
        return read_label_ids(self.root / "labels" / f"{self.name(index)}.png")

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`."""
        for names in self.list.clips:
            last = names[-1]
            files = [self.root / "frames" / f"{name}.jpg" for name in names]
            for path in (*files, self.root / "labels" / f"{last}.png", self.root / "soft" / f"{last}.png"):
                if not path.is_file():
                    yield f"missing {path}"

    def image(self, name: str) -> UInt8Array:
        """(H, W, 3) uint8 RGB; raises InputError."""
        return read_image(self.root / "frames" / f"{name}.jpg")

    def certain(self, name: str) -> UInt8Array:
        """(H, W) uint8, how sure the likeliest class is, of 255; raises InputError."""
        return read_label_ids(self.root / "certain" / f"{name}.png")

    def soft(self, name: str) -> UInt8Array:
        """(2 K, H, W) uint8, see `unpack_soft`; raises InputError."""
        path = self.root / "soft" / f"{name}.png"
        words = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if words is None or words.dtype != np.uint16 or words.shape != (*self.size, KINDS):
            raise InputError(f"{path}: wanted soft labels of {self.size}; remove the folder, and adapt once more")
        return unpack_soft(np.asarray(words, np.uint16))


class Replayed(ClipSource):
    """Clips out of recordings, and among them others with labels of people, so that those are not forgotten.

    Args:
        clips: out of recordings.
        stills: with the same classes.
        share: of the stills among all, 0–1; each comes as often as that takes.

    Raises:
        InputError: the stills have other classes.
    """

    def __init__(self, clips: ClipSource, stills: ClipSource, share: float) -> None:
        if stills.labels.names != clips.labels.names:
            wanted, got = (", ".join(one.labels.names[:4]) for one in (clips, stills))
            raise InputError(f"labelled stills must have the classes of the weights ({wanted}, …), got {got}, …")
        self.labels, self.size = clips.labels, clips.size
        self._clips, self._stills = clips, stills
        self._count = max(1, round(len(clips) * share / (1.0 - share)))

    def __len__(self) -> int:
        return len(self._clips) + self._count

    def name(self, index: int) -> str:
        """See `ClipSource`."""
        source, own = self._of(index)
        return source.name(own)

    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """See `ClipSource`; of more stills than there is room for, one is drawn."""
        source, own = self._of(index)
        if source is self._clips:
            return source.clip(own, frames, stride, rng)
        clip = source.clip(int(rng.integers(len(source))) if len(source) > self._count else own, frames, stride, rng)
        return clip._replace(soft=sure(clip.labels[-1]))

    def label_map(self, index: int) -> UInt8Array | None:
        """See `ClipSource`."""
        source, own = self._of(index)
        return source.label_map(own)

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`."""
        yield from self._clips.problems(frames, stride, deep)
        yield from self._stills.problems(frames, stride, deep)

    def _of(self, index: int) -> tuple[ClipSource, int]:
        if index < len(self._clips):
            return self._clips, index
        return self._stills, (index - len(self._clips)) % len(self._stills)


def pack_soft(classes: UInt8Array, shares: UInt8Array) -> UInt16Array:
    """What a file of soft labels holds: (K, H, W) uint8 classes and shares of 255 → (H, W, K) uint16, class · 256 + share."""
    return np.ascontiguousarray(((classes.astype(np.uint16) << 8) | shares).transpose(1, 2, 0))


def unpack_soft(words: UInt16Array) -> UInt8Array:
    """The inverse as one stack, (2 K, H, W) uint8: K classes, then their shares of 255."""
    planes = words.transpose(2, 0, 1)
    return np.ascontiguousarray(np.concatenate((planes >> 8, planes & 0xFF)).astype(np.uint8))


def sure(labels: UInt8Array) -> UInt8Array:
    """(H, W) labels that are beyond doubt, as `unpack_soft` gives them."""
    soft = np.zeros((2 * KINDS, *labels.shape), np.uint8)
    soft[0], soft[KINDS] = labels, 255
    return soft
