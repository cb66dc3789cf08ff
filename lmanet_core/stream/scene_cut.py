"""Notice that the picture suddenly shows another place: a spliced video, a switched camera, a log that was cut.

Called once per frame by `continuity.ContinuityMonitor`, which owns a detector and tells it how much time has passed. What
makes two pictures alike is the matter of `likeness`; this module decides. Exposure, noise, blur, motion, lost blocks, dropped
frames and a passing car leave enough of a place to know it again; another street does not have it.

Below 0.5 ms per frame on one core at any image size; some milliseconds where the picture changes so much that explanations are
looked for. Not thread-safe: one detector belongs to one stream and one thread.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.stream.likeness import Glimpse, explained_similarity, glimpse, measure_similarity, mirrored_similarity

_FLAT = 3.0  # grey levels; a frame with less texture (root mean square) shows nothing to compare
_HISTORY = 5  # frame pairs that tell what is usual for the stream
_SHORT_S, _LONG_S = 0.1, 0.6  # between two frames: up to the one all similarity is asked for, from the other on less …
_LESS = 0.2  # … by this much: a vehicle drives on meanwhile
_MIRROR_FROM = 0.08  # below what is usual, a picture may be a mirrored one …
_MIRROR_GAIN = 0.08  # … if its mirror image resembles the frame before so much more


class SceneCutDetector:
    """Compare each frame with the one before and say whether the scene was cut.

    A cut must be unlike in absolute terms (`similarity`, less where more than 0.1 s have passed) and stand out from the
    stream's own recent frame pairs (`margin`): a slow or shaky camera, whose frames never resemble each other much, is not cut
    at every frame. Until the stream has shown what is usual, `similarity` itself counts as usual. A picture that is mirrored
    from one frame on is a cut, however symmetrical the scene.

    A frame without texture (black, white, a wall, fog) is neither a cut nor a reference: the frame after it is compared with
    the last one that showed something.

    Not noticed: a cut to a view that really looks alike (another stretch of the same empty motorway), or where more than about
    a sixth of the picture never changes (the vehicle's own bonnet, a logo). Noticed without need: a single damaged frame, as
    two cuts; a textureless wall in heavy noise, again and again.

    Args:
        similarity: 0–1; two frames that resemble each other at least this much are never a cut, unless mirrored; 0: nothing
            is. Going on, they measure 0.7–1; views of different streets 0.2–0.6. `ContinuityConfig` holds the defaults.
        margin: 0–1; how far below the median of the last five pairs a cut must lie.

    Attributes:
        last_similarity: what the last frame measured, 0–1; None where there was nothing to compare.
    """

    def __init__(self, similarity: float, margin: float) -> None:
        self.last_similarity: float | None = None
        self._similarity = similarity
        self._margin = margin
        self._reference: Glimpse | None = None
        self._since_reference_s = 0.0
        self._usual: deque[float] = deque(maxlen=_HISTORY)

    def reset(self) -> None:
        """Forget the stream; the next frame is its first."""
        self.last_similarity = None
        self._reference = None
        self._since_reference_s = 0.0
        self._usual.clear()

    def pass_over(self, elapsed_s: float) -> None:
        """A frame that is not compared, `elapsed_s` seconds after the one before."""
        self.last_similarity = None
        self._since_reference_s += elapsed_s

    def is_cut(self, image: UInt8Array | Glimpse, elapsed_s: float = 0.0) -> bool:
        """Whether `image` does not go on from the frame before; the next frame is then compared with it.

        Args:
            image: (H, W, 3) RGB or (H, W) grey, uint8, at least one pixel, or a glimpse of it. Sizes may differ from frame to
                frame.
            elapsed_s: since the frame before, seconds.

        Raises:
            ValueError: not an image.
        """
        now = glimpse(image)
        self.pass_over(elapsed_s)
        if now.strength < _FLAT:
            return False
        before, elapsed_s = self._reference, self._since_reference_s
        self._reference, self._since_reference_s = now, 0.0
        if before is None:
            return False
        usual = median(self._usual) if self._usual else None
        enough = self._similarity - _LESS * float(np.clip((elapsed_s - _SHORT_S) / (_LONG_S - _SHORT_S), 0.0, 1.0))
        enough = min(enough, (self._similarity if usual is None else usual) - self._margin)
        measured = measure_similarity(before.texture, now.texture)
        mirrored = self._similarity > 0.0 and measured < (1.0 if usual is None else usual) - _MIRROR_FROM
        mirrored = mirrored and mirrored_similarity(before, now) > max(measured, self._similarity) + _MIRROR_GAIN
        if measured < enough and not mirrored:
            measured = max(measured, explained_similarity(before, now, elapsed_s, enough))
        self.last_similarity = measured
        cut = mirrored or measured < enough
        if cut:
            self._usual.clear()
        else:
            self._usual.append(measured)
        return cut
