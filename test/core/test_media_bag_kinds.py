"""Bags whose images are not plain: other messages, other transports, compressed video, missing parts, several topics."""

from __future__ import annotations

import logging
import struct
import sys
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from lmanet_core.errors import InputError
from lmanet_core.media import open_frames
from lmanet_core.media.foreign_messages import DEFINITIONS, read_protobuf, unpack_zstd
from lmanet_core.media.packets import codec_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SECOND = 10**9
TOPIC = "/camera/image_raw"


def png(image):
    return cv2.imencode(".png", image[:, :, ::-1] if image.ndim == 3 else image)[1].tobytes()


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def protobuf(**fields):
    """Fields of a message as kind_number=value: v varint, f fixed 32 bit, d fixed 64 bit, b bytes."""
    out = b""
    for name, value in fields.items():
        kind, number = name.split("_")
        wire = {"v": 0, "d": 1, "b": 2, "f": 5}[kind]
        fixed = {"d": "<Q", "f": "<I"}
        content = (
            struct.pack(fixed[kind], value) if kind in fixed else varint(value) if kind == "v" else varint(len(value)) + value
        )
        out += varint(int(number) << 3 | wire) + content
    return out


def write_mcap(path, messages, msgtype, schema="protobuf", serialization="protobuf"):
    """An MCAP without a profile, as Foxglove's SDK writes it; messages are (receive_ns, bytes)."""

    def record(op, content):
        return bytes([op]) + struct.pack("<Q", len(content)) + content

    def text(words):
        return struct.pack("<I", len(words)) + words.encode()

    content = b"\x89MCAP0\r\n" + record(1, text("") + text("test"))
    content += record(3, struct.pack("<H", 1) + text(msgtype) + text(schema) + text(""))
    content += record(4, struct.pack("<HH", 1, 1) + text(TOPIC) + text(serialization) + struct.pack("<I", 0))
    for receive_ns, data in messages:
        content += record(5, struct.pack("<HIQQ", 1, 0, receive_ns, receive_ns) + data)
    path.write_bytes(content + record(15, bytes(4)) + record(2, bytes(20)) + b"\x89MCAP0\r\n")
    return path


def time_field(stamp_ns):
    return protobuf(v_1=stamp_ns // SECOND, v_2=stamp_ns % SECOND)


@pytest.fixture
def foreign(ros2):
    """Serialised ROS messages of types that only `foreign_messages` knows, ready for BagMaker.write."""
    from lmanet_core.media.bag import Stores, _typestore

    store = _typestore(Stores.ROS2_HUMBLE)

    def make(msgtype, receive_ns, **fields):
        data = store.serialize_cdr(store.types[msgtype](**fields), msgtype)
        definition, _ = store.generate_msgdef(msgtype, ros_version=2)
        return (TOPIC, receive_ns, bytes(data), msgtype, definition)

    return SimpleNamespace(make=make, types=store.types)


@pytest.fixture(scope="module")
def encode_video():
    """Access units of H.264 of a brightening picture, one for each frame, with a key frame at the start alone."""
    av = pytest.importorskip("av")

    def encode(count=6, size=(64, 96)):
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = size[1], size[0], "yuv420p"
        context.time_base, context.gop_size = Fraction(1, 10), 1000
        context.options = {"tune": "zerolatency", "preset": "ultrafast", "crf": "10"}
        units = []
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 40 + 20 * index, np.uint8), format="rgb24")
            frame.pts = index
            units += [bytes(packet) for packet in context.encode(frame)]
        return units + [bytes(packet) for packet in context.encode()]

    return encode


def test_foxglove_compressed_image_in_protobuf_is_read(tmp_path, random_image):
    image = random_image()
    message = protobuf(b_1=time_field(3 * SECOND + 5), b_2=png(image), b_3=b"png", b_4=b"front")
    with open_frames(write_mcap(tmp_path / "x.mcap", [(9, message)], "foxglove.CompressedImage")) as source:
        (frame,) = source
    assert frame.image.tolist() == image.tolist()
    assert (frame.stamp_ns, frame.frame_id) == (3 * SECOND + 5, "front")


def test_foxglove_raw_image_in_protobuf_is_read(tmp_path, random_image):
    image = random_image(4, 6)
    message = protobuf(b_1=time_field(SECOND), f_2=6, f_3=4, b_4=b"rgb8", f_5=18, b_6=image.tobytes(), b_7=b"front")
    (frame,) = open_frames(write_mcap(tmp_path / "x.mcap", [(9, message)], "foxglove.RawImage"))
    assert frame.image.tolist() == image.tolist()


def test_fields_that_nobody_knows_are_passed_over():
    message = read_protobuf(protobuf(v_99=300, d_98=2**63, f_97=2**31, b_96=b"new", b_4=b"front"), "foxglove.CompressedImage")
    assert message.header.frame_id == "front"


@pytest.mark.parametrize("data", [b"\x12", b"\x12\x7fshort", b"\x0b", b"\xff" * 20])
def test_damaged_protobuf_is_an_input_error(data):
    with pytest.raises(InputError, match="protobuf"):
        read_protobuf(data, "foxglove.CompressedImage")


def test_foxglove_ros_messages_are_read(tmp_path, ros2, foreign, random_image):
    image = random_image(4, 6)
    stamp = foreign.types["builtin_interfaces/msg/Time"](sec=2, nanosec=7)
    data = np.frombuffer(image.tobytes(), np.uint8)
    message = foreign.make(
        "foxglove_msgs/msg/RawImage",
        9,
        timestamp=stamp,
        frame_id="front",
        width=6,
        height=4,
        encoding="rgb8",
        step=18,
        data=data,
    )
    (frame,) = open_frames(ros2.write(tmp_path / "x", [message]))
    assert frame.image.tolist() == image.tolist()
    assert (frame.stamp_ns, frame.frame_id) == (2 * SECOND + 7, "front")


@pytest.mark.parametrize("kind", ["CompressedImage", "FFMPEGPacket", "CompressedVideo", "protobuf"])
def test_packets_of_video_become_frames_with_their_own_stamps(tmp_path, ros2, foreign, encode_video, kind):
    units = encode_video()
    stamps = [(n + 1) * SECOND for n in range(len(units))]
    if kind == "protobuf":
        packed = [
            (stamp, protobuf(b_1=time_field(stamp), b_2=b"cam", b_3=unit, b_4=b"h264"))
            for stamp, unit in zip(stamps, units, strict=True)
        ]
        path = write_mcap(tmp_path / "x.mcap", packed, "foxglove.CompressedVideo")
    else:
        messages = []
        for stamp, unit in zip(stamps, units, strict=True):
            data, header = np.frombuffer(unit, np.uint8), ros2.header(stamp)
            if kind == "CompressedImage":
                messages.append((f"{TOPIC}/h264", stamp, ros2.compressed(unit, stamp, "h264")))
            elif kind == "FFMPEGPacket":
                messages.append(foreign.make(
                    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", stamp, header=header, width=96, height=64,
                    encoding="libx264", pts=0, flags=0, is_bigendian=False, data=data,
                ))  # fmt: skip
            else:
                messages.append(foreign.make(
                    "foxglove_msgs/msg/CompressedVideo", stamp, timestamp=header.stamp, frame_id="cam", data=data, format="h264"
                ))  # fmt: skip
        path = ros2.write(tmp_path / "x", messages)
    with open_frames(path) as source:
        frames = list(source)
    assert [frame.stamp_ns for frame in frames] == stamps
    assert all(abs(frame.image.mean() - 40 - 20 * index) < 4 for index, frame in enumerate(frames))
    assert source.skipped == 0


def test_packets_before_the_first_key_frame_are_told_at_once(tmp_path, ros2, encode_video, caplog):
    units = [*encode_video()[1:4], *encode_video()]
    messages = [(f"{TOPIC}/h264", n * SECOND, ros2.compressed(unit, n * SECOND, "h264")) for n, unit in enumerate(units, 1)]
    with caplog.at_level(logging.WARNING), open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert [frame.stamp_ns // SECOND for frame in source] == [4, 5, 6, 7, 8, 9]
    assert source.skipped == 3
    assert caplog.text.count("key frame") == 1


def test_video_in_messages_without_its_decoder_is_one_sentence(tmp_path, ros2, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    messages = [(f"{TOPIC}/h264", n, ros2.compressed(b"\0\0\0\1\x67" + bytes(20), n, "h264")) for n in (1, 2, 3)]
    with pytest.raises(InputError, match=r"/camera/image_raw/h264: h264 video needs PyAV.* pip install av, .*extra video"):
        open_frames(ros2.write(tmp_path / "x", messages))


@pytest.mark.parametrize(
    ("name", "data", "codec"),
    [
        ("h264", b"", "h264"),
        ("libx264;yuv420p;bgr8", b"", "h264"),
        ("hevc_nvenc", b"", "hevc"),
        ("h265", b"", "hevc"),
        ("jpeg", b"\xff\xd8\xff", None),
        ("", b"\0\0\0\1\x67", "h264"),
        ("", b"\0\0\1\x40", "hevc"),
        ("rgb8; png compressed rgb8", b"\x89PNG", None),
    ],
)
def test_codec_is_told_by_name_or_by_the_first_bytes(name, data, codec):
    assert codec_of(name, data) == codec


def test_images_of_the_zstd_transport_are_read(tmp_path, ros2, random_image):
    image = random_image(4, 6)
    packed = struct.pack("<IIBII", 4, 6, 0, 18, 4) + b"rgb8" + zstd.compress(image.tobytes())
    (frame,) = open_frames(ros2.write(tmp_path / "x", [(f"{TOPIC}/zstd", 1, ros2.compressed(packed, 1, "zstd"))]))
    assert frame.image.tolist() == image.tolist()


def test_damaged_image_of_the_zstd_transport_is_skipped(tmp_path, ros2, random_image, caplog):
    image = random_image(4, 6)
    whole = struct.pack("<IIBII", 4, 6, 0, 18, 4) + b"rgb8" + zstd.compress(image.tobytes())
    messages = [(f"{TOPIC}/zstd", n, ros2.compressed(data, n, "zstd")) for n, data in ((1, whole), (2, whole[:-9]))]
    with open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert len(list(source)) == 1
    assert "zstd transport cannot be unpacked" in caplog.text


def test_image_of_the_zstd_transport_that_promises_too_much_is_not_unpacked(ros2):
    packed = struct.pack("<IIBII", 2**16, 6, 0, 2**16, 4) + b"rgb8" + zstd.compress(bytes(72))
    with pytest.raises(InputError, match="an image of 65536 rows of 65536 bytes is not believable"):
        unpack_zstd(ros2.compressed(packed, 1, "zstd"))


def test_mosaic_in_a_compressed_image_is_debayered(tmp_path, ros2):
    mosaic = np.zeros((16, 16), np.uint8)
    mosaic[::2, ::2] = 200  # red alone is lit
    message = ros2.compressed(png(mosaic), 1, "bayer_rggb8; png compressed ")
    (frame,) = open_frames(ros2.write(tmp_path / "x", [(f"{TOPIC}/compressed", 1, message)]))
    red, green, blue = frame.image[4:12, 4:12].mean(axis=(0, 1))
    assert red > 150 and green < 20 and blue < 20


def test_debayered_image_that_was_compressed_in_colour_is_left_alone(tmp_path, ros2, random_image):
    image = random_image()
    message = ros2.compressed(png(image), 1, "bayer_rggb8; png compressed bgr8")
    (frame,) = open_frames(ros2.write(tmp_path / "x", [(f"{TOPIC}/compressed", 1, message)]))
    assert frame.image.tolist() == image.tolist()


def test_channels_that_were_compressed_as_rgb_come_in_their_order(tmp_path, ros2, random_image):
    image = random_image()
    message = ros2.compressed(png(image[:, :, ::-1]), 1, "rgb8; png compressed rgb8")
    (frame,) = open_frames(ros2.write(tmp_path / "x", [(f"{TOPIC}/compressed", 1, message)]))
    assert frame.image.tolist() == image.tolist()


def test_few_bits_of_sixteen_are_told_and_can_be_said(tmp_path, ros2, caplog):
    samples = np.full((4, 6), 0x0ABC, np.uint16)
    messages = [(TOPIC, n, ros2.image(samples, n, "mono16")) for n in range(1, 6)]
    path = ros2.write(tmp_path / "x", messages)
    dark = [frame.image.max() for frame in open_frames(path)]
    assert dark == [0x0A] * 5
    assert caplog.text.count("look black when divided by 256; try --bits 12") == 1
    caplog.clear()
    assert [frame.image.max() for frame in open_frames(path, bits=12)] == [0xAB] * 5
    assert not caplog.text


def test_values_above_the_bits_said_are_white(tmp_path, ros2):
    message = ros2.image(np.full((4, 6), 0x0400, np.uint16), 1, "mono16")
    (frame,) = open_frames(ros2.write(tmp_path / "x", [(TOPIC, 1, message)]), bits=10)
    assert frame.image.min() == 255


def test_raw_and_compressed_topic_are_one_camera(tmp_path, ros2, random_image, caplog):
    raw, other = random_image(seed=1), random_image(seed=2)
    messages = [(f"{TOPIC}/compressed", 1, ros2.compressed(png(other), 1)), (TOPIC, 2, ros2.image(raw, 2))]
    with open_frames(ros2.write(tmp_path / "x", messages)) as source:
        assert next(source).image.tolist() == raw.tolist()
    assert source.topic == TOPIC
    assert f"reading {TOPIC}; the same camera is on {TOPIC}/compressed too" in caplog.text


def test_compressed_topics_of_two_cameras_are_two(tmp_path, ros2, random_image):
    messages = [(f"/{side}/image_raw/compressed", 1, ros2.compressed(png(random_image()), 1)) for side in ("left", "right")]
    with pytest.raises(InputError, match="several image topics, choose one with --topic"):
        open_frames(ros2.write(tmp_path / "x", messages))


def write_split(ros2, folder, random_image, parts=3, each=2):
    """A bag in several files, by hand, for rosbags writes one."""
    folder.mkdir()
    files = []
    for part in range(parts):
        stamps = [SECOND * 100 + (part * each + n) * SECOND // 10 for n in range(each)]
        single = ros2.write(folder / "part", [(TOPIC, stamp, ros2.image(random_image(), stamp)) for stamp in stamps])
        (single / "part.mcap").rename(folder / f"x_{part}.mcap")
        about = yaml.safe_load((single / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        (single / "metadata.yaml").unlink()
        single.rmdir()
        files.append({"path": f"x_{part}.mcap", "starting_time": {"nanoseconds_since_epoch": stamps[0]},
                      "duration": {"nanoseconds": stamps[-1] - stamps[0]}, "message_count": each})  # fmt: skip
    about["topics_with_message_count"][0]["message_count"] = about["message_count"] = parts * each
    about["relative_file_paths"], about["files"] = [file["path"] for file in files], files
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": about}))
    return folder


def test_missing_part_of_a_split_bag_is_named_counted_and_a_hole(tmp_path, ros2, random_image, caplog):
    path = write_split(ros2, tmp_path / "x", random_image)
    with open_frames(path) as source:
        assert [frame.after_loss for frame in source] == [False] * 6
    (path / "x_1.mcap").unlink()
    with open_frames(path) as source:
        assert [(frame.name, frame.after_loss) for frame in source] == [
            ("000000", False), ("000001", False), ("000002", True), ("000003", False),
        ]  # fmt: skip
    assert source.skipped == 1
    assert "x_1.mcap is missing, of the 3 files that metadata.yaml names" in caplog.text


def test_part_of_a_bag_beside_what_macos_puts_there_is_read(tmp_path, ros2, random_image):
    path = ros2.write(tmp_path / "x", [(TOPIC, 1, ros2.image(random_image(), 1))])
    (path / "metadata.yaml").unlink()
    (path / "._x.mcap").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    with open_frames(path) as source:
        assert len(list(source)) == 1
    assert source.skipped == 0


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("whole", [True, False])
def test_compressed_bag_without_metadata_is_read_as_far_as_it_goes(tmp_path, ros2, random_image, storage, whole):
    path = ros2.write(tmp_path / "x", [(TOPIC, n, ros2.image(random_image(64, 64, n), n)) for n in range(1, 30)], storage)
    suffix = "mcap" if storage == "mcap" else "db3"
    packed = zstd.compress((path / f"x.{suffix}").read_bytes())
    file = tmp_path / f"y.{suffix}.zstd"
    file.write_bytes(packed if whole else packed[: len(packed) // 2])
    with open_frames(file) as source:
        frames = list(source)
    assert len(frames) == 29 if whole else 0 < len(frames) < 29
    assert frames[0].image.tolist() == random_image(64, 64, 1).tolist()
    assert (source.skipped == 0) == whole


def test_definitions_are_those_that_rosbags_can_parse(foreign):
    assert set(DEFINITIONS) <= set(foreign.types)
