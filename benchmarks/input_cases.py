"""What people have, the command that they give it to, and what must happen; for `inputs.py`, made by `input_makers.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import input_makers as make
import numpy as np
from input_makers import ROS2, SECOND, TOPIC, bag, images, picture, video

FOREIGN = "know a generated street and nothing else"


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        group: heading of the table.
        name: what the input is.
        make: makes it in the working directory.
        command: as typed after `lmanet`; `inputs.py` adds small weights and sizes.
        frames: label maps that must be written; None: not counted.
        says: what must be on standard error or output.
        code: exit code.
        looks: how the pictures that were read must look; None: not looked at.
        size: (width, height) of these pictures; None: any.
        partial: something is missing, and `summary.json` must say so.
        piped: what comes in on standard input.
        files: must be there afterwards; `absent`: must not.
        replaces: files that may change.
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
    piped: bytes = b""
    files: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()


def _several(*steps: Callable[[], object]) -> Callable[[], object]:
    return lambda: [step() for step in steps]


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


V, F, B, W, L, S, O = "Videos", "Images and folders", "Bags", "Weights", "Labels of `evaluate`", "Settings", "Results"

CASES = [
    # ---- videos
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
        V, "interlaced",
        lambda: video("v.mp4", frames=_combed(), options={"flags": "+ilme+ildct", "x264-params": "tff=1"}), "segment v.mp4", 8,
    ),
    Case(V, "one frame", lambda: video("v.mp4", frames=make.pictures(1)), "segment v.mp4", 1),
    Case(V, "odd size, 63x49", lambda: video("v.mkv", "ffv1", "yuv444p", frames=make.pictures(3, 49, 63)), "segment v.mkv", 3, size=(63, 49)),
    Case(V, "2x2 pixels", lambda: video("v.mkv", "ffv1", "yuv444p", frames=make.pictures(3, 2, 2)), "segment v.mkv", 3, size=(2, 2)),
    Case(V, "4 MB header, index at the end", lambda: make.long_header("v.mp4"), "segment v.mp4", 5),
    Case(
        V, "bytes damaged in the middle",
        lambda: (video("v.mp4", frames=make.noise(24), options={"g": "6"}), make.damage("v.mp4", 3000)), "segment v.mp4",
        says=("damaged",), looks="colour", partial=True,
    ),
    Case(
        V, "MP4 cut off", lambda: (video("v.mp4"), make.cut("v.mp4")), "segment v.mp4", 0, ("cut off",), 3, absent=("out",),
    ),
    Case(
        V, "MKV cut off, its index promises more", lambda: (video("v.mkv", frames=make.noise(24)), make.cut("v.mkv")),
        "segment v.mkv", says=("cut off",), partial=True,
    ),
    Case(V, "zero bytes", lambda: make.write("v.mp4"), "segment v.mp4", 0, ("v.mp4", "empty"), 3),
    Case(V, "text called .mp4", lambda: make.write("v.mp4", "hello\n" * 99), "segment v.mp4", 0, ("wanted a video",), 3),
    Case(V, "sound alone", lambda: make.sound_only("v.mp4"), "segment v.mp4", 0, ("v.mp4",), 3),
    Case(V, "PNG called .mp4", lambda: (images("{}.png", 1), Path("0.png").rename("v.mp4")), "segment v.mp4", 0, ("v.mp4",), 3),
    Case(V, "no such file", lambda: video("drive.mp4"), "segment drvie.mp4", 0, ("drvie.mp4", "no such file"), 3),
    Case(V, "piped in", lambda: None, "segment -", 5, piped=b"video"),
    Case(V, "two videos", lambda: (video("a.mp4"), video("b.mp4")), "segment a.mp4 b.mp4", 10, files=("out/a", "out/b")),
    Case(V, "first seconds left out", lambda: video("v.mp4"), "segment v.mp4 --start 0.2", 3),
    Case(V, "start after the end", lambda: video("v.mp4"), "segment v.mp4 --start 60", 0, ("no frame lies after",), 3),
    # ---- images
    Case(F, "PNG", lambda: images("i/{}.png"), "segment i", 3, size=(64, 48)),
    Case(F, "JPEG", lambda: images("i/{}.jpg"), "segment i", 3),
    Case(F, "PNG of 16 bits", lambda: images("i/{}.png", change=lambda i: i.astype(np.uint16) * 257), "segment i", 3),
    Case(F, "grey PNG", lambda: images("i/{}.png", change=_grey), "segment i", 3, looks="grey"),
    Case(F, "PNG with alpha", lambda: images("i/{}.png", change=lambda i: np.dstack([i, i[..., :1] * 0 + 9])), "segment i", 3),
    Case(F, "PNG with a palette", lambda: _pillow("i/0.png", "P"), "segment i", 1),
    Case(F, "CMYK JPEG", lambda: _pillow("i/0.jpg", "CMYK"), "segment i", 1),
    Case(F, "grey TIFF of 12 bits in 16", lambda: images("i/{}.tif", change=lambda i: _grey16(i, 4)), "segment i", 3, ("--bits 12",), looks=None),
    Case(F, "the same with --bits 12", lambda: images("i/{}.tif", change=lambda i: _grey16(i, 4)), "segment i --bits 12", 3, looks="grey"),
    Case(F, "BMP, PPM, WebP together", lambda: [images("i/a{}" + end, 1) for end in (".bmp", ".ppm", ".webp")], "segment i", 3),
    Case(F, "floating-point TIFF", lambda: images("i/{}.tif", change=lambda i: _grey(i).astype(np.float32) / 255), "segment i", 0, ("float32",), 3),
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
    Case(F, "numbers without zeros, 8 to 12", lambda: [make.write(f"i/{n}.png", make.encode(picture(n))) for n in range(8, 13)], "segment i", 5),
    Case(F, "list piped in", lambda: images("{}.png"), "segment -", 2, piped=b"2.png\n0.png\n"),
    Case(F, "text and video beside images", lambda: (images("i/{}.png"), make.write("i/notes.txt", "x"), video("i/v.mp4")), "segment i", 3),
    Case(F, "corrupt picture in the middle", lambda: (images("i/{}.png"), make.write("i/1.png", b"\x89PNG\r\n\x1a\nxx")), "segment i", 2, ("1.png",), partial=True),
    Case(F, "JPEG cut off in the middle", lambda: (images("i/{}.jpg"), make.cut("i/1.jpg")), "segment i", 2, ("1.jpg",), partial=True),
    Case(F, "picture of zero bytes", lambda: (images("i/{}.png"), make.write("i/0.png")), "segment i", 2, ("0.png",), partial=True),
    Case(F, "text called .png, and no other", lambda: make.write("i/0.png", "hello"), "segment i", 0, ("0.png",), 3),
    Case(F, "empty folder", lambda: Path("i").mkdir(), "segment i", 0, ("empty folder",), 3, absent=("out",)),
    Case(F, "folder of text", lambda: make.write("i/notes.txt", "x"), "segment i", 0, ("wanted images",), 3),
    Case(F, "links to pictures", lambda: (images("s/{}.png"), [make.link(f"i/{n}.png", f"../s/{n}.png") for n in range(3)]), "segment i", 3),
    Case(F, "a link to nothing", lambda: (images("i/{}.png"), make.link("i/9.png", "nowhere.png")), "segment i", 3, ("9.png",), partial=True),
    Case(F, "link to a folder", lambda: (images("s/{}.png"), make.link("i", "s")), "segment i", 3),
    # ---- bags
    Case(B, "ROS 1, raw", lambda: bag("x.bag", ros=1), "segment x.bag", 5),
    Case(B, "ROS 1, JPEG, LZ4", lambda: bag("x.bag", make.compressed(ros=1), 1, compress=True), "segment x.bag", 5),
    Case(B, "ROS 2, MCAP", lambda: bag("x"), "segment x", 5),
    Case(B, "ROS 2, sqlite3", lambda: bag("x", storage="sqlite3"), "segment x", 5),
    Case(B, "result bag beside labels", lambda: bag("x"), "segment x --save labels,bag", 5, looks=None, files=("out/result/metadata.yaml",)),
    Case(B, "bgr8", lambda: bag("x", make.raw("bgr8", lambda i: i[..., ::-1])), "segment x", 5),
    Case(B, "rows with padding", lambda: bag("x", make.raw("rgb8", lambda i: np.pad(i, ((0, 0), (0, 4), (0, 0))), width=64)), "segment x", 5, size=(64, 48)),
    Case(B, "Bayer, raw", lambda: bag("x", make.raw("bayer_rggb8", make.mosaic)), "segment x", 5),
    Case(B, "Bayer in CompressedImage", lambda: bag("x", make.compressed(".png", "bayer_rggb8; png compressed ", make.mosaic)), "segment x", 5),
    Case(B, "compressed rgb8", lambda: bag("x", make.compressed(".png", "rgb8; png compressed rgb8", lambda i: i[..., ::-1])), "segment x", 5),
    Case(B, "mono8", lambda: bag("x", make.raw("mono8", _grey)), "segment x", 5, looks="grey"),
    Case(B, "mono16 of 12 bits", lambda: bag("x", make.raw("mono16", lambda i: _grey16(i, 4))), "segment x", 5, ("--bits 12",), looks=None),
    Case(B, "depth, 32FC1", lambda: bag("x", make.raw("32FC1", lambda i: _grey(i).astype(np.float32))), "segment x", 0, ("32FC1",), 3),
    Case(B, "unknown encoding", lambda: bag("x", make.raw("rgb99")), "segment x", 0, ("rgb99",), 3),
    Case(B, "fewer bytes than height and step say", lambda: bag("x", make.raw(data=np.zeros(99, np.uint8))), "segment x", 0, ("99",), 3),
    Case(B, "H.264 in CompressedImage", lambda: bag("x", make.packets()), "segment x", 5),
    Case(B, "Foxglove CompressedImage", lambda: make.foxglove("x.mcap"), "segment x.mcap", 5),
    Case(B, "raw and compressed topic of a camera", lambda: bag("x", make.raw() + make.compressed()), "segment x", 5, ("the same camera",)),
    Case(B, "two cameras, none chosen", lambda: bag("x", make.raw(topic="/a") + make.raw(topic="/b")), "segment x", 0, ("choose one with --topic", "/a", "/b"), 3),
    Case(B, "two cameras, both chosen", lambda: bag("x", make.raw(topic="/a") + make.raw(topic="/b")), "segment x --topic /a,/b", 10),
    Case(B, "typo in the topic", lambda: bag("x"), "segment x --topic /camera/imgae_raw", 0, ("did you mean /camera/image_raw?",), 3),
    Case(B, "no images", lambda: bag("x", [("/chatter", 1, ROS2.text("hi"))]), "segment x", 0, ("/chatter",), 3),
    Case(B, "no messages", lambda: bag("x", []), "segment x", 0, ("x",), 3),
    Case(B, "split, a part is missing", lambda: make.split_bag("x", 1), "segment x", 4, ("x_1.mcap is missing",), partial=True),
    Case(B, "MCAP cut off", lambda: (bag("x"), make.cut("x/x.mcap")), "segment x", says=("x.mcap",), partial=True),
    Case(B, "ROS 1 bag cut off", lambda: (bag("x.bag", ros=1), make.cut("x.bag")), "segment x.bag", says=("x.bag",), partial=True),
    Case(B, "file of sqlite3 without metadata", lambda: (bag("x", storage="sqlite3"), Path("x/metadata.yaml").unlink()), "segment x", 5),
    Case(B, "MCAP alone", lambda: (bag("x"), Path("x/x.mcap").rename("drive.mcap")), "segment drive.mcap", 5),
    Case(B, ".mcap.zstd", lambda: (bag("x"), make.zstd("x/x.mcap")), "segment x.mcap.zstd", 5),
    Case(B, "stamps of zero", lambda: bag("x", make.restamped([0] * 5)), "segment x", 5, ("resets: 1 first_frame;",)),
    Case(B, "time jumps back", lambda: bag("x", make.restamped([*make.stamps(3), *make.stamps(2)])), "segment x", 5, ("1 backward",)),
    Case(B, "5 s without images", lambda: bag("x", make.restamped([*make.stamps(3), 105 * SECOND, 105 * SECOND + SECOND // 10])), "segment x", 5, ("1 gap",)),
    Case(B, "frame_id changes", lambda: bag("x", make.restamped(make.stamps(), ["a", "a", "b", "b", "b"])), "segment x", 5, ("1 frame_id",)),
    Case(B, "image size changes", lambda: bag("x", [(TOPIC, t, ROS2.image(picture(n, 48 + 8 * (n > 2)), t)) for n, t in enumerate(make.stamps())]), "segment x", 5),
    Case(B, "text called .bag", lambda: make.write("x.bag", "hello"), "segment x.bag", 0, ("x.bag",), 3),
    # ---- weights
    *(
        Case(W, name, lambda made=made: (images("i/{}.png"), made()), f"segment i --weights {weights}", frames, says, code, absent=absent)
        for name, made, weights, frames, says, code, absent in (
            ("none given: those that ship", lambda: None, "''", 3, (FOREIGN,), 0, ()),
            ("ERFNet as published", lambda: None, "../erfnet.pth", 3, (), 0, ()),
            ("{'state_dict': …}", lambda: make.state(lambda t: {"epoch": 3, "state_dict": t}), "w.pth", 3, (), 0, ()),
            ("{'model': …} with _orig_mod.", lambda: make.state(lambda t: {"model": make.prefixed("_orig_mod.")(t)}), "w.pth", 3, (), 0, ()),
            ("prefix net.", lambda: make.state(make.prefixed("net.")), "w.pth", 3, (), 0, ()),
            ("TorchScript", lambda: make.scripted("w.pt"), "w.pt", 3, (), 0, ()),
            ("ONNX", lambda: make.onnx_model("w.onnx"), "w.onnx", 3, (), 0, ()),
            ("safetensors without our metadata", lambda: make.safetensors_without_metadata("w.safetensors"), "w.safetensors", 0, ("w.safetensors",), 4, ()),
            ("NaN", lambda: make.state(make.changed("output_conv.weight", lambda v: v * float("nan"))), "w.pth", 0, ("w.pth",), 4, ()),
            ("one tensor of another shape", lambda: make.state(make.changed("output_conv.weight", lambda v: v[:, :2])), "w.pth", 0, ("output_conv.weight",), 4, ()),
            ("a tensor is missing", lambda: make.state(lambda t: dict(list(t.items())[:-3])), "w.pth", 0, ("w.pth",), 4, ()),
            ("a network that is not known", lambda: make.state(make.prefixed("a.b.c.")), "w.pth", 0, ("w.pth",), 4, ()),
            ("pickle that runs code", lambda: make.pickle_with_code("w.pth"), "w.pth", 0, ("w.pth",), 4, ("touched",)),
            ("text called .pth", lambda: make.write("w.pth", "hello"), "w.pth", 0, ("w.pth",), 4, ()),
            ("safetensors cut off", lambda: (shutil.copy("../weights.safetensors", "w.safetensors"), make.cut("w.safetensors")), "w.safetensors", 0, ("w.safetensors",), 4, ()),
            ("page of Git LFS in place of the file", lambda: make.write("w.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "w.safetensors", 0, ("w.safetensors",), 4, ()),
            ("zero bytes", lambda: make.write("w.pth"), "w.pth", 0, ("w.pth",), 4, ()),
            ("no such file", lambda: None, "nope.pth", 0, ("nope.pth",), 4, ()),
            ("a folder", lambda: Path("w").mkdir(), "w", 0, ("w",), 4, ()),
        )
    ),
    # ---- labels
    *(
        Case(L, name, made, f"evaluate img --labels lab{options}", None, says, code, looks=None)
        for name, made, options, says, code in (
            ("train ids", lambda: make.labelled(lambda ids: ids), "", ("miou",), 0),
            ("label ids of Cityscapes, with the mapping", lambda: make.labelled(lambda ids: np.array([7, 8, *[0] * 6, 21, 0, 23], np.uint8)[ids]), " --mapping cityscapes_ids", ("miou",), 0),
            ("label ids, taken for train ids", lambda: make.labelled(lambda ids: np.array([7, 8, *[0] * 6, 21, 0, 23], np.uint8)[ids]), "", ("cityscapes_ids",), 2),
            ("16 bits, values below 256", lambda: make.labelled(lambda ids: ids.astype(np.uint16)), "", ("miou",), 0),
            ("16 bits, values of 1000 and more", lambda: make.labelled(lambda ids: ids.astype(np.uint16) * 1000), "", ("lab",), 3),
            ("colours of the classes", lambda: make.labelled(lambda ids: np.array(make.CITYSCAPES.colors, np.uint8)[ids]), "", ("miou",), 0),
            ("colours that no class has", lambda: make.labelled(lambda ids: np.dstack([ids, ids + 3, ids * 7])), "", ("lab",), 3),
            ("masks of 0 and 255", lambda: make.labelled(lambda ids: (ids > 0).astype(np.uint8) * 255), "", ("255",), 0),
            ("JPEG", lambda: make.labelled(lambda ids: ids, "lab/{}.jpg"), "", ("JPEG",), 3),
            ("other names", lambda: make.labelled(lambda ids: ids, "lab/x{}.png"), "", ("none of 3 labels",), 3),
            ("other size", lambda: make.labelled(lambda ids: ids[:32, :32]), "", ("must show the same picture",), 3),
            ("one is missing", lambda: (make.labelled(lambda ids: ids), Path("lab/1.png").unlink()), "", ("miou",), 0),
            ("one is corrupt", lambda: (make.labelled(lambda ids: ids), make.write("lab/1.png", b"\x89PNG\r\n\x1a\n")), "", ("1.png",), 0),
            ("all void", lambda: make.labelled(lambda ids: ids * 0 + 255), "", ("lab",), 3),
            ("the folder is missing", lambda: images("img/{}.png"), "", ("lab",), 3),
            ("the folder is empty", lambda: (images("img/{}.png"), Path("lab").mkdir()), "", ("lab",), 3),
            ("a mapping that does not exist", lambda: make.labelled(lambda ids: ids), " --mapping cityscape", ("did you mean cityscapes",), 2),
        )
    ),
    # ---- settings
    *(
        Case(S, name, lambda: images("i/{}.png"), command, 0, says, code, absent=("out",))
        for name, command, says, code in (
            ("unknown command", "segmnet i", ("did you mean segment",), 2),
            ("unknown option", "segment i --window-size 5", ("--window-size",), 2),
            ("size that is none", "segment i --network-size 64", ("64",), 2),
            ("even window", "segment i --window 4", ("odd", "4"), 2),
            ("window without a memory", "segment i --window 3 --weights ../erfnet.pth", ("no memory",), 2),
            ("unknown kind of result", "segment i --save lables", ("lables",), 2),
            ("negative --max-frames", "segment i --max-frames -1", ("--max-frames", "-1"), 2),
            ("--fps of 0", "segment i --fps 0", ("fps", "0"), 2),
            ("a topic of a folder", "segment i --topic /a", ("only bags have topics",), 2),
            ("missing --config", "segment i --config no.yaml", ("no.yaml",), 2),
            ("device that is not there", "segment i --device cuda:7", ("cuda:7",), 2),
        )
    ),
    Case(S, "typo in --config", lambda: (images("i/{}.png"), make.write("c.yaml", "windw: 3\n")), "segment i --config c.yaml", 0, ("c.yaml", "windw", "window"), 2),
    Case(S, "window of 10001", lambda: images("i/{}.png"), "segment i --window 10001", 3),
    # ---- results
    Case(O, "folder that holds files of somebody", lambda: (images("i/{}.png"), make.write("out/mine.txt", "x")), "segment i", 0, ("mine.txt", "out_2"), 5, files=("out/mine.txt",)),
    Case(O, "the same with --overwrite", lambda: (images("i/{}.png"), make.write("out/labels/0.png", "x")), "segment i --overwrite", None, ("out_2",), 5),
    Case(O, "results into the input, --overwrite", lambda: images("i/{}.png"), "segment i --out i --overwrite", None, ("i_2",), 5),
    Case(O, "a file in place of the folder", lambda: (images("i/{}.png"), make.write("out", "x")), "segment i", 0, ("out",), 5),
    Case(O, "below a file", lambda: (images("i/{}.png"), make.write("f", "x")), "segment i --out f/out", 0, ("f/out",), 5),
    Case(O, "where nothing may be written", lambda: images("i/{}.png"), "segment i --out /proc/out", 0, ("/proc/out",), 5),
    Case(O, "link to a folder of somebody", lambda: (images("i/{}.png"), make.write("d/mine.txt"), make.link("out", "d")), "segment i", 0, ("mine.txt",), 5),
    Case(O, "converted weights onto others", lambda: make.write("w.safetensors", "x"), "weights convert ../erfnet.pth --out w.safetensors", None, ("w.safetensors",), 5),
    Case(O, "converted weights", lambda: None, "weights convert ../erfnet.pth --out w.safetensors", None, files=("w.safetensors",)),
]
