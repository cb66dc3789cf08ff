"""What the memory is worth on the generated street: against single-frame networks of the same training budget, over seeds.

Sixteen towns that nothing was trained, validated or chosen on. Wanted, as means over seeds: on images that lose blocks (6, 12
and 18 % of the picture, elsewhere in each frame) at least 3 points of mIoU more and 30 % less flicker; on clean images nothing
worse. The other degradations, heavy, are measured beside them, on fewer clips.

    STILL="--position-bias 8 --motion-compensation false"
    lmanet train --config config/train/street_memory.yaml $STILL    # where both start from
    for seed in 0 1 2; do
      more() { lmanet train --config config/train/street_memory.yaml --whiten-keys false --weights runs/$1/last.safetensors \
        --out runs/$2 --seed ${@:3}; }
      more street_memory street_still_$seed $seed $STILL
      more street_still_$seed street_memory_$seed 1$seed
      more street_memory street_single_$seed $seed --stage backbone
      more street_single_$seed street_control_$seed 1$seed --stage backbone
    done
    python benchmarks/street_memory.py --memory runs/street_memory_? --control runs/street_control_?
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import describe_run, finish

from lmanet_core.experiments.sets import evaluate_sets, evaluation_config
from lmanet_core.training.config import TrainConfig

TOWNS = 16
LOST = ("blocks", "blocks2", "blocks3")
OTHERS = ("noise3", "fog3", "rain3", "night3", "blur3", "occlusion3", "mixed3")
MIOU_GAIN, FLICKER_CUT = 0.03, 0.30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=Path, nargs="+", required=True, help="run folders, one for each seed")
    parser.add_argument("--control", type=Path, nargs="+", required=True, help="the same of single-frame networks")
    parser.add_argument("--config", default="config/train/street_memory.yaml", help="whose set, of other towns, is used")
    parser.add_argument("--first-town", type=int, default=5_000_000, help="number of the first of the sixteen")
    parser.add_argument("--cache", help="folder of rendered frames")
    parser.add_argument("--clips", type=int, default=64, help="clean and with lost blocks, so many in each condition")
    parser.add_argument("--clips-of-others", type=int, default=16, help="in each other condition")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()

    towns = {"val_first_seed": arguments.first_town, "val_seeds": TOWNS}
    config = evaluation_config(arguments.config, **towns, **({"cache": arguments.cache} if arguments.cache else {}))
    conditions = ("none", *LOST, *OTHERS)
    clips = [arguments.clips_of_others if condition in OTHERS else arguments.clips for condition in conditions]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
        waiting = {
            name: [
                [
                    pool.submit(_measure, folder, replace(config, val_clips=count), condition)
                    for condition, count in zip(conditions, clips, strict=True)
                ]
                for folder in folders
            ]
            for name, folders in (("memory", arguments.memory), ("control", arguments.control))
        }
        # (seeds, conditions, measures)
        scores = {name: np.array([[one.result() for one in row] for row in rows]) for name, rows in waiting.items()}
    memory, control = scores["memory"], scores["control"]
    lost, others = (
        {name: values[:, part].mean(1) for name, values in scores.items()}
        for part in (slice(1, 1 + len(LOST)), slice(1 + len(LOST), None))
    )
    gain = lost["memory"][:, 0] - lost["control"][:, 0]
    cut = 1.0 - lost["memory"][:, 1] / lost["control"][:, 1]
    clean = (memory - control)[:, 0]
    result: dict[str, Any] = {
        "run": describe_run(),
        "seeds": len(memory),
        "clips": dict(zip(conditions, clips, strict=True)),
        "conditions": {
            condition: {name: _spread(values[:, place]) for name, values in scores.items()}
            for place, condition in enumerate(conditions)
        },
        "lost_blocks": {name: _spread(values) for name, values in lost.items()},
        "other_degradations": {name: _spread(values) for name, values in others.items()},
        "lost_blocks_miou_gain": [round(float(value), 4) for value in gain],
        "lost_blocks_flicker_cut": [round(float(value), 4) for value in cut],
    }
    checks = {
        f"lost blocks: mIoU gain {100 * gain.mean():.1f} points, wanted {100 * MIOU_GAIN:.0f}": gain.mean() >= MIOU_GAIN,
        f"lost blocks: flicker cut {100 * cut.mean():.0f} %, wanted {100 * FLICKER_CUT:.0f}": cut.mean() >= FLICKER_CUT,
        f"clean: mIoU changes by {100 * clean[:, 0].mean():+.2f} points, not less": clean[:, 0].mean() >= 0.0,
        f"clean: flicker changes by {100 * clean[:, 1].mean():+.2f} points, not more": clean[:, 1].mean() <= 0.0,
        f"clean: TC changes by {100 * clean[:, 2].mean():+.2f} points, not less": clean[:, 2].mean() >= 0.0,
    }
    shown = ("seeds", "clips", "conditions", "lost_blocks_miou_gain", "lost_blocks_flicker_cut")
    return finish(result, checks, shown, arguments.json)


def _measure(folder: Path, config: TrainConfig, condition: str) -> list[float]:
    """mIoU, flicker, TC, each with all the memory that the network has."""
    (row,) = evaluate_sets([str(folder / "last.safetensors")], config, [condition])
    return [row[key][-1] for key in ("miou", "flicker", "consistency")]


def _spread(values: np.ndarray) -> dict[str, str]:
    """(seeds, 3) → mean and the two ends, percent."""
    return {
        name: f"{100 * column.mean():.2f} ({100 * column.min():.2f}–{100 * column.max():.2f})"
        for name, column in zip(("miou", "flicker", "tc"), values.T, strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
