"""What the log says of cleared memories: each one with its cause, or, where they come thick and fast, how many there were."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

_WINDOW_S = 10.0
_LINES = 5  # in a window; further ones are counted


class ResetLog:
    """Of one camera. One thread.

    Args:
        say: takes a line of the log.
        clock: seconds, steadily growing.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lines: deque[float] = deque(maxlen=_LINES)  # when they were said
        self._counted: Counter[str] = Counter()
        self._counting_since = 0.0

    def add(self, cause: str, stamp_ns: int) -> None:
        """The memory was cleared before the frame with this stamp."""
        now = self._clock()
        if self._counted:
            self._counted[cause] += 1
            if now - self._counting_since >= _WINDOW_S:
                causes = ", ".join(f"{cause} {count}" for cause, count in self._counted.most_common())
                seconds = now - self._counting_since
                self._say(f"memory cleared {self._counted.total()} times in {seconds:.0f} s ({causes})")
                self._counted.clear()
                self._lines.clear()
                self._lines.extend([now] * _LINES)  # go on counting while they come fast
        elif len(self._lines) == _LINES and now - self._lines[0] < _WINDOW_S:
            self._counted[cause] += 1
            self._counting_since = now
        else:
            self._lines.append(now)
            self._say(f"memory cleared: {cause} at stamp {stamp_ns / 1e9:.3f}")
