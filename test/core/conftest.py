"""Tiny videos, folders and bags, made where they are needed."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from lmanet_core.frame import Discontinuity, Frame, FrameResult
from lmanet_core.geometry import Size, plan_geometry

SECOND = 10**9


@pytest.fixture(scope="session")
def shared_data():
    """The real recordings beside the checkout; they are no part of the project."""
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data with recordings beside this checkout")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """As in the processes that tests start: sums over another number of threads differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def textured_drive():
    """Six images (64, 128, 3) of a scene that moves right by a feature position each time, large enough to measure it."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.normal(size=(80 // cell, 240 // cell, 3)), (240, 80)) for cell in (5, 10)]
    scene = np.clip(128 + 40 * sum(layers), 0, 255).astype(np.uint8)
    return [scene[:64, 64 - 8 * shift : 192 - 8 * shift] for shift in range(6)]


class BagMaker:
    """Writes bags of ROS 1 or ROS 2 with standard messages."""

    def __init__(self, ros: int) -> None:
        self.ros = ros
        self.store = get_typestore(Stores.ROS1_NOETIC if ros == 1 else Stores.ROS2_HUMBLE)

    def header(self, stamp_ns, frame_id="camera"):
        stamp = self.store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, SECOND))
        sequence = {"seq": 0} if self.ros == 1 else {}
        return self.store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id, **sequence)

    def image(self, pixels, stamp_ns=SECOND, encoding="rgb8", **changes):
        pixels = np.asarray(pixels)
        fields = {
            "header": self.header(stamp_ns),
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": pixels.nbytes // max(1, pixels.shape[0]),
            "data": np.frombuffer(pixels.tobytes(), np.uint8),
            **changes,
        }
        return self.store.types["sensor_msgs/msg/Image"](**fields)

    def compressed(self, data, stamp_ns=SECOND, image_format="jpeg"):
        return self.store.types["sensor_msgs/msg/CompressedImage"](
            header=self.header(stamp_ns), format=image_format, data=np.frombuffer(data, np.uint8)
        )

    def camera_info(self, focal, stamp_ns=SECOND, size=(4, 6)):
        names = ("D", "K", "R", "P") if self.ros == 1 else ("d", "k", "r", "p")
        values = ([0.1], [focal, 0, 3, 0, focal, 2, 0, 0, 1], np.eye(3).ravel(), [focal, 0, 3, 0, 0, focal, 2, 0, 0, 0, 1, 0])
        arrays = {name: np.array(value, np.float64) for name, value in zip(names, values, strict=True)}
        roi = self.store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        return self.store.types["sensor_msgs/msg/CameraInfo"](
            header=self.header(stamp_ns), height=size[0], width=size[1], distortion_model="plumb_bob",
            binning_x=0, binning_y=0, roi=roi, **arrays,
        )  # fmt: skip

    def text(self, words):
        return self.store.types["std_msgs/msg/String"](words)

    def write(self, path, messages, storage="mcap", compress=False):
        """Messages are (topic, receive_ns, message), or (topic, receive_ns, bytes, type, definition) for unknown types."""
        connections = {}
        writer = Writer1(path) if self.ros == 1 else Writer2(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if compress and self.ros == 1:
            writer.set_compression(Writer1.CompressionFormat.LZ4)
        elif compress:
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer as bag:
            for topic, receive_ns, message, *unknown in messages:
                if topic not in connections:
                    msgtype = unknown[0] if unknown else message.__msgtype__
                    known = {"typestore": self.store}
                    if unknown and self.ros == 2:
                        known = {"msgdef": unknown[1], "rihs01": "RIHS01_" + "0" * 64}
                    elif unknown:
                        known = {"msgdef": unknown[1], "md5sum": "0" * 32}
                    connections[topic] = bag.add_connection(topic, msgtype, **known)
                serialize = self.store.serialize_ros1 if self.ros == 1 else self.store.serialize_cdr
                bag.write(connections[topic], receive_ns, message if unknown else serialize(message, message.__msgtype__))
        return path


@pytest.fixture(scope="session")
def ros1():
    return BagMaker(1)


@pytest.fixture(scope="session")
def ros2():
    return BagMaker(2)


@pytest.fixture
def write_ros1_mcap(ros1):
    """Writes ROS 1 messages into an MCAP, as `mcap convert x.bag x.mcap` does."""

    def record(op, content):
        return bytes([op]) + struct.pack("<Q", len(content)) + content

    def text(words):
        return struct.pack("<I", len(words)) + words.encode()

    def write(path, messages, profile="ros1"):
        content = b"\x89MCAP0\r\n" + record(1, text(profile) + text("test"))
        keys = {}
        for topic, receive_ns, message in messages:
            if topic not in keys:
                key = keys[topic] = len(keys) + 1
                name = message.__msgtype__.replace("/msg/", "/")
                definition = ros1.store.generate_msgdef(message.__msgtype__, ros_version=1)[0]
                content += record(3, struct.pack("<H", key) + text(name) + text("ros1msg") + text(definition))
                content += record(4, struct.pack("<HH", key, key) + text(topic) + text("ros1") + struct.pack("<I", 0))
            data = ros1.store.serialize_ros1(message, message.__msgtype__)
            content += record(5, struct.pack("<HIQQ", keys[topic], 0, receive_ns, receive_ns) + bytes(data))
        content += record(15, bytes(4)) + record(2, bytes(20)) + b"\x89MCAP0\r\n"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def random_image():
    """(H, W, 3) uint8 that differs from seed to seed."""
    return lambda height=4, width=6, seed=0: np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def write_video():
    """A video of grey frames that brighten by 5 from frame to frame."""

    def write(path, count=10, fps=10.0, codec="MJPG", size=(48, 64)):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
        assert writer.isOpened()
        for index in range(count):
            writer.write(np.full((*size, 3), 5 * index, np.uint8))
        writer.release()
        return path

    return write


@pytest.fixture
def make_result():
    """A frame and what the segmenter would say about it."""

    def make(labels, *, image=None, stamp_ns=SECOND, name="000000", camera_info=None, confidence=True, output="input"):
        labels = np.asarray(labels, np.uint8)
        image = np.zeros((*labels.shape, 3), np.uint8) if image is None else image
        size = Size(*image.shape[:2])
        frame = Frame(image, stamp_ns, "camera", camera_info, name)
        result = FrameResult(
            labels=labels,
            confidence=labels + 100 if confidence else None,
            stamp_ns=stamp_ns,
            frame_id="camera",
            discontinuity=Discontinuity.FIRST_FRAME,
            memory_frames=0,
            remembered=True,
            geometry=plan_geometry(size, Size(8, 8), output=output),
        )
        return SimpleNamespace(frame=frame, result=result)

    return make


@pytest.fixture(scope="session")
def make_scene():
    """(H, W, 3) uint8 of coarse checks, with enough texture to tell two seeds apart."""

    def make(seed=0, height=32, width=64):
        checks = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
        return checks.repeat(4, 0).repeat(4, 1)[:height, :width]

    return make


@pytest.fixture
def randomize_batch_norms():
    """Gives every BatchNorm of a network statistics and an affine part as training would; returns the network."""

    def randomize(network, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                    (module.weight.data, 0.5, 1.5),
                    (module.bias.data, -0.1, 0.1),
                ):
                    tensor.uniform_(low, high, generator=generator)
        return network

    return randomize
