"""What the commands of README and docs speak of, as small stand-ins of the same names: recordings, weights, data, settings."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from lmanet_core.geometry import Size
from lmanet_core.labels import CAMVID11, CITYSCAPES
from lmanet_core.network import ERFNet, LMANet, MemoryConfig
from lmanet_core.weights.checkpoint import ModelConfig, save_model

ROOT = Path(__file__).parents[2]
SIZE = Size(32, 64)
CLASSES = ("floor", "wall", "person", "shelf")

OWN = f"""
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return model, {CLASSES}
"""
#: In place of the checkout that docs/models.md speaks of.
ESPNETV2 = """
from torch import nn


class ESPNetv2Segmentation(nn.Conv2d):
    def __init__(self, args, classes, dataset):
        super().__init__(args.channels, classes, 1)
"""
#: Of training configurations, so that a step takes no time.
SMALL = {
    "size": "64x32", "epochs": 1, "max_steps": 1, "batch_size": 1, "epoch_clips": 1, "workers": 0, "checkpoint_every": 1,
    "precision": "32", "warmup_steps": 0, "progress": False,
}  # fmt: skip
STREET = {"clips": 2, "seeds": 1, "val_clips": 1, "val_seeds": 1, "degradations": "none", "val_degradations": "none"}

REPORT = {
    "figures": {"miou": 0.5, "iou.road": 0.9, "frames": 3}, "speed": {"latency_p50_ms": 3.0}, "hash": "0a", "complete": True,
    "run": {"weights": {"file": "w", "sha256": "0"}, "inputs": [], "settings": {}, "versions": {}, "mode": "lock-step"},
}  # fmt: skip


def make_world(home: Path, ros2, weights: Path) -> None:
    """Write all of it into a folder; `ros2` makes bags, `weights` are such with a memory that follows the motion."""
    drive = [scene(number) for number in range(5)]
    labels = [(image[..., 0] // 64).astype(np.uint8) for image in drive]
    make_recordings(home, drive, labels, ros2)
    make_weights(home, weights)
    make_stills(home, drive, labels)
    make_cityscapes(home / "CITYSCAPES", labels[0])
    shutil.copytree(ROOT / "config", home / "config")
    for file in (home / "config/train").glob("*.yaml"):
        settings = yaml.safe_load(file.read_text())
        if "data" in settings:
            small = {**SMALL, **(STREET if settings["data"] == "street" else {})}
            small |= {"crop": "32x32"} if "crop" in settings else {}
            file.write_text(yaml.safe_dump({**settings, **small}))
    for name in ("A", "B", "report_before", "report_after"):
        (home / name).mkdir()
        (home / name / "summary.json").write_text(json.dumps(REPORT))
    assets = home / "lmanet_core/assets"
    assets.mkdir(parents=True)
    shutil.copy(home / "W", assets / "erfnet_street.safetensors")


def documented_code(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def scene(number: int) -> np.ndarray:
    checks = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return np.roll(checks, number, axis=1)


def make_recordings(home: Path, images: list[np.ndarray], labels: list[np.ndarray], ros2) -> None:
    writer = cv2.VideoWriter(str(home / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, SIZE[::-1])
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    shutil.copy(home / "drive.mp4", home / "solidWhiteRight.mp4")
    stamps = [10**9 + number * 10**8 for number in range(len(images))]
    messages = [("/camera/image_raw", stamp, ros2.image(image, stamp)) for stamp, image in zip(stamps, images, strict=True)]
    encoded = [cv2.imencode(".png", one)[1].tobytes() for one in labels]
    messages += [
        ("/camera/labels/compressed", stamp, ros2.compressed(data, stamp, "png"))
        for stamp, data in zip(stamps, encoded, strict=True)
    ]
    write_mcap(ros2, home / "drive.mcap", messages)
    shutil.copy(home / "drive.mcap", home / "other.mcap")
    moving = [("/camera/image_raw", 10**9 + n * 10**8, ros2.image(scene(3 * n), 10**9 + n * 10**8)) for n in range(30)]
    write_mcap(ros2, home / "long.mcap", moving)
    labelled = [(topic, 10**9 + n * 10**8, ros2.compressed(encoded[n % len(encoded)], 10**9 + n * 10**8, "png"))
                for topic in ("/camera/labels/compressed", "/camera/label_camvid11/compressed") for n in range(30)]  # fmt: skip
    write_mcap(ros2, home / "clip.mcap", [*moving, *labelled])
    rear = [(topic.replace("camera", "rear"), *rest) for topic, *rest in messages[: len(images)]]
    front = [(topic.replace("camera", "front"), *rest) for topic, *rest in messages[: len(images)]]
    write_mcap(ros2, home / "two.mcap", [*front, *rear])
    own = [("/segmentation/labels", stamp, ros2.image(one, stamp, "mono8")) for stamp, one in zip(stamps, labels, strict=True)]
    write_mcap(ros2, home / "results.mcap", own)


def write_mcap(ros2, file: Path, messages: list) -> None:
    ros2.write(file.with_suffix(".bag"), messages)
    shutil.move(next(file.with_suffix(".bag").glob("*.mcap")), file)
    shutil.rmtree(file.with_suffix(".bag"))


def make_weights(home: Path, weights: Path) -> None:
    torch.manual_seed(0)
    shutil.copy(weights, home / "W")
    memory = MemoryConfig(key_channels=16, value_channels=0, fusion="residual", window=3, memory_frames=1)
    save(home / "camvid_memory", memory, CAMVID11)
    following = replace(memory, position_bias=20.0, motion_compensation=True)
    save(home / "street_memory", following, CITYSCAPES)
    save(home / "camvid_single", None, CAMVID11)
    save(home / "street", None, CITYSCAPES)
    stand_ins = {
        "W": ("cityscapes_erfnet_stage1/best",),
        "street_memory": ("street_memory/last", "street_still_0/last", "street_memory_0/last"),
        "street": ("street/last", "street_b/last"),
        "camvid_single": ("camvid_backbone/best",),
        "camvid_memory": ("camvid_memory/last",),
    }
    for file, names in stand_ins.items():
        for name in names:
            path = home / f"runs/{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home / file, path)
    published = {f"module.{key}": value for key, value in ERFNet(20).state_dict().items()}
    for name in ("erfnet_pretrained.pth", "erfnet_cityscapes.pth", "erfnet.pth", "MODEL"):
        torch.save(published, home / name)
    torch.save(ERFNet(12).state_dict(), home / "own.pth")
    for name in ("run/best", "runs/mine/adapted"):
        (home / name).parent.mkdir(parents=True)
        shutil.copy(home / "W", home / f"{name}.safetensors")
    (home / "own.py").write_text(OWN)
    (home / "camvid.py").write_text(OWN.replace("8, 4, 1", "8, 11, 1").replace(f"{CLASSES}", f"{CAMVID11.names}"))
    (home / "city.py").write_text(next(one for one in documented_code("models.md") if "ESPNetv2" in one))
    (home / "model/segmentation").mkdir(parents=True)
    (home / "model/segmentation/espnetv2.py").write_text(ESPNETV2)
    torch.save(torch.nn.Conv2d(3, 20, 1).state_dict(), home / "espnetv2_s_2.0_city_1024x512.pth")
    (home / "package").mkdir()
    (home / "package/module.py").write_text(OWN)
    torch.jit.script(torch.nn.Conv2d(3, 4, 1).eval()).save(str(home / "model.pt"))
    for name, names in (("labels.yaml", CAMVID11.names), ("own.yaml", CITYSCAPES.names)):
        (home / name).write_text(yaml.safe_dump({"names": list(names)}))


def save(file: Path, memory: MemoryConfig | None, labels) -> None:
    count = len(labels.names)
    save_model(file, LMANet(ERFNet(count), memory), ModelConfig("erfnet", count, labels, memory, SIZE))


def make_stills(home: Path, images: list[np.ndarray], labels: list[np.ndarray]) -> None:
    for root in ("ROOT", "camvid/train", "camvid/val", "bag"):
        for number, (image, ids) in enumerate(zip(images, labels, strict=True)):
            for kind, pixels in (("images", image), ("labels", ids)):
                (home / root / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(home / root / kind / f"{number:03d}.png"), pixels)
    (home / "ROOT/labels.yaml").write_text(yaml.safe_dump({"names": list(CLASSES)}))
    shutil.move(home / "bag/labels", home / "LABELS")
    for number in range(2):
        for kind, pixels in (("image_2", images[number]), ("semantic", labels[number] + 7)):
            (home / "KITTI/training" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(home / f"KITTI/training/{kind}/{number:06d}_10.png"), pixels)


def make_cityscapes(root: Path, ids: np.ndarray) -> None:
    """One labelled frame a split, with the 19 before it."""
    for split, city in (("train", "aachen"), ("val", "ulm")):
        for kind in ("leftImg8bit", "leftImg8bit_sequence", "gtFine"):
            (root / kind / split / city).mkdir(parents=True)
        for frame in range(20):
            name = f"{split}/{city}/{city}_000000_{frame:06d}_leftImg8bit.png"
            cv2.imwrite(str(root / "leftImg8bit_sequence" / name), scene(frame))
        shutil.copy(root / "leftImg8bit_sequence" / name, root / "leftImg8bit" / name)
        cv2.imwrite(str(root / f"gtFine/{split}/{city}/{city}_000000_000019_gtFine_labelIds.png"), ids + 7)


def make_hub_folders(home: Path) -> None:
    """Models as save_pretrained writes them; needs transformers."""
    import transformers

    segformer = transformers.SegformerConfig(
        num_labels=4, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    dpt = transformers.DPTConfig(
        num_labels=4, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8,
    )  # fmt: skip
    mobilenet = transformers.MobileNetV2Config(num_labels=4, depth_multiplier=0.25)
    for name, config in (("segformer", segformer), ("dpt", dpt), ("mobilenet", mobilenet)):
        transformers.AutoModelForSemanticSegmentation.from_config(config).save_pretrained(home / name)


def make_onnx(file: Path) -> None:
    """A model of four classes as ONNX; needs onnxscript."""
    torch.onnx.export(torch.nn.Conv2d(3, 4, 1).eval(), (torch.zeros(1, 3, *SIZE),), file, dynamo=True, verbose=False)
