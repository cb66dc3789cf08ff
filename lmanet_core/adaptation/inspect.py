"""What the teacher said, to be looked at: an overlay video and a bag of its label maps."""

from __future__ import annotations

from pathlib import Path

from lmanet_core.data.files import read_label_ids
from lmanet_core.data.recorded_clips import RecordedClips
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.geometry import plan_geometry
from lmanet_core.media import open_sinks

_FPS = 4.0


def write_look(root: Path, clips: RecordedClips) -> None:
    """Write `overlay.webm` and the bag `result` beside the label maps.

    Raises:
        OutputError: no space, or not permitted.
    """
    plan = plan_geometry(clips.size, clips.size, "input")
    with open_sinks(root, clips.labels, kinds=["overlay", "bag"], fps=_FPS) as sink:
        for index, stamp_ns in enumerate(clips.list.stamps_ns):
            name = clips.name(index)
            image, labels = clips.image(name), read_label_ids(root / "labels" / f"{name}.png")
            frame = Frame(image, stamp_ns, name=name)
            result = FrameResult(labels, clips.certain(name), stamp_ns, "", None, 0, False, plan, label_set=clips.labels)
            sink.write(frame, result)
