"""ERFNet's published Cityscapes weights on CamVid's labelled 15 Hz clip, through the public API.

Wanted: accuracy 0.73 and mIoU 0.46 (±0.01) over CamVid's 11 classes; frame-to-frame agreement is about 0.95.

    python benchmarks/camvid_accuracy.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from recording import ROOT, describe_run, finish

from lmanet_core.labels import CAMVID11, CITYSCAPES, UNLABELLED
from lmanet_core.labels.mapping import load_mapping
from lmanet_core.media import open_frames
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter

WANTED = {"accuracy": 0.73, "miou": 0.46}
TOLERANCE = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="folder with camvid and weights")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--network-size", default="auto", help="WxH; auto is the images' own 480x360")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    mapping = load_mapping("camvid11", CITYSCAPES)
    segmenter = VideoSegmenter.from_weights(
        arguments.data / "weights/erfnet_cityscapes.pth",
        SegmenterConfig(network_size=arguments.network_size, label_memory=False),
        precision=arguments.precision,
    )
    matrix = ConfusionMatrix(len(CAMVID11.names))
    agreements = []
    before = None
    with open_frames(arguments.data / "camvid/val/images", fps=15.0) as frames:
        for frame in frames:
            seen = segmenter.step(frame.image, frame.stamp_ns).labels
            labels = mapping.map_prediction(seen)
            ids = cv2.imread(str(arguments.data / f"camvid/val/labels/{frame.name}.png"), cv2.IMREAD_UNCHANGED)
            matrix.update(labels, np.where(mapping.is_void(seen), UNLABELLED, mapping.map_truth(ids)).astype(np.uint8))
            if before is not None:
                agreements.append(float((labels == before).mean()))
            before = labels
    result = {
        "run": describe_run(),
        "precision": segmenter.runtime.precision,
        "accuracy": round(matrix.accuracy(), 4),
        "miou": round(matrix.mean_iou(), 4),
        "iou": {name: round(float(iou), 4) for name, iou in zip(CAMVID11.names, matrix.iou(), strict=True)},
        "frame_to_frame_agreement": round(float(np.mean(agreements)), 4),
        "frames": len(agreements) + 1,
    }
    checks = {
        f"{name} {result[name]}, wanted {wanted} ± {TOLERANCE}": abs(result[name] - wanted) <= TOLERANCE
        for name, wanted in WANTED.items()
    }
    shown = ("frames", "precision", "accuracy", "miou", "frame_to_frame_agreement", "iou")
    return finish(result, checks, shown, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
