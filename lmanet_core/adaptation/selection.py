"""Which frames of the recordings are learned from, and the clips around them on disk.

A first pass looks at every frame's thumbnail; those that differ most are chosen, so that an hour at a traffic light counts as
one frame. A second pass keeps them with their neighbours. Memory does not grow with the length of a recording.

    first frame ──── learned from ──────┊ gap ┊── held out ──── last frame
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.data.recorded_clips import ClipList
from lmanet_core.errors import InputError, OutputError
from lmanet_core.evaluation.session import CameraInput
from lmanet_core.files import replace_file
from lmanet_core.geometry import GeometryPlan, Size, resize_image
from lmanet_core.labels import LabelSet
from lmanet_core.media.source import FrameSource
from lmanet_core.stream.continuity import ContinuityMonitor

FOLLOWING = 3  # frames after each chosen one, for the teacher to look back from
_LOOK = Size(12, 16)  # thumbnail by which frames are compared
_LEAST_DIFFERENCE = 1.5  # grey levels, mean over the thumbnail; frames that differ by less are the same
_LEAST_CHOSEN = 4
_GAP_S, _GAP_SHARE = 1.0, 0.05  # between what is learned from and what is judged, the shorter of the two
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass
class Survey:
    """What a first pass saw of a recording.

    Attributes:
        camera: the recording.
        size: of its images; None before the first.
        stamps_ns: of its frames, as far as stamps go on; those of a damaged recording may repeat.
        begins: numbers of the frames that do not go on from the one before; of stills, all.
        unfit: numbers of the frames that no stream remembers: late, repeated, blind ones and flashes.
        looks: number of a frame → its thumbnail, of every so manyth frame.
    """

    camera: CameraInput
    size: Size | None = None
    stamps_ns: list[int] = field(default_factory=list)
    begins: set[int] = field(default_factory=set)
    unfit: set[int] = field(default_factory=set)
    looks: dict[int, UInt8Array] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (max(self.stamps_ns) - self.stamps_ns[0]) / 1e9

    def held_out_from_s(self, share: float) -> float:
        """Where the part that is judged begins, seconds after the first frame."""
        return self.seconds * (1.0 - share)

    def learned_frames(self, held_out: float) -> int:
        """How many frames, from the first on, are learned from."""
        if not held_out:
            return len(self.stamps_ns)
        end_s = self.held_out_from_s(held_out) - min(_GAP_S, _GAP_SHARE * self.seconds)
        elapsed = (np.array(self.stamps_ns) - self.stamps_ns[0]) / 1e9
        return int((elapsed < end_s).sum())


@dataclass(frozen=True)
class Moment:
    """A chosen frame.

    Attributes:
        survey: of its recording.
        number: of the frame in it.
        past, following: how many frames before and after it belong to the same stream.
    """

    survey: Survey
    number: int
    past: int
    following: int

    @property
    def window(self) -> range:
        """Numbers of all frames that are kept for it."""
        return range(self.number - self.past, self.number + self.following + 1)

    def name(self, number: int) -> str:
        """What a frame's files are called."""
        return f"{self.survey.camera.name}_{number:06d}"


def survey(
    camera: CameraInput, candidates: int, stills: bool, on_open: Callable[[int | None], None], advance: Callable[[], None]
) -> Survey:
    """Look at a recording once.

    Args:
        camera: what to look at.
        candidates: of how many frames the looks are kept, at least.
        stills: the images are no video.
        on_open, advance: for progress.

    Raises:
        InputError: no frames, or images of more than one size.
    """
    seen, monitor, stride = Survey(camera), ContinuityMonitor(), 1
    with camera.open(bits=16) as source:
        on_open(source.expected_frames)
        for number, frame in enumerate(source):
            size = Size(*frame.image.shape[:2])
            if seen.size not in (None, size):
                raise InputError(f"{camera.recording}: images of one size are wanted, got {seen.size} and then {size}")
            seen.size = size
            seen.stamps_ns.append(frame.stamp_ns)
            if stills:
                seen.begins.add(number)
            else:
                goes_on = monitor.check(frame.image, frame.stamp_ns, frame.frame_id, frame.after_loss)
                if goes_on.discontinuity is not None:
                    seen.begins.add(number)
                if not goes_on.remember:
                    seen.unfit.add(number)
            if number % stride == 0 and number not in seen.unfit:
                seen.looks[number] = resize_image(frame.image, _LOOK)
            if len(seen.looks) > 2 * candidates:
                stride *= 2
                seen.looks = {key: look for key, look in seen.looks.items() if key % stride == 0}
            advance()
    if not seen.stamps_ns:
        raise InputError(f"{camera.recording}: there are no frames in it")
    return seen


def choose(surveys: Sequence[Survey], count: int, past: int, held_out: float) -> list[Moment]:
    """The frames that differ most, in the order of the recordings.

    Args:
        surveys: of the recordings.
        count: at most.
        past: frames that must go before each; 0 for stills.
        held_out: share of each recording that is left out at its end.

    Raises:
        InputError: too few frames differ, or the recordings are too short.
    """
    moments, looks = [], []
    for seen in surveys:
        last = seen.learned_frames(held_out)
        for number, look in seen.looks.items():
            if number < last and _goes_on(seen, range(number - past, number + 1)):
                ends = range(number + 1, min(number + FOLLOWING, last - 1) + 1)
                after = next((end - number - 1 for end in ends if not _goes_on(seen, range(number, end + 1))), len(ends))
                moments.append(Moment(seen, number, past, after))
                looks.append(look)
    kept = _spread(np.array(looks, np.float32).reshape(len(looks), _LOOK.height * _LOOK.width * 3), count)
    if len(kept) < _LEAST_CHOSEN:
        frames = sum(len(seen.stamps_ns) for seen in surveys)
        names = ", ".join(seen.camera.recording.name for seen in surveys)
        raise InputError(
            f"{names}: wanted {_LEAST_CHOSEN} or more frames that differ, each with {past} before it in one stream, in the "
            f"first {100 * (1 - held_out):.0f} % of the recording; got {len(kept)} of {frames} frames. Record more, with the "
            "camera moving"
        )
    return [moments[index] for index in sorted(kept)]


def keep_clips(
    root: Path, moments: Sequence[Moment], plan: GeometryPlan, labels: LabelSet, advance: Callable[[], None]
) -> ClipList:
    """Write the frames of all moments, as the network sees them, and the list of clips.

    Raises:
        InputError: a recording that is not as it was.
        OutputError: no space, or not permitted.
    """
    for name in dict.fromkeys(moment.survey.camera.name for moment in moments):
        own = [moment for moment in moments if moment.survey.camera.name == name]
        wanted = {number for moment in own for number in moment.window}
        with own[0].survey.camera.open(bits=16) as source:
            _keep_frames(root / "frames", source, own[0], wanted, plan, advance)
    intervals = [interval for moment in moments for interval in _intervals(moment)]
    clips = ClipList(
        labels,
        plan.network_size,
        float(np.median(intervals)) / 1e9 if intervals else 0.0,
        tuple(tuple(m.name(n) for n in m.window[: m.past + 1]) for m in moments),
        tuple(tuple(m.name(n) for n in m.window[m.past + 1 :]) for m in moments),
        tuple(m.survey.stamps_ns[m.number] for m in moments),
    )
    clips.write(root)
    return clips


def _keep_frames(
    folder: Path, source: FrameSource, moment: Moment, wanted: set[int], plan: GeometryPlan, advance: Callable[[], None]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    left = set(wanted)
    for number, frame in enumerate(source):
        advance()
        if number in left:
            write_jpeg(folder / f"{moment.name(number)}.jpg", plan.to_network(frame.image))
            left.discard(number)
        if not left:
            return
    raise InputError(f"{source.path}: {len(left)} frames that were there a moment ago are gone; is it being written?")


def write_jpeg(path: Path, image: UInt8Array) -> None:
    """(H, W, 3) uint8 RGB; raises OutputError."""
    ok, packed = cv2.imencode(".jpg", image[..., ::-1], _JPEG)
    if not ok:
        raise OutputError(f"{path}: OpenCV cannot encode a JPEG of shape {image.shape}")
    with replace_file(path) as file:
        file.write_bytes(packed.tobytes())


def _goes_on(seen: Survey, window: range) -> bool:
    """Whether these frames are one stream, in which every one is of use."""
    whole = window.start >= 0 and not any(number in seen.unfit for number in window)
    return whole and not any(number in seen.begins for number in window[1:])


def _intervals(moment: Moment) -> Iterable[int]:
    stamps = moment.survey.stamps_ns
    numbers = moment.window[: moment.past + 1]
    return (stamps[after] - stamps[before] for before, after in pairwise(numbers))


def _spread(looks: Float32Array, count: int) -> list[int]:
    """Indices of rows, each the farthest from those before it, while it is far enough."""
    if not len(looks):
        return []
    kept = [0]
    distance = np.abs(looks - looks[0]).mean(1)
    while len(kept) < count:
        farthest = int(distance.argmax())
        if distance[farthest] < _LEAST_DIFFERENCE:
            break
        kept.append(farthest)
        distance = np.minimum(distance, np.abs(looks - looks[farthest]).mean(1))
    return kept
