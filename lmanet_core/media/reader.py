"""One way in for everything that holds frames: `open_frames`."""

from __future__ import annotations

from pathlib import Path

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media.bag import BagSource
from lmanet_core.media.bag_files import is_bag_file, is_bag_folder
from lmanet_core.media.folder import IMAGE_SUFFIXES, FolderSource
from lmanet_core.media.source import FrameSource
from lmanet_core.media.video import open_video


def open_frames(path: str | Path, *, topic: str | None = None, fps: float | None = None, bits: int = 16) -> FrameSource:
    """Open a video, a folder of images, one image, or a bag.

    Args:
        path: decides what it is: a folder with metadata.yaml, .mcap or .db3 files is a ROS 2 bag, any other folder one of
            images; a file is a bag or an image by its suffix, else a video.
        topic: image topic of a bag; not needed where there is one camera.
        fps: frames a second of a folder; None: by the names of its files where they tell the time, else 10. Bags and videos
            have their own.
        bits: of images with 16, see `SampleDepth`.

    Returns:
        An iterator and context manager of `Frame`; use it once.

    Raises:
        InputError: missing, not readable, or without images; the message lists what there is.
        ConfigError: a topic for something that is not a bag, or fps that is not positive.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
        if not path.exists():
            raise InputError(f"{path}: wanted a video, image, bag or folder, there is no such file")
        if is_bag_folder(path) if is_folder else is_bag_file(path):
            return BagSource(path, topic, bits)
        if topic is not None:
            raise ConfigError(f"only bags have topics, got topic {topic} for {path}; leave it out")
        if is_folder or path.suffix.lower() in IMAGE_SUFFIXES:
            return FolderSource(path, fps, bits)
        return open_video(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
