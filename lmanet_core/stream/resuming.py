"""Going on with a stream that was interrupted: what is done is not segmented again, and the memories are filled first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lmanet_core.frame import Frame
from lmanet_core.stream.segmenter import VideoSegmenter

#: Frames that are segmented anew, for the memories alone: what lies farther back has no weight left that shows.
WARM_UP = 50


def skip_done(frames: Iterable[Frame], is_done: Callable[[Frame], bool], segmenter: VideoSegmenter) -> Iterator[Frame]:
    """The frames from the first one on that is not done; the segmenter has seen the `WARM_UP` frames before it by then.

    Args:
        frames: of the stream, in order.
        is_done: whether there is a result of a frame; asked of each in order, up to the first that has none.
        segmenter: of the stream, new.
    """
    coming = iter(frames)
    before: deque[Frame] = deque(maxlen=WARM_UP)
    for frame in coming:
        if is_done(frame):
            before.append(frame)
            continue
        for past in before:
            segmenter.step_frame(past)
        before.clear()
        yield frame
        break
    yield from coming
