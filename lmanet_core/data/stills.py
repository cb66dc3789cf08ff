"""A folder of labelled images, as clips: past frames made up from each still, or taken from the folder where it is a video.

    ROOT/images/NAME.{png,jpg,…}   ROOT/labels/NAME.png   ROOT/labels.yaml

`labels.yaml` says what the values of label images mean, see `lmanet_core.labels.encoding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lmanet_core.arrays import UInt8Array
from lmanet_core.data.camera_motion import MotionConfig, degrade, move_still, past_homographies
from lmanet_core.data.clips import Clip, ClipSource
from lmanet_core.data.exports import find_export
from lmanet_core.data.files import check_same_size, fit_image, image_size, read_image, read_label_ids, resize_labels
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.geometry import Size
from lmanet_core.labels import UNLABELLED
from lmanet_core.labels.encoding import KEYS, LabelEncoding, read_encoding
from lmanet_core.media.folder import IMAGE_SUFFIXES
from lmanet_core.media.label_files import LabelFiles


class LabelledImages(ClipSource):
    """Images with a label image each, as clips.

    Args:
        root: where they are, for messages.
        pairs: image and label image; those whose label image is missing are told by `problems`.
        encoding: what label images hold.
        size: of frames and label maps.
        motion: how past frames are made up; None: the images are one video in this order, past frames are its own.
        read: ids of a label image, (H, W) uint8; None: the file holds them.

    Raises:
        InputError: no images.
    """

    def __init__(
        self,
        root: Path,
        pairs: Sequence[tuple[Path, Path]],
        encoding: LabelEncoding,
        size: Size,
        motion: MotionConfig | None = MotionConfig(),  # noqa: B008 (frozen)
        read: Callable[[Path], UInt8Array] | None = None,
    ) -> None:
        if not pairs:
            raise InputError(f"the set is empty: no images in {root}")
        self.root, self.size, self.motion = root, size, motion
        self.labels, self._encoding = encoding.classes, encoding
        self._images = [image for image, _ in pairs]
        self._label_files = dict(pairs)
        self._read_ids = read or partial(read_label_ids, colors=encoding.colors)

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """See `ClipSource`."""
        return self._images[index].stem

    def clip(self, index: int, frames: int, stride: int, rng: np.random.Generator) -> Clip:
        """See `ClipSource`. Made-up past frames have labels too, void where the still does not reach."""
        if self.motion is None:
            return self._video_clip(index, frames, stride)
        image, labels = self._read(self._images[index])
        made = [
            move_still(image, labels, homography)
            for homography in past_homographies(*self.size, frames, stride, self.motion, rng)[:-1]
        ]
        images = np.stack([*(moved for moved, _ in made), image])
        return Clip(degrade(images, self.motion, rng), np.stack([*(moved for _, moved in made), labels]))

    def label_map(self, index: int) -> UInt8Array:
        """See `ClipSource`."""
        return self._read_labels(self._labels_of(self._images[index]))

    def problems(self, frames: int, stride: int, deep: bool) -> Iterator[str]:
        """See `ClipSource`."""
        for path in self._images:
            labels = self._labels_of(path)
            if not labels.is_file():
                yield f"missing: {labels} (label map of {path.name})"
            elif deep:
                try:
                    check_same_size(path, image_size(path), labels, image_size(labels))
                    self._read_labels(labels)
                except InputError as error:
                    yield str(error)

    def _video_clip(self, index: int, frames: int, stride: int) -> Clip:
        """Before the start of the video its first frame stands still."""
        indices = [max(0, index - back * stride) for back in range(frames - 1, -1, -1)]
        pairs = [self._read(self._images[i]) for i in indices]
        return Clip(np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs]))

    def _read(self, path: Path) -> tuple[UInt8Array, UInt8Array]:
        image, label_path = read_image(path), self._labels_of(path)
        labels = self._read_labels(label_path)
        check_same_size(path, Size(*image.shape[:2]), label_path, Size(*labels.shape))
        return fit_image(image, self.size), resize_labels(labels, self.size)

    def _labels_of(self, image: Path) -> Path:
        return self._label_files[image]

    def _read_labels(self, path: Path) -> UInt8Array:
        encoding = self._encoding
        ids = self._read_ids(path)
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
        outside = [int(value) for value in present if not encoding.known[value]]
        if outside:
            raise InputError(
                f"{path}: label values {', '.join(map(str, outside[:8]))} are outside the set "
                f"of {_in_short(encoding)}; name them in labels.yaml, under ids or ignore"
            )
        return np.take(encoding.table, ids)


class StillsSource(LabelledImages):
    """Labelled images of one folder: laid out as in the module, or an export of a labelling tool (see `exports`).

    Args:
        root: see the module.
        size: of frames and label maps.
        labels_file: `labels.yaml`; None: ROOT/labels.yaml, or what the export says.
        motion: how past frames are made up; None: the folder is one video in the order of its names, past frames are its own.
        exclude: images whose name this regular expression finds are left out.

    Raises:
        InputError: no images, images without label maps, or no usable `labels.yaml`.
        ConfigError: `exclude` is no regular expression.
    """

    def __init__(
        self,
        root: Path,
        size: Size,
        labels_file: Path | None = None,
        motion: MotionConfig | None = MotionConfig(),  # noqa: B008 (frozen)
        exclude: str | None = None,
    ) -> None:
        root = Path(root)
        export = None if (root / "images").is_dir() and (root / "labels").is_dir() else find_export(root)
        own = labels_file or root / "labels.yaml"
        if export is not None and labels_file is None and not own.is_file():
            encoding = encode(export.meaning, root)
        else:
            encoding = read_labels_file(own)
        pairs = _own_pairs(root, encoding.suffix) if export is None else export.pairs
        read = None if export is None else export.read
        super().__init__(root, _leave_out(pairs, exclude, root), encoding, size, motion, read)


def read_labels_file(path: Path) -> LabelEncoding:
    """What label images hold; raises InputError where the file is missing or not understood."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {path}: {why}; it lists the names, colors and ignored ids of the labels") from error
    known = (*KEYS, "prediction")  # the last for lmanet evaluate, which takes the same file
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise InputError(f"{path}: wanted the keys {', '.join(known)}, got {content!r:.200}")
    return encode(content, path)


def encode(content: Mapping[str, Any], path: Path) -> LabelEncoding:
    """`read_encoding` of what is said at `path`; raises InputError, which names it."""
    try:
        return read_encoding(content)
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error


def _in_short(encoding: LabelEncoding) -> str:
    """The ids that mean a class: "0–18", or the first of them."""
    ids = [int(value) for value in np.flatnonzero(encoding.table != UNLABELLED)]
    if ids == list(range(len(ids))):
        return f"0–{len(ids) - 1}"
    return ", ".join(map(str, ids[:6])) + (", …" if len(ids) > 6 else "")


def _own_pairs(root: Path, suffix: str) -> list[tuple[Path, Path]]:
    folder, labels = root / "images", root / "labels"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; wanted images/ and labels/ with files of the same names")
    images = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    files = LabelFiles(labels, suffix) if labels.is_dir() and any(labels.rglob("*.png")) else None
    return [(image, (files and files.of(image.stem)) or labels / f"{image.stem}.png") for image in images]


def _leave_out(pairs: Sequence[tuple[Path, Path]], exclude: str | None, root: Path) -> list[tuple[Path, Path]]:
    try:
        pattern = re.compile(exclude) if exclude else None
    except re.error as error:
        raise ConfigError(f"exclude must be a regular expression, got {exclude!r}: {error}") from error
    left = [(image, labels) for image, labels in pairs if pattern is None or not pattern.search(image.name)]
    if not left:
        raise InputError(f"the set is empty: {len(pairs)} images in {root}, {len(pairs)} of them excluded")
    return left
