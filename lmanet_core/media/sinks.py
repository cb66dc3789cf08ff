"""Where results go: the `ResultSink` protocol, PNG files, and several sinks as one.

A sink belongs to one thread. What it has written stays usable whatever happens next: PNGs appear whole or not at all, videos
and bags are closed by `close`, which `with` calls on any exception. Everything that the disk or the path can do wrong is an
`OutputError`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2

from lmanet_core.arrays import UInt8Array, UInt16Array
from lmanet_core.errors import OutputError
from lmanet_core.files import output_errors, replace_file
from lmanet_core.frame import Frame, FrameResult
from lmanet_core.labels import LabelSet

_LOGGER = logging.getLogger(__name__)


class ResultSink(Protocol):
    """Takes the result of each frame; a context manager that closes itself.

    Attributes:
        by_frame: it writes files of their own for each frame, which stay when a run goes on; what else there is begins anew.
    """

    by_frame: bool

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Store one result.

        Raises:
            OutputError: it cannot be stored.
        """

    def close(self) -> None:
        """Finish the files; harmless when repeated.

        Raises:
            OutputError: they cannot be finished.
        """

    def __enter__(self) -> ResultSink: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class ClosingSink:
    """What makes a sink a context manager."""

    by_frame = False

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `ResultSink`."""

    def __enter__(self) -> ResultSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except OutputError as second:  # the first error is the one to report
            _LOGGER.warning("while closing after an error: %s", second)


class LabelPngSink(ClosingSink):
    """One 8-bit grey PNG of class ids a frame, `<folder>/<frame name>.png`; 255 is unlabelled.

    Args:
        folder: made where it is missing; files of the same name are replaced.

    Raises:
        OutputError: the folder cannot be made.
    """

    by_frame = True

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        make_folder(self.folder)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        write_png(self.folder / png_name(frame), result.labels)


class MaskPngSink(ClosingSink):
    """One 0/255 PNG a frame and class group, `<folder>/<group>/<frame name>.png`.

    Args:
        folder: made where it is missing; files of the same name are replaced.
        label_set: its groups; without groups nothing is written.

    Raises:
        OutputError: a folder cannot be made.
    """

    by_frame = True

    def __init__(self, folder: str | Path, label_set: LabelSet) -> None:
        self.folder = Path(folder)
        self._label_set = label_set
        self._folders = {group: self.folder / safe_name(group) for group in label_set.groups}
        for group_folder in self._folders.values():
            make_folder(group_folder)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`."""
        for group, folder in self._folders.items():
            write_png(folder / png_name(frame), self._label_set.mask(result.labels, group))


class CompositeSink(ClosingSink):
    """Several sinks as one. When one fails, the others are closed, so that their files are whole, and the error goes on.

    Attributes:
        sinks: in the order in which they are written.
    """

    def __init__(self, sinks: Sequence[ResultSink]) -> None:
        self.sinks = tuple(sinks)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """See `ResultSink`; after an OutputError every sink is closed."""
        for sink in self.sinks:
            try:
                sink.write(frame, result)
            except OutputError:
                try:
                    self.close()
                except OutputError as second:
                    _LOGGER.warning("while closing after an error: %s", second)
                raise

    def anew(self) -> CompositeSink:
        """Those of them that begin anew when a run goes on; they are closed with this one."""
        return CompositeSink([sink for sink in self.sinks if not sink.by_frame])

    def close(self) -> None:
        """Close all, also when one of them fails; then raise the first error."""
        first: OutputError | None = None
        for sink in self.sinks:
            try:
                sink.close()
            except OutputError as error:
                if first is not None:
                    _LOGGER.warning("while closing after an error: %s", error)
                first = first or error
        if first is not None:
            raise first


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; raises OutputError."""
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def safe_name(name: str) -> str:
    """A class group as a file or topic name: letters, digits and underscores."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def png_name(frame: Frame) -> str:
    """What the PNGs of a frame are called."""
    return f"{file_stem(frame)}.png"


def file_stem(frame: Frame) -> str:
    """What files made from a frame are called, without a suffix."""
    return frame.name.replace("/", "_") or str(frame.stamp_ns)


def write_png(path: Path, image: UInt8Array | UInt16Array) -> None:
    """Write (H, W) or BGR (H, W, 3) of 8 or 16 bits, whole or not at all; raises OutputError."""
    ok, encoded = cv2.imencode(".png", image)
    if not ok:
        raise OutputError(f"{path}: OpenCV cannot encode a PNG of shape {image.shape}")
    with replace_file(path, needed=encoded.nbytes) as file:
        file.write_bytes(encoded.tobytes())
