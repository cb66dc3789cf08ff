"""Score what a node published: label maps out of a bag, matched by stamp to the recording that the node was given.

The frames that the node segmented are segmented again here, in the same order and no others, so its memory is followed exactly:
that tells the resets, gives memory off on the same frames, and proves that the node runs the same code (`reproduced`). Frames
without a result were dropped. A result's latency is its time of recording minus its stamp.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmanet_core.arrays import UInt8Array
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.evaluation.session import CameraInput, Session, step_all
from lmanet_core.evaluation.truth import StampedTruth, TopicLabels
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import Size, plan_geometry

_EXACT_S = 1e-6  # the header of an image is copied to its result
_LONGEST_LATENCY_MS = 60_000.0
LABELS_TOPIC = "/segmentation/labels"


def run_recorded(session: Session) -> dict[str, float | None]:
    """Run a session over the frames that a node segmented, with the label maps of each camera's `results`.

    Returns:
        Figures for the report: `reproduced`, the share of pixels on which both agree.

    Raises:
        InputError: results that cannot be read, or that belong to no frame.
        ConfigError: a camera without results.
    """
    equal = pixels = 0
    for camera in session.cameras:
        published = _open_results(camera)
        segmenters = session.make_segmenters()
        with session.open(camera) as pairs:
            for frame, truth in pairs:
                labels = published.find(frame, None)
                if labels is None:
                    session.recorder.drop(camera.name, frame)
                else:
                    results = step_all(segmenters, frame)
                    main, own = next(iter(results.items()))
                    pixels += labels.size
                    equal += int((own.labels == labels).sum()) if own.labels.shape == labels.shape else 0
                    results[main] = _as_published(frame, own, labels)
                    session.recorder.add(camera.name, frame, truth, results, _latency_ms(published))
                session.on_frame()
        published.finish()
        if not published.matched:
            count = published.unmatched + published.damaged
            raise InputError(f"{camera.results}: none of {count} results has the stamp of an image of {camera.recording}")
    return {"reproduced": equal / pixels if pixels else None}


def _open_results(camera: CameraInput) -> StampedTruth:
    if camera.results is None:
        raise ConfigError(f"{camera.name}: wanted --results for every camera")
    bag, _, topic = camera.results.rpartition(":")
    path, topic = (Path(bag), topic) if bag and topic.startswith("/") else (Path(camera.results), LABELS_TOPIC)
    if not path.exists():
        raise InputError(f"results {camera.results}: there is no {path}; wanted BAG or BAG:TOPIC")
    return StampedTruth(TopicLabels(path, topic), _EXACT_S)


def _as_published(frame: Frame, own: FrameResult, labels: UInt8Array) -> FrameResult:
    """The result of the segmenter here with the labels of the node, at whatever size it published."""
    size = Size(*labels.shape)
    geometry = own.geometry
    if geometry.output_size != size:
        geometry = plan_geometry(Size(*frame.image.shape[:2]), geometry.network_size, f"{size}")
    return replace(own, labels=labels, confidence=None, geometry=geometry)


def _latency_ms(published: StampedTruth) -> float | None:
    """Stamp to published; None where the recorder's clock is not the stamps' (a bag that was written, not recorded)."""
    last = published.last
    if last is None or last.receive_ns is None:
        return None
    latency_ms = (last.receive_ns - last.stamp_ns) / 1e6
    return latency_ms if 0.0 < latency_ms < _LONGEST_LATENCY_MS else None
