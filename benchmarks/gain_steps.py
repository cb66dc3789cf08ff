"""Is harm that training gains and biases does seen without labels, by how well labels agree with those of reduced pictures?

    python benchmarks/gain_steps.py camvid_0016E5_15hz_mcap --labels /camera/label_camvid11/compressed \\
        --mapping camvid11 --weights erfnet_cityscapes.pth --network-size 640x480 --stride 2

Statistics and gains are learned from the first half of a recording, with more and more steps. The second half says what that
is worth, single frames without memories. What is measured without labels is of the last quarter of the first half, which
nothing was learned from. A goal is missed where weights are taken that have half a point of mIoU less than before.
"""

from __future__ import annotations

import argparse

from labelled import Labelled, add_arguments
from recording import describe_run, finish

from lmanet_core.adaptation.gains import train_gains
from lmanet_core.adaptation.statistics import adapt_statistics
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import prepare

_HARM = 0.005


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", default="20,40,80,150")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load_model(options.weights)
    labelled = Labelled(options, model)
    half = len(labelled.frames) // 2
    first, second = labelled.frames[:half], labelled.frames[half:]
    images = [frame.image for frame in first]
    model, _ = adapt_statistics(model, labelled.still_clips(model, first), images)
    before = labelled.miou(prepare(model), second)
    print(f"statistics: mIoU {100 * before:.2f} %")
    rows, checks = [], {}
    for steps in (int(part) for part in options.steps.split(",")):
        trained, gained = train_gains(model, images, seed=options.seed, steps=steps)
        assert gained is not None, "there is no BatchNorm to train"
        miou = labelled.miou(prepare(trained), second)
        rows.append({"steps": steps, **vars(gained), "taken": gained.enough, "miou": miou})
        print(
            f"{steps} steps: {gained.before:.3f} → {gained.after:.3f} bits, agreement with reduced pictures "
            f"{100 * gained.agreed_before:.1f} → {100 * gained.agreed_after:.1f} %, {'taken' if gained.enough else 'left'}; "
            f"mIoU {100 * miou:.2f} %"
        )
        checks[f"{steps} steps: no harm is taken ({100 * (miou - before):+.2f} points)"] = (
            not gained.enough or miou > before - _HARM
        )
    return finish({"run": describe_run(), "before": before, "rows": rows}, checks, ("before",), options.json)


if __name__ == "__main__":
    raise SystemExit(main())
