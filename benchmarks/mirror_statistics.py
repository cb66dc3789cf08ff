"""Does the share of new BatchNorm statistics that lets labels tell most of mirrored pictures also have the best mIoU?

    python benchmarks/mirror_statistics.py camvid_0016E5_15hz_mcap --labels /camera/label_camvid11/compressed \\
        --mapping camvid11 --weights erfnet_cityscapes.pth --network-size 640x480

Statistics are measured on the first half of a recording; both halves are judged, single frames without memories. With --tint
the recording is seen by another camera: "0.35,0.45,0.7,5,15,60" multiplies red, green and blue, and adds.
"""

from __future__ import annotations

import argparse

import numpy as np
from labelled import Labelled, add_arguments
from recording import describe_run, finish

from lmanet_core.adaptation.mirror import measure_mirror_agreement
from lmanet_core.adaptation.statistics import mix_statistics
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--tint", default="1,1,1,0,0,0")
    options = parser.parse_args()
    model = load_model(options.weights)
    gain, offset = np.array([float(part) for part in options.tint.split(",")]).reshape(2, 3)
    labelled = Labelled(options, model, lambda image: (image * gain + offset).clip(0, 255).astype(np.uint8))
    half = len(labelled.frames) // 2
    first, second = labelled.frames[:half], labelled.frames[half:]
    rows = []
    for share, mixed in mix_statistics(model, labelled.still_clips(model, first)).items():
        runtime = prepare(mixed)
        for part, chosen in (("first half", first), ("second half", second)):
            bits = measure_mirror_agreement(runtime, [frame.image for frame in chosen]).information
            miou = labelled.miou(runtime, chosen)
            rows.append({"part": part, "share": share, "bits": bits, "miou": miou})
            print(f"{part}, {share:3.1f} of the new statistics: {bits:.3f} bits, mIoU {100 * miou:.2f} %")
    best = max((row for row in rows if row["part"] == "first half"), key=lambda row: row["bits"])
    mious = {row["share"]: row["miou"] for row in rows if row["part"] == "second half"}
    lost = 100 * (max(mious.values()) - mious[best["share"]])
    result = {"run": describe_run(), "rows": rows, "chosen": best["share"], "points_lost_to_the_best": round(lost, 2)}
    checks = {f"at most 4 points of mIoU lost to the best share, on frames not seen ({lost:.2f})": lost <= 4.0}
    return finish(result, checks, ("chosen", "points_lost_to_the_best"), options.json)


if __name__ == "__main__":
    raise SystemExit(main())
