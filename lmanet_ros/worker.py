"""The one thread that segments: takes the newest image out of the mailbox, lets its camera process it, goes on.

Started when the node becomes active and joined when it no longer is. Nothing that happens to a frame ends it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping

import torch

from lmanet_core.media.mailbox import Mailbox
from lmanet_ros.camera import Arrival, Camera
from lmanet_ros.parameters import Settings


class Worker(threading.Thread):
    """See the module.

    Args:
        mailbox: what to work on; closing it ends the thread after the frame in hand.
        cameras: by name.
        settings: gives the settings of the moment.
    """

    def __init__(self, mailbox: Mailbox[Arrival], cameras: Mapping[str, Camera], settings: Callable[[], Settings]) -> None:
        super().__init__(name="segment", daemon=True)
        self._mailbox = mailbox
        self._cameras = cameras
        self._settings = settings

    def run(self) -> None:
        """Until the mailbox is closed."""
        while (taken := self._mailbox.take()) is not None:
            name, arrival = taken
            camera = self._cameras[name]
            try:
                camera.process(arrival, self._settings())
            except Exception as error:  # out of device memory, a publisher whose context is gone, a bug: the robot goes on
                camera.fail(error)
                del error
                _free_device_memory()
            del arrival, taken


def _free_device_memory() -> None:
    with contextlib.suppress(RuntimeError):  # of a device that is lost already; what was lost before is told
        torch.cuda.empty_cache()  # nothing where CUDA is not in use
