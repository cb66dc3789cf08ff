"""Damages inputs of every kind and gives them to the commands: `python fuzz_inputs.py FOLDER SEED CASES`.

Every case ends with a documented exit code and without a traceback, and a run that did not end well never says that its
results are complete. What does not is printed as JSON, a line each; the exit code is 1 then. A process of its own, for what a
decoder in C does to damaged data is not always an exception.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from lmanet_core.commands.main import main
from lmanet_core.errors import LmanetError
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES
from lmanet_core.labels.mapping import load_mapping
from lmanet_core.media import open_frames
from lmanet_core.media.label_images import decode_label_ids
from lmanet_core.network import ERFNet, LMANet, MemoryConfig
from lmanet_core.weights.checkpoint import ModelConfig, save_model

#: Documented in docs/exit_codes.md.
EXIT_CODES = (0, 1, 2, 3, 4, 5, 6)
LONGEST_S = 30  # for one case
_WORDS = (None, -1, 0, 255, 256, 1e308, float("nan"), "", "road", "#ff0000", [], {}, [[1, 2]], {"a": 1}, True, "../x", "\x00")


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: writes a whole one, gives its path.
        run: uses it, in a folder for results; gives an exit code or raises LmanetError.
        share: how often it is drawn.
        damage: what is done to the bytes; None: `damage_bytes`.
    """

    make: Callable[[Path], Path]
    run: Callable[[Path, Path], int | None]
    share: int
    damage: Callable[[bytes, np.random.Generator], bytes] | None = None


def scene(number: int, height: int = 32, width: int = 64) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


# ---- damage


def damage_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, ranges zeroed, doubled, cut out, swapped or made random; one to three times."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not content:
            return bytes(rng.bytes(40))
        at = int(rng.integers(len(content)))
        length = int(rng.integers(1, 64))
        kind = int(rng.integers(8))
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at : at + length] = bytes(len(content[at : at + length]))
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif kind == 4:
            del content[at : at + length]
        elif kind == 5:
            content[at : at + length] = rng.bytes(length)
        elif kind == 6:
            content[at : at + 4] = int(rng.choice([0, 1, 255, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
        else:
            content[:at], content[at:] = content[at:], content[:at]
    return bytes(content)


def damage_structure(data: bytes, rng: np.random.Generator) -> bytes:
    """A value somewhere in YAML or JSON becomes another, is left out, or the text itself is damaged."""
    if rng.integers(4) == 0:
        return damage_bytes(data, rng)
    content = yaml.safe_load(data)
    places: list[tuple[object, object]] = []

    def collect(node: object) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            collect(value)

    collect(content)
    for _ in range(int(rng.integers(1, 3))):
        node, key = places[int(rng.integers(len(places)))]
        if isinstance(node, dict) and rng.integers(4) == 0:
            node.pop(key, None)
        elif isinstance(node, dict) or key < len(node):
            node[key] = _WORDS[int(rng.integers(len(_WORDS)))]
    return json.dumps(content).encode() if data[:1] == b"{" else yaml.safe_dump(content).encode()


# ---- inputs


def make_folder(folder: Path) -> Path:
    path = folder / "images"
    path.mkdir()
    for number in range(3):
        cv2.imwrite(str(path / f"{number}.png"), scene(number))
    return path


def make_video(folder: Path, name: str, codec: str) -> Path:
    path = folder / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 32))
    for number in range(6):
        writer.write(scene(number))
    writer.release()
    return path


def make_bag(folder: Path, ros: int, storage: str = "mcap") -> Path:
    store = get_typestore(Stores.ROS1_NOETIC if ros == 1 else Stores.ROS2_HUMBLE)
    path = folder / ("drive.bag" if ros == 1 else "drive")
    with Writer1(path) if ros == 1 else Writer2(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connection = writer.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=store)
        for number in range(3):
            stamp = store.types["builtin_interfaces/msg/Time"](100 + number, 0)
            header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **({"seq": 0} if ros == 1 else {}))
            message = store.types["sensor_msgs/msg/Image"](
                header=header, height=8, width=16, encoding="rgb8", is_bigendian=0, step=48, data=scene(number, 8, 16).ravel()
            )
            serialize = store.serialize_ros1 if ros == 1 else store.serialize_cdr
            writer.write(connection, (100 + number) * 10**9, serialize(message, message.__msgtype__))
    return path if ros == 1 else next(path.glob(f"*.{ {'mcap': 'mcap', 'sqlite3': 'db3'}[storage] }"))


def make_weights(folder: Path, published: bool = False) -> Path:
    torch.manual_seed(0)
    memory = MemoryConfig(key_channels=4, value_channels=0, fusion="residual", window=3, memory_frames=1)
    network = LMANet(ERFNet(19), None if published else memory).eval()
    path = folder / ("weights.pth" if published else "weights.safetensors")
    if published:
        torch.save({f"module.{key.removeprefix('backbone.')}": value for key, value in network.state_dict().items()}, path)
    else:
        save_model(path, network, ModelConfig("erfnet", 19, CITYSCAPES, memory, Size(32, 64)), half=True)
    return path


def make_label_image(folder: Path) -> Path:
    path = folder / "labels.png"
    cv2.imwrite(str(path), scene(0)[..., 0] % 19)
    return path


def make_text(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))
    return path


MAPPING = {
    "classes": ["drivable", "person", "other"], "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "ids": {0: "drivable", "#00ff00": "person"}, "ignore": [9, "#ffffff"],
    "prediction": {**dict.fromkeys(CITYSCAPES.names, "other"), "road": "drivable", "train": None},
}  # fmt: skip
TRAINING = {
    "data": "street",
    "stage": "backbone",
    "size": "64x32",
    "clips": 2,
    "learning_rate": 0.1,
    "degradations": "rain3,none",
}
REPORT = {
    "figures": {"miou": 0.5, "iou.road": 0.9, "frames": 3}, "speed": {"latency_p50_ms": 3.0}, "hash": "0a", "complete": True,
    "run": {"weights": {"file": "w", "sha256": "0"}, "inputs": [], "settings": {}, "versions": {}, "mode": "lock-step"},
}  # fmt: skip


# ---- what is done with them


def read_frames(path: Path, out: Path) -> None:
    with open_frames(path.parent if path.suffix in (".mcap", ".db3") else path) as frames:
        for frame in frames:
            assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3


def segment(weights: Path) -> Callable[[Path, Path], int]:
    """A whole run; its summary must not say more than is true."""

    def run(path: Path, out: Path) -> int:
        given = ["--weights", str(weights), "--save", "labels", "--device", "cpu", "--precision", "fp32"]
        source = path.parent if path.parent.name == "images" else path
        code = main(["segment", str(source), "--out", str(out / "out"), *given])
        summary = out / "out" / "summary.json"
        told = json.loads(summary.read_text()) if summary.is_file() else {"complete": False, "skipped": 0}
        assert told["complete"] == (code == 0 and not told["skipped"]), f"exit code {code}, said: {told}"
        written = list((out / "out").glob("labels/*.png"))
        assert all(cv2.imread(str(one), cv2.IMREAD_UNCHANGED) is not None for one in written), "a label image that is not whole"
        return code

    return run


def read_labels(path: Path, out: Path) -> None:
    ids = decode_label_ids(np.fromfile(path, np.uint8), path.name, {0x00FF00: 1})
    assert ids.dtype == np.uint8 and ids.ndim == 2


def make_kinds(weights: Path) -> dict[str, Kind]:
    """By name; `weights` are whole ones to segment with."""
    return {
        "image in a folder": Kind(lambda folder: make_folder(folder) / "1.png", segment(weights), 6),
        "avi": Kind(lambda folder: make_video(folder, "v.avi", "MJPG"), read_frames, 12),
        "mp4": Kind(lambda folder: make_video(folder, "v.mp4", "mp4v"), read_frames, 12),
        "video, segmented": Kind(lambda folder: make_video(folder, "v.avi", "MJPG"), segment(weights), 3),
        "ROS 1 bag": Kind(lambda folder: make_bag(folder, 1), read_frames, 12),
        "mcap": Kind(lambda folder: make_bag(folder, 2), read_frames, 12),
        "sqlite3 bag": Kind(lambda folder: make_bag(folder, 2, "sqlite3"), read_frames, 8),
        "label image": Kind(make_label_image, read_labels, 15),
        "safetensors": Kind(make_weights, lambda path, out: main(["weights", "info", str(path)]), 5),
        "published weights": Kind(
            lambda folder: make_weights(folder, published=True), lambda path, out: main(["weights", "info", str(path)]), 5
        ),
        "mapping": Kind(
            lambda folder: make_text(folder, "mapping.yaml", MAPPING),
            lambda path, out: load_mapping(str(path), CITYSCAPES) and None, 15, damage_structure,
        ),
        "training configuration": Kind(
            lambda folder: make_text(folder, "train.yaml", TRAINING),
            lambda path, out: main(["train", "--config", str(path), "--check", "true"]), 10, damage_structure,
        ),
        "report": Kind(
            lambda folder: make_text(folder, "summary.json", REPORT),
            lambda path, out: main(["compare", str(path), str(path)]), 10, damage_structure,
        ),
    }  # fmt: skip


def run_case(kind: Kind, whole: Path, folder: Path, rng: np.random.Generator) -> str | None:
    """Damage a copy of what is at `whole` and use it; what went wrong in words, None where all is as it must be."""
    shutil.copytree(whole.parent, folder / whole.parent.name)
    path = folder / whole.parent.name / whole.name
    path.write_bytes((kind.damage or damage_bytes)(whole.read_bytes(), rng))
    said = io.StringIO()
    signal.alarm(LONGEST_S)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = kind.run(path, folder)
    except LmanetError as error:
        return None if str(error).strip() else f"{type(error).__name__} says nothing"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    if code not in (None, *EXIT_CODES):
        return f"exit code {code}"
    return said.getvalue() if "Traceback" in said.getvalue() else None


def run_cases(folder: Path, seed: int, cases: int) -> int:
    """How many of the cases failed."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"longer than {LONGEST_S} s")

    signal.signal(signal.SIGALRM, too_long)
    base = folder / "weights"
    base.mkdir(parents=True)
    kinds = make_kinds(make_weights(base))
    whole = {}
    for name, kind in kinds.items():
        home = folder / "whole" / name.replace(" ", "_")
        home.mkdir(parents=True)
        whole[name] = kind.make(home)
    shares = np.array([kind.share for kind in kinds.values()], float)
    failed = 0
    for number in range(cases):
        rng = np.random.default_rng((seed, number))
        name = list(kinds)[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        work = folder / "case"
        work.mkdir()
        print(json.dumps({"case": number, "kind": name}), file=sys.__stderr__, flush=True)
        wrong = run_case(kinds[name], whole[name], work, rng)
        if wrong is not None:
            failed += 1
            print(json.dumps({"seed": seed, "case": number, "kind": name, "what": wrong[-1500:]}), flush=True)
        shutil.rmtree(work)
    return failed


if __name__ == "__main__":
    faulthandler.enable()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.exit(1 if run_cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])) else 0)
