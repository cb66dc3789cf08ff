"""Recordings that people have, the command that they give them to, and what must happen; `inputs.py` tries them all."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import input_makers as make
import numpy as np
from input_makers import ROS2, SECOND, TOPIC, Case, bag, images, picture, video


def _grey16(image: np.ndarray, shift: int = 8) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) << shift


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _combed() -> list[np.ndarray]:
    """Fields of a moving bar."""
    frames = make.pictures(8, 64, 96)
    for index, frame in enumerate(frames):
        for parity in (0, 1):
            left = 8 * index + 4 * parity
            frame[28 + parity : 36 : 2, left : left + 8] = 220
    return frames


def _pillow(name: str, mode: str) -> None:
    from PIL import Image

    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(picture()).convert(mode).save(name)


V, F, B = "Videos", "Images and folders", "Bags"

# fmt: off
RECORDINGS = [
    Case(V, "H.264 in MP4", lambda: video("v.mp4"), "segment v.mp4", 5, size=(64, 48)),
    Case(V, "H.264 with sound", lambda: video("v.mp4", sound=True), "segment v.mp4", 5),
    Case(V, "H.265", lambda: video("v.mp4", "libx265"), "segment v.mp4", 5),
    Case(V, "H.265 of 10 bits", lambda: video("v.mkv", "libx265", "yuv420p10le"), "segment v.mkv", 5),
    Case(V, "VP8 in WebM", lambda: video("v.webm", "libvpx"), "segment v.webm", 5),
    Case(V, "VP9 in WebM", lambda: video("v.webm", "libvpx-vp9"), "segment v.webm", 5),
    Case(V, "VP9 with transparency", lambda: video("v.webm", "libvpx-vp9", "yuva420p"), "segment v.webm", 5),
    Case(V, "AV1", lambda: video("v.mkv", "libsvtav1"), "segment v.mkv", 5),
    Case(V, "MPEG-4 part 2 in AVI", lambda: video("v.avi", "mpeg4"), "segment v.avi", 5),
    Case(V, "motion JPEG", lambda: video("v.avi", "mjpeg", "yuvj420p"), "segment v.avi", 5),
    Case(V, "MPEG-2 transport stream", lambda: video("v.ts", "mpeg2video"), "segment v.ts", 5),
    Case(V, "ProRes of 10 bits", lambda: video("v.mov", "prores_ks", "yuv422p10le"), "segment v.mov", 5),
    Case(V, "FFV1 of 16 bits", lambda: video("v.mkv", "ffv1", "gbrp16le"), "segment v.mkv", 5),
    Case(V, "QuickTime animation with alpha", lambda: video("v.mov", "qtrle", "argb"), "segment v.mov", 5),
    Case(V, "uncompressed", lambda: video("v.avi", "rawvideo", "bgr24"), "segment v.avi", 5),
    Case(V, "grey", lambda: video("v.mkv", "ffv1", "gray"), "segment v.mkv", 5, looks="grey"),
    Case(V, "animated GIF", lambda: video("v.gif", "gif", "rgb8"), "segment v.gif", 5),
    Case(V, "Windows Media", lambda: video("v.wmv", "wmv2"), "segment v.wmv", 5),
    Case(V, "name in capitals", lambda: video("v.mp4").rename("V.MP4"), "segment V.MP4", 5),
    Case(V, "MP4 called .avi", lambda: video("v.mp4").rename("v.avi"), "segment v.avi", 5),
    Case(V, "MP4 without an extension", lambda: video("v.mp4").rename("drive"), "segment drive", 5),
    Case(V, "telephone, turned by 90°", lambda: make.turned_video("v.mp4"), "segment v.mp4", 5, size=(64, 48)),
    Case(V, "changing rate", lambda: video("v.mp4", times=[0, 1, 2, 7, 12]), "segment v.mp4", 5),
    Case(V, "pixels 2:1", lambda: video("v.mp4", frames=make.pictures(5, 64, 64), aspect=Fraction(2, 1)), "segment v.mp4", 5),
    Case(
        V, "interlaced", lambda: video("v.mp4", frames=_combed(), options={"flags": "+ilme+ildct", "x264-params": "tff=1"}),
        "segment v.mp4", 8,
    ),
    Case(V, "one frame", lambda: video("v.mp4", frames=make.pictures(1)), "segment v.mp4", 1),
    Case(
        V, "odd size, 63x49", lambda: video("v.mkv", "ffv1", "yuv444p", frames=make.pictures(3, 49, 63)), "segment v.mkv", 3,
        size=(63, 49),
    ),
    Case(
        V, "2x2 pixels", lambda: video("v.mkv", "ffv1", "yuv444p", frames=make.pictures(3, 2, 2)), "segment v.mkv", 3,
        size=(2, 2),
    ),
    Case(V, "4 MB header, index at the end", lambda: make.long_header("v.mp4"), "segment v.mp4", 5),
    Case(
        V, "bytes damaged in the middle",
        lambda: (video("v.mp4", frames=make.noise(24), options={"g": "6"}), make.damage("v.mp4", 3000)), "segment v.mp4",
        says=("damaged",), looks="colour", partial=True,
    ),
    Case(V, "MP4 cut off", lambda: (video("v.mp4"), make.cut("v.mp4")), "segment v.mp4", 0, ("cut off",), 3, absent=("out",)),
    Case(
        V, "MKV cut off, its index promises more", lambda: (video("v.mkv", frames=make.noise(24)), make.cut("v.mkv")),
        "segment v.mkv", says=("the video breaks off after",), partial=True,
    ),
    Case(V, "zero bytes", lambda: make.write("v.mp4"), "segment v.mp4", 0, ("got a file of 0 bytes",), 3),
    Case(V, "text called .mp4", lambda: make.write("v.mp4", "hello\n" * 99), "segment v.mp4", 0, ("wanted a video",), 3),
    Case(V, "sound alone", lambda: make.sound_only("v.mp4"), "segment v.mp4", 0, ("v.mp4",), 3),
    Case(V, "PNG called .mp4", lambda: (images("{}.png", 1), Path("0.png").rename("v.mp4")), "segment v.mp4", 1),
    Case(V, "no such file", lambda: video("drive.mp4"), "segment drvie.mp4", 0, ("drvie.mp4", "no such file"), 3),
    Case(V, "piped in", lambda: video("v.mkv"), "segment - < v.mkv", 5),
    Case(V, "two videos", lambda: (video("a.mp4"), video("b.mp4")), "segment a.mp4 b.mp4", 10, files=("out/a", "out/b")),
    Case(V, "first seconds left out", lambda: video("v.mp4"), "segment v.mp4 --start 0.2", 3),
    Case(V, "start after the end", lambda: video("v.mp4"), "segment v.mp4 --start 60", 0, ("no frame lies after",), 3),
    Case(V, "twice the size from the middle on", lambda: make.joined("v.ts"), "segment v.ts", 6, size=(64, 48)),
    Case(V, "H.264 without a container", lambda: video("v.h264"), "segment v.h264", 5),
    Case(V, "a cover picture beside the film", lambda: make.with_cover("v.mp4"), "segment v.mp4", 5, size=(64, 48)),
    Case(V, "begins at 10 s", lambda: video("v.mkv", times=range(100, 105)), "segment v.mkv --start 0.2", 3),
    Case(V, "one file twice, by two names", lambda: video("v.mp4"), "segment v.mp4 ./v.mp4", 10),
    Case(V, "pauses of a minute", lambda: video("v.mkv", times=[0, 1, 600, 601, 602]), "segment v.mkv", 5, ("1 gap",)),
    Case(
        V, "turned camera, --rotate 180", lambda: video("v.mp4", frames=[i[::-1, ::-1] for i in make.pictures()]),
        "segment v.mp4 --rotate 180", 5, looks=None,
    ),
    Case(
        V, "a web page called .mp4", lambda: make.write("v.mp4", "<!DOCTYPE html><html><body>404</body></html>"),
        "segment v.mp4", 0, ("wanted a video",), 3,
    ),
    Case(
        V, "the first packets are lost",
        lambda: (video("v.ts", frames=make.noise(24), options={"g": "6"}), make.behead("v.ts")), "segment v.ts",
        looks="colour",
    ),
    Case(F, "PNG", lambda: images("i/{}.png"), "segment i", 3, size=(64, 48)),
    Case(F, "JPEG", lambda: images("i/{}.jpg"), "segment i", 3),
    Case(F, "PNG of 16 bits", lambda: images("i/{}.png", change=lambda i: i.astype(np.uint16) * 257), "segment i", 3),
    Case(F, "grey PNG", lambda: images("i/{}.png", change=_grey), "segment i", 3, looks="grey"),
    Case(F, "PNG with alpha", lambda: images("i/{}.png", change=lambda i: np.dstack([i, i[..., :1] * 0 + 9])), "segment i", 3),
    Case(F, "PNG with a palette", lambda: _pillow("i/0.png", "P"), "segment i", 1),
    Case(F, "CMYK JPEG", lambda: _pillow("i/0.jpg", "CMYK"), "segment i", 1),
    Case(
        F, "grey TIFF of 12 bits in 16", lambda: images("i/{}.tif", change=lambda i: _grey16(i, 4)), "segment i", 3,
        ("--bits 12",), looks=None,
    ),
    Case(
        F, "the same with --bits 12", lambda: images("i/{}.tif", change=lambda i: _grey16(i, 4)), "segment i --bits 12", 3,
        looks="grey",
    ),
    Case(
        F, "BMP, PPM, WebP together", lambda: [images("i/a{}" + end, 1) for end in (".bmp", ".ppm", ".webp")], "segment i", 3,
    ),
    Case(
        F, "floating-point TIFF", lambda: images("i/{}.tif", change=lambda i: _grey(i).astype(np.float32) / 255), "segment i",
        0, ("float32",), 3,
    ),
    Case(F, "photograph with EXIF turn", lambda: make.exif_turned("a.jpg"), "segment a.jpg", 1, size=(64, 48)),
    Case(F, "one image", lambda: images("{}.png", 1), "segment 0.png", 1),
    Case(
        F, "sizes that change", lambda: [make.write(f"i/{n}.png", make.encode(picture(n, 48 + 8 * n))) for n in range(3)],
        "segment i", 3,
    ),
    Case(F, "unicode, spaces, brackets", lambda: images("Bilder [ä] 道路/Straße {}.png"), "segment 'Bilder [ä] 道路'", 3),
    Case(F, "AppleDouble files", lambda: (images("i/{}.png"), make.write("i/._0.png", b"\0\5\26\7")), "segment i", 3),
    Case(F, "folders in a folder", lambda: (images("i/a/{}.png"), images("i/b/{}.png")), "segment i", 6),
    Case(F, "images and a folder of images", lambda: (images("i/{}.png"), images("i/b/{}.png")), "segment i", 3),
    Case(F, "frame_%04d", lambda: images("frame_{:04d}.png"), "segment frame_%04d.png", 3),
    Case(F, "glob in quotes", lambda: (images("l{}.png"), images("r{}.png")), "segment 'l*.png'", 3),
    Case(F, "glob that fits nothing", lambda: images("l{}.png"), "segment 'x*.png'", 0, ("x*.png",), 3),
    Case(F, "names that are nanoseconds", lambda: images("i/1700000000{}00000000.png"), "segment i", 3),
    Case(
        F, "numbers without zeros, 8 to 12",
        lambda: [make.write(f"i/{n}.png", make.encode(picture(n))) for n in range(8, 13)], "segment i", 5,
    ),
    Case(F, "list piped in", lambda: (images("{}.png"), make.write("list", "2.png\n0.png\n")), "segment - < list", 2),
    Case(
        F, "text and video beside images", lambda: (images("i/{}.png"), make.write("i/notes.txt", "x"), video("i/v.mp4")),
        "segment i", 3,
    ),
    Case(
        F, "corrupt picture in the middle", lambda: (images("i/{}.png"), make.write("i/1.png", b"\x89PNG\r\n\x1a\nxx")),
        "segment i", 2, ("1.png",), partial=True,
    ),
    Case(
        F, "JPEG cut off in the middle", lambda: (images("i/{}.jpg"), make.cut("i/1.jpg")), "segment i", 2, ("1.jpg",),
        partial=True,
    ),
    Case(
        F, "picture of zero bytes", lambda: (images("i/{}.png"), make.write("i/0.png")), "segment i", 2, ("0.png",),
        partial=True,
    ),
    Case(F, "text called .png, and no other", lambda: make.write("i/0.png", "hello"), "segment i", 0, ("0.png",), 3),
    Case(F, "empty folder", lambda: Path("i").mkdir(), "segment i", 0, ("empty folder",), 3, absent=("out",)),
    Case(F, "folder of text", lambda: make.write("i/notes.txt", "x"), "segment i", 0, ("wanted images",), 3),
    Case(
        F, "links to pictures", lambda: (images("s/{}.png"), [make.link(f"i/{n}.png", f"../s/{n}.png") for n in range(3)]),
        "segment i", 3,
    ),
    Case(
        F, "a link to nothing", lambda: (images("i/{}.png"), make.link("i/9.png", "nowhere.png")), "segment i", 3, ("9.png",),
        partial=True,
    ),
    Case(F, "link to a folder", lambda: (images("s/{}.png"), make.link("i", "s")), "segment i", 3),
    Case(F, "1x1 pixel", lambda: images("i/{}.png", change=lambda i: i[:1, :1]), "segment i", 3, looks=None, size=(1, 1)),
    Case(
        F, "very wide, 4000x8", lambda: images("i/{}.png", 1, lambda i: cv2.resize(i, (4000, 8), interpolation=0)),
        "segment i", 1, size=(4000, 8),
    ),
    Case(F, "grey with alpha", lambda: _pillow("i/0.png", "LA"), "segment i", 1, looks="grey"),
    Case(F, "black and white, 1 bit", lambda: _pillow("i/0.png", "1"), "segment i", 1, looks=None),
    Case(F, "PNG called .jpg", lambda: [make.write(f"i/{n}.jpg", make.encode(picture(n))) for n in range(3)], "segment i", 3),
    Case(
        F, "endings in capitals", lambda: (images("i/{}.png"), [Path(f"i/{n}.png").rename(f"i/{n}.PNG") for n in range(3)]),
        "segment i", 3,
    ),
    Case(F, "AVIF", lambda: images("i/{}.avif"), "segment i", 3),
    Case(F, "a.png and a.jpg", lambda: (images("i/a{}.png", 1), images("i/a{}.jpg", 1)), "segment i", 2),
    Case(F, "only AppleDouble files", lambda: make.write("i/._0.png", b"\0\5\26\7"), "segment i", 0, ("i",), 3),
    Case(F, "a folder called a.png", lambda: (images("i/{}.png"), Path("i/a.png").mkdir()), "segment i", 3),
    Case(F, "--stills", lambda: images("i/{}.png"), "segment i --stills", 3),
    Case(
        F, "a list with a name that is not there", lambda: (images("{}.png"), make.write("list", "0.png\n7.png\n")),
        "segment - < list", 0, ("7.png",), 3,
    ),
    Case(F, "nothing piped in", lambda: make.write("nothing"), "segment - < nothing", 0, ("empty",), 3),
    Case(F, "folder two levels too high", lambda: images("a/b/c/{}.png"), "segment a", 3),
    Case(
        F, "label maps beside the images", lambda: (images("i/images/{}.png"), images("i/labels/{}.png", change=_grey)),
        "segment i", says=("out/labels",), looks=None,
    ),
    Case(B, "ROS 1, raw", lambda: bag("x.bag", ros=1), "segment x.bag", 5),
    Case(B, "ROS 1, JPEG, LZ4", lambda: bag("x.bag", make.compressed(ros=1), 1, compress=True), "segment x.bag", 5),
    Case(B, "ROS 2, MCAP", lambda: bag("x"), "segment x", 5),
    Case(B, "ROS 2, sqlite3", lambda: bag("x", storage="sqlite3"), "segment x", 5),
    Case(
        B, "result bag beside labels", lambda: bag("x"), "segment x --save labels,bag", 5, looks=None,
        files=("out/result/metadata.yaml",),
    ),
    Case(B, "bgr8", lambda: bag("x", make.raw("bgr8", lambda i: i[..., ::-1])), "segment x", 5),
    Case(
        B, "rows with padding", lambda: bag("x", make.raw("rgb8", lambda i: np.pad(i, ((0, 0), (0, 4), (0, 0))), width=64)),
        "segment x", 5, size=(64, 48),
    ),
    Case(B, "Bayer, raw", lambda: bag("x", make.raw("bayer_rggb8", make.mosaic)), "segment x", 5),
    Case(
        B, "Bayer in CompressedImage", lambda: bag("x", make.compressed(".png", "bayer_rggb8; png compressed ", make.mosaic)),
        "segment x", 5,
    ),
    Case(
        B, "compressed rgb8", lambda: bag("x", make.compressed(".png", "rgb8; png compressed rgb8", lambda i: i[..., ::-1])),
        "segment x", 5,
    ),
    Case(B, "mono8", lambda: bag("x", make.raw("mono8", _grey)), "segment x", 5, looks="grey"),
    Case(
        B, "mono16 of 12 bits", lambda: bag("x", make.raw("mono16", lambda i: _grey16(i, 4))), "segment x", 5, ("--bits 12",),
        looks=None,
    ),
    Case(
        B, "depth, 32FC1", lambda: bag("x", make.raw("32FC1", lambda i: _grey(i).astype(np.float32))), "segment x", 0,
        ("32FC1",), 3,
    ),
    Case(B, "unknown encoding", lambda: bag("x", make.raw("rgb99")), "segment x", 0, ("rgb99",), 3),
    Case(
        B, "fewer bytes than height and step say", lambda: bag("x", make.raw(data=np.zeros(99, np.uint8))), "segment x", 0,
        ("99",), 3,
    ),
    Case(B, "H.264 in CompressedImage", lambda: bag("x", make.packets()), "segment x", 5),
    Case(B, "Foxglove CompressedImage", lambda: make.foxglove("x.mcap"), "segment x.mcap", 5),
    Case(
        B, "raw and compressed topic of a camera", lambda: bag("x", make.raw() + make.compressed()), "segment x", 5,
        ("the same camera",),
    ),
    Case(
        B, "two cameras, none chosen", lambda: bag("x", make.raw(topic="/a") + make.raw(topic="/b")), "segment x", 0,
        ("choose one with --topic", "/a", "/b"), 3,
    ),
    Case(
        B, "two cameras, both chosen", lambda: bag("x", make.raw(topic="/a") + make.raw(topic="/b")),
        "segment x --topic /a,/b", 10,
    ),
    Case(
        B, "typo in the topic", lambda: bag("x"), "segment x --topic /camera/imgae_raw", 0,
        ("did you mean /camera/image_raw?",), 3,
    ),
    Case(B, "no images", lambda: bag("x", [("/chatter", 1, ROS2.text("hi"))]), "segment x", 0, ("/chatter",), 3),
    Case(B, "no messages", lambda: bag("x", []), "segment x", 0, ("x",), 3),
    Case(
        B, "split, a part is missing", lambda: make.split_bag("x", 1), "segment x", 4, ("x_1.mcap is missing",), partial=True,
    ),
    Case(
        B, "MCAP cut off", lambda: (bag("x"), make.cut("x/x.mcap")), "segment x", says=("the file breaks off",), partial=True,
    ),
    Case(
        B, "ROS 1 bag cut off", lambda: (bag("x.bag", ros=1), make.cut("x.bag")), "segment x.bag", says=("x.bag",),
        partial=True,
    ),
    Case(
        B, "file of sqlite3 without metadata", lambda: (bag("x", storage="sqlite3"), Path("x/metadata.yaml").unlink()),
        "segment x", 5,
    ),
    Case(B, "MCAP alone", lambda: (bag("x"), Path("x/x.mcap").rename("drive.mcap")), "segment drive.mcap", 5),
    Case(B, ".mcap.zstd", lambda: (bag("x"), make.zstd("x/x.mcap")), "segment x.mcap.zstd", 5),
    Case(B, "stamps of zero", lambda: bag("x", make.restamped([0] * 5)), "segment x", 5, ("resets: 1 first_frame;",)),
    Case(
        B, "time jumps back", lambda: bag("x", make.restamped([*make.stamps(3), *make.stamps(2)])), "segment x", 5,
        ("1 backward",),
    ),
    Case(
        B, "5 s without images",
        lambda: bag("x", make.restamped([*make.stamps(3), 105 * SECOND, 105 * SECOND + SECOND // 10])), "segment x", 5,
        ("1 gap",),
    ),
    Case(
        B, "frame_id changes", lambda: bag("x", make.restamped(make.stamps(), ["a", "a", "b", "b", "b"])), "segment x", 5,
        ("1 frame_id",),
    ),
    Case(
        B, "image size changes",
        lambda: bag("x", [(TOPIC, t, ROS2.image(picture(n, 48 + 8 * (n > 2)), t)) for n, t in enumerate(make.stamps())]),
        "segment x", 5,
    ),
    Case(B, "text called .bag", lambda: make.write("x.bag", "hello"), "segment x.bag", 0, ("x.bag",), 3),
    Case(B, "8UC3", lambda: bag("x", make.raw("8UC3", lambda i: i[..., ::-1])), "segment x", 5),
    Case(B, "rgba8", lambda: bag("x", make.raw("rgba8", lambda i: np.dstack([i, i[..., 0]]))), "segment x", 5),
    Case(B, "rgb16", lambda: bag("x", make.raw("rgb16", lambda i: i.astype("<u2") * 257)), "segment x", 5),
    Case(
        B, "rgb16, big-endian",
        lambda: bag("x", make.raw("rgb16", lambda i: (i.astype(">u2") * 257).astype(">u2"), is_bigendian=1)), "segment x", 5,
    ),
    Case(
        B, "yuv422_yuy2", lambda: bag("x", make.raw("yuv422_yuy2", lambda i: cv2.cvtColor(i, cv2.COLOR_RGB2YUV_YUY2))),
        "segment x", 5,
    ),
    Case(
        B, "mono16 of 12 bits, --bits 12", lambda: bag("x", make.raw("mono16", lambda i: _grey16(i, 4))),
        "segment x --bits 12", 5, looks="grey",
    ),
    Case(B, "0x0 pixels", lambda: bag("x", make.raw(change=lambda i: i[:0, :0])), "segment x", 0, ("0",), 3),
    Case(
        B, "one image of five is damaged",
        lambda: bag("x", make.raw()[:2] + make.raw(data=np.zeros(9, np.uint8))[2:3] + make.raw()[3:]), "segment x", 4,
        ("message 2",), partial=True,
    ),
    Case(B, "compressed storage, zstd", lambda: bag("x", compress=True), "segment x", 5),
    Case(
        B, "sqlite3 cut off", lambda: (bag("x", make.raw() * 20, storage="sqlite3"), make.cut("x/x.db3")), "segment x",
        says=("x",), partial=True,
    ),
    Case(B, "metadata.yaml alone", lambda: (bag("x"), Path("x/x.mcap").unlink()), "segment x", 0, ("x.mcap",), 3),
    Case(B, "metadata.yaml is no YAML", lambda: (bag("x"), make.write("x/metadata.yaml", "{{{:")), "segment x", 5),
    Case(B, "zero bytes", lambda: make.write("x.mcap"), "segment x.mcap", 0, ("x.mcap",), 3),
    Case(
        B, "depth and labels beside the camera",
        lambda: bag("x", [*make.raw(), *make.raw("16UC1", _grey16, "/depth/i"), *make.raw("mono8", _grey, "/camera/labels")]),
        "segment x", 5,
    ),
    Case(B, "two bags", lambda: (bag("a"), bag("b")), "segment a b", 10, files=("out/a", "out/b")),
    Case(B, "folder of bags", lambda: (Path("d").mkdir(), bag("d/a"), bag("d/b")), "segment d", 10),
    Case(
        B, "topic of a text", lambda: bag("x", [*make.raw(), ("/chatter", 1, ROS2.text("hi"))]), "segment x --topic /chatter",
        0, ("std_msgs/msg/String",), 3,
    ),
    Case(
        B, "JPEG that is cut off in each message",
        lambda: bag("x", [(t, s, ROS2.compressed(bytes(m.data)[:300], s)) for t, s, m in make.compressed()]), "segment x", 0,
        ("damaged",), 3,
    ),
]
