"""One slot per camera between the ROS callbacks and the worker: the newest image wins, older ones are dropped and counted.

Knows nothing of ROS. The executor's thread puts, one worker thread takes; everything is under one lock. Cameras take turns: the
one served longest ago comes first, so that a fast camera cannot starve a slow one. What is put is never copied.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A slot for each camera.

    Args:
        cameras: their names; at least one, all different.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f"a mailbox needs cameras with different names, got {list(cameras)}")
        self._condition = threading.Condition()
        self._slots: dict[str, T | None] = dict.fromkeys(cameras)  # under _condition, like all below
        self._dropped: dict[str, int] = dict.fromkeys(cameras, 0)
        self._turns = list(cameras)  # served longest ago first
        self._closed = False

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many images of each camera were replaced or thrown away before the worker took them."""
        with self._condition:
            return dict(self._dropped)

    def put(self, camera: str, item: T) -> bool:
        """Leave the newest image of a camera; never waits.

        Returns:
            Whether an older one was dropped for it. After `close` nothing is kept.
        """
        with self._condition:
            replaced = self._slots[camera] is not None
            self._dropped[camera] += replaced
            if not self._closed:
                self._slots[camera] = item
                self._condition.notify()
            return replaced

    def take(self, timeout_s: float | None = None) -> tuple[str, T] | None:
        """Wait for an image and take it, of the camera whose turn it is.

        Args:
            timeout_s: how long to wait, seconds; None waits for ever.

        Returns:
            Camera and image; None after `close`, or when the time is over.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._ready() is not None, timeout_s)
            camera = self._ready()
            if self._closed or camera is None:
                return None
            item, self._slots[camera] = self._slots[camera], None
            self._turns.remove(camera)
            self._turns.append(camera)
            assert item is not None
            return camera, item

    def clear(self) -> None:
        """Throw away what waits; counted as dropped."""
        with self._condition:
            for camera, item in self._slots.items():
                self._dropped[camera] += item is not None
                self._slots[camera] = None

    def close(self) -> None:
        """Let the worker go: `take` returns None from now on, what waits is thrown away."""
        with self._condition:
            self._closed = True
            self._slots = dict.fromkeys(self._slots)
            self._condition.notify_all()

    def _ready(self) -> str | None:
        return next((camera for camera in self._turns if self._slots[camera] is not None), None)
