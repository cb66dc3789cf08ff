"""Does the share of new BatchNorm statistics that lets labels tell most of mirrored pictures also have the best mIoU?

    python benchmarks/mirror_statistics.py camvid_0016E5_15hz_mcap --labels /camera/label_camvid11/compressed \\
        --mapping camvid11 --weights erfnet_cityscapes.pth --network-size 640x480

Statistics are measured on the first half of a recording; both halves are judged, single frames without memories. With --tint
the recording is seen by another camera: "0.35,0.45,0.7,5,15,60" multiplies red, green and blue, and adds.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from recording import describe_run, finish

from lmanet_core.adaptation.mirror import class_shares, measure_mirror_agreement
from lmanet_core.adaptation.statistics import mix_statistics
from lmanet_core.evaluation.truth import open_truth, with_truth
from lmanet_core.geometry import Size
from lmanet_core.labels.mapping import LabelMapping, load_mapping
from lmanet_core.media import open_frames
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.stream.stream_plan import plan_stream
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--mapping")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network-size", default="auto")
    parser.add_argument("--stride", type=int, default=4, help="every so manyth frame")
    parser.add_argument("--tint", default="1,1,1,0,0,0")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.weights)
    labels = model.config.labels
    mapping = load_mapping(options.mapping, labels) if options.mapping else LabelMapping.identity(labels)
    gain, offset = np.array([float(part) for part in options.tint.split(",")]).reshape(2, 3)
    pairs = []
    with open_frames(options.recording) as source:
        truth = open_truth(options.labels, Path(options.recording), 0.02, mapping.encoding)
        for frame, ids in islice(with_truth(source, truth), 0, None, options.stride):
            settings = SegmenterConfig(network_size=options.network_size)
            plan = plan_stream(settings, model.network.backbone, model.config.input_size, Size(*frame.image.shape[:2]))
            image = (frame.image * gain + offset).clip(0, 255).astype(np.uint8)
            pairs.append((plan, plan.to_network(image), ids))
    half = len(pairs) // 2
    frames = 1 if model.config.memory is None else model.config.memory.memory_frames + 1
    clips = [torch.from_numpy(np.stack([image] * frames).transpose(0, 3, 1, 2).copy()) for _, image, _ in pairs[:half]]
    rows = []
    for share, mixed in mix_statistics(model, clips).items():
        runtime = prepare(mixed)
        for part, chosen in (("first half", pairs[:half]), ("second half", pairs[half:])):
            bits = measure_mirror_agreement(runtime, [image for _, image, _ in chosen]).information
            matrix = ConfusionMatrix(len(mapping.classes.names))
            for plan, image, ids in chosen:
                seen = plan.labels_to_output(class_shares(runtime, image)[0].argmax(0).byte().cpu().numpy())
                matrix.update(mapping.map_prediction(seen), mapping.map_truth(ids))
            rows.append({"part": part, "share": share, "bits": bits, "miou": matrix.mean_iou_of_truth()})
            print(f"{part}, {share:3.1f} of the new statistics: {bits:.3f} bits, mIoU {100 * matrix.mean_iou_of_truth():.2f} %")
    best = max((row for row in rows if row["part"] == "first half"), key=lambda row: row["bits"])
    second = {row["share"]: row["miou"] for row in rows if row["part"] == "second half"}
    lost = 100 * (max(second.values()) - second[best["share"]])
    result = {"run": describe_run(), "rows": rows, "chosen": best["share"], "points_lost_to_the_best": round(lost, 2)}
    checks = {f"at most 4 points of mIoU lost to the best share, on frames not seen ({lost:.2f})": lost <= 4.0}
    return finish(result, checks, ("chosen", "points_lost_to_the_best"), options.json)


if __name__ == "__main__":
    raise SystemExit(main())
