"""How many labels of an exported step, run by onnxruntime or OpenVINO, are our own step's, over a long stream with resets.

    python benchmarks/export_agreement.py solidWhiteRight.mp4 --json benchmarks/results/export_agreement.json
    python benchmarks/export_agreement.py solidWhiteRight.mp4 --run-by openvino    # pip install openvino

The recording is repeated until there are enough frames; every repetition is a reset, and so is a gap of two seconds after every
60 frames. Both compute in float32 on the CPU, and see the same motion of the picture.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recording import describe_run, finish

from lmanet_core.frame import Frame
from lmanet_core.geometry import parse_size
from lmanet_core.media import open_frames
from lmanet_core.stream.export import open_onnx, prepare_export, write_program
from lmanet_core.stream.export_check import compare_with_program
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime
from lmanet_core.weights.shipped import default_weights

_GAP_NS = 2_000_000_000


def repeated(recording: str, count: int, gap_every: int) -> Iterator[Frame]:
    done = 0
    while done < count:
        with open_frames(recording) as frames:
            for frame in frames:
                yield replace(frame, stamp_ns=frame.stamp_ns + _GAP_NS * (done // gap_every))
                done += 1
                if done == count:
                    return


def open_openvino(path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """As `open_onnx`, run by OpenVINO on the CPU in float32."""
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(given: dict[str, Any]) -> dict[str, Any]:
        found = model(
            {index: next(given[name] for name in one.names if name in given) for index, one in enumerate(model.inputs)}
        )
        # A tensor may have several names, and OpenVINO writes the next frame's over this one's.
        return {name: found[one].copy() for one in model.outputs for name in one.names}

    return run


OPEN = {"onnxruntime": open_onnx, "openvino": open_openvino}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--weights", default=str(default_weights()))
    parser.add_argument("--size", default="480x272")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--gap-every", type=int, default=60)
    parser.add_argument("--run-by", choices=OPEN, default="onnxruntime")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = parse_size(options.size)
    config = SegmenterConfig(network_size=options.size, output_size="network")
    runtime = RuntimeConfig("cpu", "fp32")
    model = load_model(options.weights)
    exported = prepare_export(model, size, config, runtime)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.onnx"
        write_program(exported, "onnx", file)
        program, megabytes = OPEN[options.run_by](file), file.stat().st_size / 1e6
    segmenter = VideoSegmenter(prepare_runtime(model, runtime), config)
    frames = repeated(options.recording, options.frames, options.gap_every)
    agreement = compare_with_program(segmenter, program, exported.signature, frames)
    result = {
        "run": describe_run(),
        options.run_by: version(options.run_by),
        "weights": Path(options.weights).name,
        "recording": Path(options.recording).name,
        "size": options.size,
        "file_mb": round(megabytes, 1),
        "frames": agreement.frames,
        "resets": agreement.resets,
        "labels": agreement.pixels,
        "different": agreement.pixels - agreement.equal,
        "share_equal": agreement.share,
        "least_in_a_frame": agreement.least,
    }
    checks = {f"99.99 % of labels equal ({100 * agreement.share:.5f} %)": agreement.share >= 0.9999}
    return finish(result, checks, ("frames", "resets", "labels", "different", "least_in_a_frame"), options.json)


if __name__ == "__main__":
    sys.exit(main())
