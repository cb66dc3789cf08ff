"""Weights, labels, settings and places for results that people have, and what must happen; `inputs.py` tries them all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import input_makers as make
import numpy as np
from input_makers import Case, images

from lmanet_core.labels import CITYSCAPES

FOREIGN = "know a generated street and nothing else"

W, L, S, R = "Weights", "Labels of `evaluate`", "Settings", "Results"


def _weights(
    name: str,
    made: Callable[[], object],
    weights: str,
    says: tuple[str, ...] = (),
    code: int = 4,
    frames: int = 0,
    absent: tuple[str, ...] = ("out",),
) -> Case:
    """Three images segmented with these; refused, if not said otherwise."""
    gone = () if code == 0 else absent
    return Case(
        W, name, lambda: (images("i/{}.png"), made()), f"segment i --weights {weights}", frames, says, code, absent=gone
    )


def _labels(name: str, made: Callable[[], object], says: tuple[str, ...], code: int = 0, options: str = "") -> Case:
    return Case(L, name, made, f"evaluate img --labels lab{options}", None, says, code, looks=None)


def _settings(name: str, command: str, says: tuple[str, ...]) -> Case:
    """Refused, before anything is written."""
    return Case(S, name, lambda: images("i/{}.png"), command, 0, says, 2, absent=("out",))


def _label_ids(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' label ids of road, sidewalk, vegetation and sky, by their train ids 0, 1, 8, 10."""
    return np.array([7, 8, *[0] * 6, 21, 0, 23], np.uint8)[ids]


# fmt: off
OTHERS = [
    _weights("none given: those that ship", lambda: None, "''", (FOREIGN,), code=0, frames=3),
    _weights("ERFNet as published", lambda: None, "../erfnet.pth", code=0, frames=3),
    _weights("{'state_dict': …}", lambda: make.state(lambda t: {"epoch": 3, "state_dict": t}), "w.pth", code=0, frames=3),
    _weights(
        "{'model': …} with _orig_mod.", lambda: make.state(lambda t: {"model": make.prefixed("_orig_mod.")(t)}), "w.pth",
        code=0, frames=3,
    ),
    _weights("prefix net.", lambda: make.state(make.prefixed("net.")), "w.pth", code=0, frames=3),
    _weights("TorchScript", lambda: make.scripted("w.pt"), "w.pt", code=0, frames=3),
    _weights("ONNX", lambda: make.onnx_model("w.onnx"), "w.onnx", code=0, frames=3),
    _weights(
        "safetensors without our metadata", lambda: make.safetensors_without_metadata("w.safetensors"), "w.safetensors",
        ("w.safetensors",),
    ),
    _weights("NaN", lambda: make.state(make.changed("output_conv.weight", lambda v: v * float("nan"))), "w.pth", ("w.pth",)),
    _weights(
        "one tensor of another shape", lambda: make.state(make.changed("output_conv.weight", lambda v: v[:, :2])), "w.pth",
        ("w.pth", "another shape", "output_conv"),
    ),
    _weights("a tensor is missing", lambda: make.state(lambda t: dict(list(t.items())[:-3])), "w.pth", ("w.pth",)),
    _weights(
        "a network that is not known", lambda: make.state(lambda t: {f"layer{n}": v for n, v in enumerate(t.values())}),
        "w.pth", ("w.pth",),
    ),
    _weights("pickle that runs code", lambda: make.pickle_with_code("w.pth"), "w.pth", ("w.pth",), absent=("touched",)),
    _weights("text called .pth", lambda: make.write("w.pth", "hello"), "w.pth", ("w.pth",)),
    _weights(
        "safetensors cut off", lambda: (shutil.copy("../weights.safetensors", "w.safetensors"), make.cut("w.safetensors")),
        "w.safetensors", ("w.safetensors",),
    ),
    _weights(
        "page of Git LFS in place of the file",
        lambda: make.write("w.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "w.safetensors",
        ("w.safetensors",),
    ),
    _weights("zero bytes", lambda: make.write("w.pth"), "w.pth", ("w.pth",)),
    _weights("no such file", lambda: None, "nope.pth", ("nope.pth",)),
    _weights("a folder", lambda: Path("w").mkdir(), "w", ("w",)),
    _labels("train ids", lambda: make.labelled(lambda ids: ids), ("miou",)),
    _labels(
        "label ids of Cityscapes, with the mapping",
        lambda: make.labelled(_label_ids), ("miou",),
        options=" --mapping cityscapes_ids",
    ),
    _labels(
        "label ids, taken for train ids",
        lambda: make.labelled(_label_ids), ("--mapping cityscapes_ids",),
    ),
    _labels("16 bits, values below 256", lambda: make.labelled(lambda ids: ids.astype(np.uint16)), ("miou",)),
    _labels(
        "16 bits, values of 1000 and more", lambda: make.labelled(lambda ids: ids.astype(np.uint16) * 1000), ("lab",), code=3,
    ),
    _labels(
        "colours of the classes", lambda: make.labelled(lambda ids: np.array(CITYSCAPES.colors, np.uint8)[ids]),
        ("miou",),
    ),
    _labels(
        "colours that no class has", lambda: make.labelled(lambda ids: np.dstack([ids, ids + 3, ids * 7])), ("lab",), code=3,
    ),
    _labels(
        "masks of 0 and 255", lambda: make.labelled(lambda ids: (ids > 0).astype(np.uint8) * 255),
        ("hold 0 and 255 alone",),
    ),
    _labels("JPEG", lambda: make.labelled(lambda ids: ids, "lab/{}.jpg"), ("JPEG as in 0.jpg changes class ids",), code=3),
    _labels("other names", lambda: make.labelled(lambda ids: ids, "lab/x{}.png"), ("none of 3 labels",), code=3),
    _labels("other size", lambda: make.labelled(lambda ids: ids[:32, :32]), ("must show the same picture",), code=3),
    _labels("one is missing", lambda: (make.labelled(lambda ids: ids), Path("lab/1.png").unlink()), ("miou",)),
    _labels(
        "one is corrupt", lambda: (make.labelled(lambda ids: ids), make.write("lab/1.png", b"\x89PNG\r\n\x1a\n")), ("1.png",),
    ),
    _labels("all void", lambda: make.labelled(lambda ids: ids * 0 + 255), ("no pixel of the first labels is of a class",)),
    _labels("the folder is missing", lambda: images("img/{}.png"), ("lab",), code=3),
    _labels("the folder is empty", lambda: (images("img/{}.png"), Path("lab").mkdir()), ("lab",), code=3),
    _labels(
        "a mapping that does not exist", lambda: make.labelled(lambda ids: ids), ("cannot read cityscape:", "cityscapes_ids"),
        code=2, options=" --mapping cityscape",
    ),
    _settings("unknown command", "segmnet i", ("did you mean segment",)),
    _settings("unknown option", "segment i --window-size 5", ("--window-size",)),
    _settings("size that is none", "segment i --network-size 64", ("64",)),
    _settings("even window", "segment i --window 4", ("odd", "4")),
    _settings("window without a memory", "segment i --window 3 --weights ../erfnet.pth", ("no memory",)),
    _settings("unknown kind of result", "segment i --save lables", ("lables",)),
    _settings("negative --max-frames", "segment i --max-frames -1", ("--max-frames", "-1")),
    _settings("--fps of 0", "segment i --fps 0", ("fps", "0")),
    _settings("a topic of a folder", "segment i --topic /a", ("only bags have topics",)),
    _settings("missing --config", "segment i --config no.yaml", ("no.yaml",)),
    _settings("device that is not there", "segment i --device cuda:7", ("cuda:7",)),
    Case(
        S, "typo in --config", lambda: (images("i/{}.png"), make.write("c.yaml", "windw: 3\n")), "segment i --config c.yaml",
        0, ("c.yaml", "windw", "window"), 2,
    ),
    Case(S, "window of 10001", lambda: images("i/{}.png"), "segment i --window 10001", 3),
    Case(
        R, "folder that holds files of somebody", lambda: (images("i/{}.png"), make.write("out/mine.txt", "x")), "segment i",
        0, ("mine.txt", "out_2"), 5, files=("out/mine.txt",),
    ),
    Case(
        R, "the same with --overwrite", lambda: (images("i/{}.png"), make.write("out/labels/0.png", "x")),
        "segment i --overwrite", None, ("out_2",), 5,
    ),
    Case(
        R, "results into the input, --overwrite", lambda: images("i/{}.png"), "segment i --out i --overwrite", None, ("i_2",),
        5,
    ),
    Case(
        R, "a file in place of the folder", lambda: (images("i/{}.png"), make.write("out", "x")), "segment i", 0, ("out",), 5,
    ),
    Case(R, "below a file", lambda: (images("i/{}.png"), make.write("f", "x")), "segment i --out f/out", 0, ("f/out",), 5),
    Case(R, "where nothing may be written", lambda: images("i/{}.png"), "segment i --out /proc/out", 0, ("/proc/out",), 5),
    Case(
        R, "link to a folder of somebody", lambda: (images("i/{}.png"), make.write("d/mine.txt"), make.link("out", "d")),
        "segment i", 0, ("mine.txt",), 5,
    ),
    Case(
        R, "converted weights onto others", lambda: make.write("w.safetensors", "x"),
        "weights convert ../erfnet.pth --out w.safetensors", None, ("w.safetensors",), 5,
    ),
    Case(
        R, "converted weights", lambda: None, "weights convert ../erfnet.pth --out w.safetensors", None,
        files=("w.safetensors",),
    ),
    Case(
        R, "own results once more", lambda: images("i/{}.png"), "segment i", None, ("already holds results", "--overwrite"), 5,
        before="segment i",
    ),
    Case(
        R, "own results, --overwrite", lambda: images("i/{}.png"), "segment i --overwrite", 3, replaces=("out/",),
        before="segment i",
    ),
    Case(
        R, "an own result that was edited, --overwrite", lambda: images("i/{}.png"), "segment i --overwrite",
        None, ("labels/0.png", "changed"), 5, before="segment i", meanwhile=lambda: make.write("out/labels/0.png", "mine"),
    ),
    Case(
        R, "--resume with other settings", lambda: images("i/{}.png"), "segment i --save labels --resume --window 3", None,
        ("other settings", "window"), 2, before="segment i --save labels --max-frames 1",
    ),
    Case(
        R, "--resume of a run that ended early", lambda: images("i/{}.png"), "segment i --save labels --resume", 3, looks=None,
        replaces=("out/.lmanet.json", "out/summary.json"), before="segment i --save labels --max-frames 1",
    ),
    Case(R, "compare with a text", lambda: make.write("a.json", "x"), "compare a.json a.json", None, ("a.json",), 3),
    Case(
        R, "explain a frame beyond the end", lambda: images("i/{}.png"), "explain i --frame 40 --out seen.png", None, ("40",),
        3, absent=("seen.png",),
    ),
    Case(
        R, "ONNX of a network, to a folder that is missing", lambda: None,
        "export ../weights.safetensors --size 64x32 --out no/w.onnx", None,
        ("no/w.onnx: cannot be written: there is no such folder",), 5,
    ),
    Case(
        R, "training data: masks of 0 and 255", lambda: make.training_masks(),
        "train --data stills --stage backbone --root d --size 64x32 --check true --out run", None, ("masks of 0 and 255",), 0,
        absent=("run",),
    ),
    Case(
        R, "training data that is not there", lambda: None,
        "train --data stills --stage backbone --root d --size 64x32 --check true --out run", None, ("d",), 3, absent=("run",),
    ),
]
