"""What an earlier run left of a stream's results, frame by frame, for a run that goes on.

PNGs stay as they are. Videos and the bag are written anew: pictures from the labels in the PNGs, the confidence, which is in
the bag alone, from the bag that the earlier run left, whole or cut off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import InputError, OutputError
from lmanet_core.files import output_errors
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import GeometryPlan, Size
from lmanet_core.labels import LabelSet
from lmanet_core.media.bag import DAMAGE, deserialize, header_stamp_ns
from lmanet_core.media.bag_files import METADATA, BagFiles
from lmanet_core.media.bag_sink import CONFIDENCE_TOPIC
from lmanet_core.media.output import SINK_FILES
from lmanet_core.media.sinks import png_name, safe_name

#: Where the bag of the earlier run lies while its successor is written.
EARLIER_BAG = "earlier_result"


class KeptResults:
    """Results of an earlier run in a folder; its bag is moved aside.

    Args:
        out: the folder.
        kinds: which of `SINK_KINDS` the run writes that goes on.
        label_set: of the results.

    Raises:
        OutputError: the earlier bag cannot be moved.
    """

    def __init__(self, out: Path, kinds: Collection[str], label_set: LabelSet) -> None:
        self._labels, self._label_set = out / SINK_FILES["labels"], label_set
        self._beside = [out / SINK_FILES[kind] for kind in ("overlay_images", "color_images") if kind in kinds]
        if "masks" in kinds:
            self._beside += [out / SINK_FILES["masks"] / safe_name(group) for group in label_set.groups]
        self._confidences: Iterator[tuple[int, UInt8Array]] | None = None
        self._earlier = out / EARLIER_BAG
        if "bag" in kinds:
            _move_aside(out / SINK_FILES["bag"], self._earlier)
            self._confidences = _read_confidences(self._earlier)

    def of(self, frame: Frame, plan: GeometryPlan) -> FrameResult | None:
        """What was found of the next frame; None where a part of it is missing, and so of all frames behind it.

        Args:
            frame: of the stream, in order from the first one.
            plan: how its labels came to their size.
        """
        name = png_name(frame)
        labels = cv2.imread(str(self._labels / name), cv2.IMREAD_UNCHANGED) if (self._labels / name).is_file() else None
        if labels is None or Size(*labels.shape[:2]) != plan.output_size:
            return None
        if not all((folder / name).is_file() for folder in self._beside):
            return None
        confidence = None
        if self._confidences is not None:
            stamp_ns, confidence = next(self._confidences, (None, None))
            if confidence is None or stamp_ns != frame.stamp_ns or confidence.shape != labels.shape:
                return None
        return FrameResult(
            labels=np.asarray(labels, np.uint8),
            confidence=confidence,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            discontinuity=None,
            memory_frames=0,
            remembered=False,
            geometry=plan,
            label_set=self._label_set,
            image=frame.image,
        )

    def finish(self) -> None:
        """Remove the earlier bag, whose successor is whole now; raises OutputError."""
        _remove_bag(self._earlier)


def _move_aside(bag: Path, earlier: Path) -> None:
    """Of two, where a run that went on was killed too, the larger is kept: both begin with the same frames."""
    with output_errors(bag):
        if bag.is_dir() and earlier.is_dir():
            _remove_bag(min(bag, earlier, key=lambda one: sum(file.stat().st_size for file in one.iterdir())))
        if bag.is_dir():
            bag.rename(earlier)


def _remove_bag(bag: Path) -> None:
    with output_errors(bag):
        for file in (*bag.glob("*.mcap"), bag / METADATA):
            file.unlink(missing_ok=True)
        if bag.is_dir() and any(bag.iterdir()):
            raise OutputError(f"{bag} holds {next(bag.iterdir()).name}, which lmanet did not write; move it elsewhere")
        if bag.is_dir():
            bag.rmdir()


def _read_confidences(bag: Path) -> Iterator[tuple[int, UInt8Array]]:
    """Stamp and (H, W) uint8 of each message up to the first that is damaged."""
    try:
        files = BagFiles(bag, lambda why: None)
    except (InputError, OSError):  # none, or nothing in it
        return
    try:
        for raw in files.messages({CONFIDENCE_TOPIC} & set(files.topics)):
            message = deserialize(raw)
            yield header_stamp_ns(message), np.asarray(message.data, np.uint8).reshape(message.height, message.width)
    except DAMAGE:
        return
    finally:
        files.close()
