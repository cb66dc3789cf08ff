"""One way in for everything that holds frames: `open_frames`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmanet_core.errors import ConfigError, InputError
from lmanet_core.media.bag import BagSource
from lmanet_core.media.bag_files import is_bag_file, is_bag_folder
from lmanet_core.media.folder import IMAGE_SUFFIXES, FolderSource
from lmanet_core.media.inputs import STDIN, expand_home, find_sequence, read_stdin
from lmanet_core.media.live import is_stream, open_stream
from lmanet_core.media.source import FrameSource
from lmanet_core.media.video import open_video


def open_frames(path: str | Path, *, topic: str | None = None, fps: float | None = None, bits: int = 16) -> FrameSource:
    """Open a video, a folder of images, one image, a bag, a camera or a stream.

    Args:
        path: decides what it is: a folder with metadata.yaml, .mcap or .db3 files is a ROS 2 bag, any other folder one of
            images; a file is a bag or an image by its suffix, else a video. Text may also be a camera's number, an address
            (rtsp://, http://, …), a glob or pattern of images ("left_*.png", "frame_%04d.png"), or "-" for what is piped in:
            names of images, one a line, or a video, bag or image itself.
        topic: image topic of a bag; not needed where there is one camera.
        fps: frames a second of images; None: by the names of their files where they tell the time, else 10. Bags and videos
            have their own.
        bits: of images with 16, see `SampleDepth`.

    Returns:
        An iterator and context manager of `Frame`; use it once.

    Raises:
        InputError: missing, not readable, or without images; the message lists what there is.
        ConfigError: a topic for something that is not a bag, or fps that is not positive.
    """
    text = expand_home(str(path))
    if text == STDIN:
        return _open_stdin(topic, fps, bits)
    if is_stream(text):
        _refuse_topic(text, topic)
        return open_stream(text)
    path = Path(text)
    try:
        is_folder = path.is_dir()
        files = None if path.exists() else find_sequence(text)
        if files is not None:
            _refuse_topic(text, topic)
            return FolderSource(text, fps, bits, files)
        if not path.exists():
            raise InputError(f"{path}: wanted a video, image, bag or folder, there is no such file")
        if is_bag_folder(path) if is_folder else is_bag_file(path):
            return BagSource(path, topic, bits)
        _refuse_topic(text, topic)
        if is_folder or path.suffix.lower() in IMAGE_SUFFIXES:
            return FolderSource(path, fps, bits)
        return open_video(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open_stdin(topic: str | None, fps: float | None, bits: int) -> FrameSource:
    files, spooled = read_stdin()
    if spooled is None:
        _refuse_topic("standard input", topic)
        return FolderSource("standard input", fps, bits, files)
    remove: Callable[[], None] = lambda: spooled.unlink(missing_ok=True)  # noqa: E731  # typed for mypy
    try:
        source = open_frames(spooled, topic=topic, fps=fps, bits=bits)
    except BaseException:
        remove()
        raise
    source.at_close(remove)
    return source


def _refuse_topic(text: str, topic: str | None) -> None:
    if topic is not None:
        raise ConfigError(f"only bags have topics, got topic {topic} for {text}; leave it out")
