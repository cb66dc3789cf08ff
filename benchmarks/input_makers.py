"""What a case of `inputs.py` is, and makers of inputs, which write into the working directory; some are those of the tests.

Every picture shows four quadrants, red and green above blue and white, so that a swapped channel, a wrong turn, a grey or a
black picture shows in the mean of a quadrant.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from recording import ROOT
from safetensors.torch import load_file, save_file
from torch import nn

from lmanet_core.network import MemoryConfig

Image = npt.NDArray[Any]  # (H, W, 3) uint8 RGB, or what a case makes of it

SECOND = 10**9
TOPIC = "/camera/image_raw"
COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 200))  # of the quadrants, as one reads


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        group: heading of the table.
        name: what the input is.
        make: makes it in the working directory.
        command: as typed after `lmanet`, `< FILE` pipes one in; `inputs.py` adds small weights and sizes.
        frames: label maps that must be written; None: not counted.
        says: what must be on standard error or output.
        code: exit code.
        looks: how the pictures that were read must look; None: not looked at.
        size: (width, height) of these pictures; None: any.
        partial: something is missing, and `summary.json` must say so.
        files: must be there afterwards; `absent`: must not.
        replaces: what the names of files that may change or go begin with.
        before: a command that ran there before; `meanwhile`: what was done since.
    """

    group: str
    name: str
    make: Callable[[], object]
    command: str
    frames: int | None = None
    says: tuple[str, ...] = ()
    code: int = 0
    looks: str | None = "colour"
    size: tuple[int, int] | None = None
    partial: bool = False
    files: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    before: str = ""
    meanwhile: Callable[[], object] = lambda: None


def from_tests(path: str) -> Any:
    """A module of the tests, for the makers that are there."""
    spec = spec_from_file_location(f"of_tests_{Path(path).stem}", ROOT / "test" / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_bags = from_tests("core/conftest.py")
_bag_kinds = from_tests("core/test_media_bag_kinds.py")
save_random_weights = from_tests("conftest.py").save_random_weights
ROS1, ROS2 = _bags.BagMaker(1), _bags.BagMaker(2)


def picture(index: int = 0, height: int = 48, width: int = 64) -> Image:
    """(H, W, 3) uint8 RGB; a bar of one brightness moves along the middle."""
    image = np.zeros((height, width, 3), np.uint8)
    for number, color in enumerate(COLORS):
        rows = slice(height // 2) if number < 2 else slice(height // 2, None)
        columns = slice(width // 2) if number % 2 == 0 else slice(width // 2, None)
        image[rows, columns] = color
    if height > 8:
        image[height // 2 - 1 : height // 2 + 1, 4 * index % width : 4 * index % width + 4] = 120
    return image


def pictures(count: int = 5, height: int = 48, width: int = 64) -> list[Image]:
    return [picture(index, height, width) for index in range(count)]


# ---- videos


def video(
    name: str,
    codec: str = "libx264",
    form: str = "yuv420p",
    *,
    frames: Sequence[Image] | None = None,
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    sound: bool = False,
) -> Path:
    """Pictures at 10 Hz, or at these tenths of a second."""
    frames = pictures() if frames is None else frames
    with av.open(name, "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width = frames[0].shape[:2] if frames else (48, 64)
        stream.pix_fmt = form
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        speaker: Any = container.add_stream("aac", rate=44100) if sound else None
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if pixels.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if speaker is not None:
            _beep(container, speaker)
    return Path(name)


def sound_only(name: str) -> None:
    with av.open(name, "w") as container:
        _beep(container, container.add_stream("aac", rate=44100))


def _beep(container: Any, stream: Any) -> None:
    samples = np.sin(np.arange(20480) / 20).astype(np.float32)[None]
    for start in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.repeat(samples[:, start : start + 1024], 2, 0), format="fltp", layout="stereo")
        frame.rate, frame.pts = 44100, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def turned_video(name: str) -> None:
    """The pixels lie on their side; the track header says that they are to be turned by 90° clockwise."""
    path = video(name, frames=[np.rot90(image) for image in pictures()])
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)


def cut(name: str, share: float = 0.6) -> None:
    """A file of which the end is missing."""
    path = Path(name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damage(name: str, length: int = 2000) -> None:
    """Zeros in the middle of a file."""
    content = bytearray(Path(name).read_bytes())
    content[len(content) // 2 : len(content) // 2 + length] = bytes(length)
    Path(name).write_bytes(content)


def noise(count: int, height: int = 64, width: int = 96) -> list[Image]:
    """Pictures that take some bytes."""
    rng = np.random.default_rng(0)
    return [
        np.clip(picture(n, height, width) + rng.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8) for n in range(count)
    ]


def behead(name: str, share: float = 0.2) -> None:
    """A file of which the start is missing."""
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[int(share * len(content)) :])


def joined(name: str) -> None:
    """Three pictures, and three of twice the size behind them."""
    parts = (video(f"part{number}.ts", frames=make) for number, make in enumerate((pictures(3), pictures(3, 96, 128))))
    content = b"".join(part.read_bytes() for part in parts)
    Path(name).write_bytes(content)


def with_cover(name: str) -> None:
    """A still picture of another shape beside the film, marked as its cover."""
    streams: tuple[tuple[str, str, list[Image]], ...] = (
        ("libx264", "yuv420p", pictures()),
        ("mjpeg", "yuvj420p", [picture(0, 96, 96)]),
    )
    with av.open(name, "w") as container:
        made: list[tuple[Any, list[Image]]] = []
        for codec, form, frames in streams:
            stream: Any = container.add_stream(codec, rate=10)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = form
            made.append((stream, frames))
        made[1][0].disposition = av.stream.Disposition.attached_pic
        for stream, frames in made:
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def long_header(name: str) -> None:
    """4 MB of nothing between the first box and the rest, the index at the end."""
    path = video(name)
    content = path.read_bytes()
    first = int.from_bytes(content[:4], "big")
    tables = bytearray(content[first:])
    for at in (n for n in range(len(tables)) if tables[n : n + 4] == b"stco"):
        for entry in range(int.from_bytes(tables[at + 8 : at + 12], "big")):
            where = at + 12 + 4 * entry
            tables[where : where + 4] = (int.from_bytes(tables[where : where + 4], "big") + (4 << 20)).to_bytes(4, "big")
    path.write_bytes(content[:first] + (4 << 20).to_bytes(4, "big") + b"free" + bytes((4 << 20) - 8) + tables)


# ---- images


def images(pattern: str, count: int = 3, change: Callable[[Image], Image] = lambda image: image, **options: Any) -> None:
    """Files by a pattern with {}; `change` takes RGB and gives what is stored, RGB, RGBA or grey."""
    for index in range(count):
        path = Path(pattern.format(index))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(change(picture(index)), path.suffix, **options))


def encode(image: Image, suffix: str = ".png", flags: Sequence[int] = ()) -> bytes:
    """RGB(A) or grey → a file's bytes."""
    order = [2, 1, 0, 3][: image.shape[2]] if image.ndim == 3 else ...
    return bytes(cv2.imencode(suffix, image[..., order] if image.ndim == 3 else image, list(flags))[1])


def exif_turned(name: str) -> None:
    """A JPEG on its side whose EXIF says so (orientation 6)."""
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    jpeg = encode(np.rot90(picture()), ".jpg")
    Path(name).write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + jpeg[2:])


def write(name: str, content: str | bytes = "") -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def link(name: str, target: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).symlink_to(target)


# ---- bags


def bag(name: str, messages: Sequence[tuple[Any, ...]] | None = None, ros: int = 2, **options: Any) -> Path:
    """Messages are those of `BagMaker.write`; by default raw images of one camera."""
    maker = ROS1 if ros == 1 else ROS2
    return Path(maker.write(Path(name), raw(ros=ros) if messages is None else messages, **options))


def stamps(count: int = 5) -> list[int]:
    return [100 * SECOND + index * SECOND // 10 for index in range(count)]


def raw(
    encoding: str = "rgb8",
    change: Callable[[Image], Image] = lambda image: image,
    topic: str = TOPIC,
    ros: int = 2,
    **changes: Any,
) -> list[tuple[Any, ...]]:
    """sensor_msgs/Image of `change`d pictures."""
    maker = ROS1 if ros == 1 else ROS2
    return [
        (topic, stamp, maker.image(change(picture(index)), stamp, encoding, **changes)) for index, stamp in enumerate(stamps())
    ]


def compressed(
    suffix: str = ".jpg", form: str = "jpeg", change: Callable[[Image], Image] = lambda image: image, ros: int = 2
) -> list[Any]:
    maker = ROS1 if ros == 1 else ROS2
    made = (encode(change(picture(index)), suffix) for index in range(5))
    return [
        (f"{TOPIC}/compressed", stamp, maker.compressed(data, stamp, form)) for stamp, data in zip(stamps(), made, strict=True)
    ]


def restamped(new: Sequence[int], frame_ids: Sequence[str] = ("camera",) * 5) -> list[Any]:
    """Raw images with other stamps in their headers; they are received as before."""
    return [
        (TOPIC, stamp, ROS2.image(picture(index), stamp, header=ROS2.header(new[index], frame_ids[index])))
        for index, stamp in enumerate(stamps())
    ]


def packets() -> list[Any]:
    """H.264 in CompressedImage."""
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "yuv420p", Fraction(1, 10)
    context.options = {"tune": "zerolatency", "preset": "ultrafast"}
    units: list[bytes] = []
    for index in range(5):
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame.pts = index
        units += map(bytes, context.encode(frame))
    return [(f"{TOPIC}/h264", stamp, ROS2.compressed(unit, stamp, "h264")) for stamp, unit in zip(stamps(), units, strict=True)]


def mosaic(image: Image) -> Image:
    """RGGB: (H, W) of (H, W, 3)."""
    grey = image[..., 1].copy()
    grey[::2, ::2], grey[1::2, 1::2] = image[::2, ::2, 0], image[1::2, 1::2, 2]
    return grey


def foxglove(name: str) -> None:
    """CompressedImage in protobuf."""
    fields = _bag_kinds.protobuf
    made = [
        (at, fields(b_1=_bag_kinds.time_field(at), b_2=encode(picture(n)), b_3=b"png", b_4=b"front"))
        for n, at in enumerate(stamps())
    ]
    _bag_kinds.write_mcap(Path(name), made, "foxglove.CompressedImage")


def split_bag(name: str, missing: int) -> None:
    """Three files of two images each, one of them missing."""
    _bag_kinds.write_split(ROS2, Path(name), picture)
    (Path(name) / f"x_{missing}.mcap").unlink()


def zstd(name: str) -> None:
    """Packs a file as NAME.zstd, and leaves nothing else."""
    path = Path(name)
    Path(f"{path.name}.zstd").write_bytes(_bag_kinds.zstd.compress(path.read_bytes()))


# ---- weights

MEMORY = MemoryConfig(key_channels=4, value_channels=8, window=5, memory_frames=3)


def state(change: Callable[[dict[str, torch.Tensor]], Any], name: str = "w.pth", source: str = "../erfnet.pth") -> None:
    """Published ERFNet weights, changed."""
    torch.save(change(torch.load(source, weights_only=True)), name)


def publish(ours: Path, path: Path) -> None:
    """Single-frame weights of ours under the names that ERFNet's authors gave them."""
    tensors = {key.removeprefix("backbone."): value for key, value in load_file(ours).items()}
    torch.save({f"module.{key}": value for key, value in tensors.items()}, path)


def prefixed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {key.replace("module.", prefix, 1): value for key, value in tensors.items()}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], Any]:
    """One tensor by the end of its name."""
    return lambda tensors: {key: change(value) if key.endswith(name) else value for key, value in tensors.items()}


def safetensors_without_metadata(name: str) -> None:
    save_file(load_file("../weights.safetensors"), name)


def scripted(name: str) -> None:
    """TorchScript that gives logits of four classes."""
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1)).eval()), name)


def onnx_model(name: str) -> None:
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    shapes = value("x", kind, [1, 3, "h", "w"]), value("y", kind, [1, 4, "h", "w"])
    graph = onnx.helper.make_graph([node], "g", [shapes[0]], [shapes[1]], [weight])
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]), name)


class _Touches:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("touched",)


def pickle_with_code(name: str) -> None:
    """Unpickled without care it makes a folder `touched`."""
    torch.save({"state_dict": _Touches()}, name)


# ---- labels


def labelled(change: Callable[[npt.NDArray[np.uint8]], Any], pattern: str = "lab/{}.png", count: int = 3) -> None:
    """Images in img/, and label images: class ids 0, 1, 8, 10 in the quadrants, changed."""
    images("img/{}.png", count)
    ids = np.zeros((48, 64), np.uint8)
    ids[:24, 32:], ids[24:, :32], ids[24:, 32:] = 1, 8, 10
    images(pattern, count, lambda _: change(ids))


def training_masks() -> None:
    """Labelled stills of two classes whose masks are 0 and 255."""
    images("d/images/{}.png", 4)
    images("d/labels/{}.png", 4, lambda image: np.where(image[..., 0] > 100, 255, 0).astype(np.uint8))
    write("d/labels.yaml", "names: [background, road]\n")
