"""`lmanet export`: the streamed step, or the logits of single frames, as ONNX or as a program of `torch.export`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from lmanet_core.commands.options import add_segmenter_options, segmenter_config
from lmanet_core.commands.terminal import console
from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.files import output_errors
from lmanet_core.geometry import parse_size
from lmanet_core.media import open_frames
from lmanet_core.media.result_folder import free_name
from lmanet_core.stream.export import Exported, is_exported, open_onnx, prepare_export, write_program
from lmanet_core.stream.export_check import compare_with_program
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model, load_model
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime

_EXPORTED = ("cut", "label_set", "window", "memory", "memory_frames", "label_memory", "label_memory_strength")

_WANTED = 0.9999  # share of labels that must be the same


def make_parser() -> ArgumentParser:
    """Options of `lmanet export`."""
    parser = ArgumentParser(
        description="Write a network for other programs, its memories as inputs and outputs.", exit_on_error=False
    )
    parser.add_argument("weights", type=str, help="as of `lmanet segment`")
    parser.add_argument("--to", type=Literal["onnx", "pt2"], default="onnx", help="onnx, or pt2: a program of torch.export")
    parser.add_argument("--size", type=str, required=True, help="WxH of the network's input")
    parser.add_argument("--out", type=str, required=True, help="file to write")
    parser.add_argument(
        "--stateless", action="store_true", help="logits of single frames, ImageNet-normalised input, no memory"
    )
    parser.add_argument(
        "--background", action="store_true", help="--stateless: a class 0 in front that never wins, as nav2's tutorial counts"
    )
    parser.add_argument("--compile", action="store_true", help="pt2: machine code for this processor, by AOTInductor; minutes")
    parser.add_argument("--check", type=str | None, default=None, help="onnx: compare with our own step on this recording")
    parser.add_argument("--max-frames", type=int | None, default=None, help="--check: stop after so many frames")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    add_segmenter_options(parser, short={"label-set": "labels"}, only=_EXPORTED)
    return parser


def run(options: Namespace) -> int:
    """Export; returns the exit code: 1 where the check finds fewer than 99.99 % of labels equal.

    Raises:
        LmanetError: weights, settings or output are not usable, or something in the network cannot be exported.
    """
    out, size = Path(options.out), parse_size(options.size)
    if options.background and not options.stateless:
        raise ConfigError("--background is for --stateless: a streamed step gives labels, which need no class in front")
    if options.compile and options.to != "pt2":
        raise ConfigError("--compile is for --to pt2; ONNX is compiled by whatever runs it")
    if options.check is not None and (options.stateless or options.to != "onnx"):
        raise ConfigError("--check compares the streamed step as ONNX; leave --stateless and --to pt2 out")
    _check_target(out, options)
    model = load_model(options.weights)
    fixed = {"device": "cpu", "precision": "fp32", "compile": "false", "network_size": str(size), "output_size": "network"}
    runtime, config = segmenter_config(options, **fixed)
    exported = prepare_export(model, size, config, runtime, options.stateless, options.background)
    ontology, classes = out.with_suffix(".ontology.yaml"), _ontology(exported) if options.background else None
    if classes is not None and ontology.exists() and ontology.read_bytes() != classes.encode():
        raise OutputError(f"{ontology} exists, holds something else and stays; move it away, or choose another --out")
    write_program(exported, options.to, out, options.compile)
    print(f"{out}: {model.source} at {size}")
    for name, tensor in exported.signature.inputs.items():
        print(f"  {name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
    print(f"  → {', '.join(exported.signature.outputs)}")
    if classes is not None:
        with output_errors(ontology):
            ontology.write_text(classes, encoding="utf-8")
        print(f"{ontology}: its classes")
    return 0 if options.check is None else _check(options, model, exported, runtime, config)


def _check_target(out: Path, options: Namespace) -> None:
    """Whether the program may be written there; raises OutputError where something would be lost."""
    if not out.exists():
        return
    other = f"choose another --out, such as {free_name(out)}"
    if Path(options.weights).exists() and out.samefile(options.weights):
        raise OutputError(f"{out} is the file to export; {other}")
    if not options.overwrite:
        raise OutputError(f"{out} exists; {other}, or pass --overwrite")
    if not is_exported(out):
        raise OutputError(f"{out} was not written by lmanet export and stays; {other}")


def _ontology(exported: Exported) -> str:
    """The classes as the node of nav2's tutorial reads them, YAML; its colours are BGR."""
    pairs = zip(exported.metadata["names"], exported.metadata["colors"], strict=True)
    classes: list[dict[str, Any]] = [{"name": name, "color": color[::-1]} for name, color in pairs]
    return yaml.safe_dump({"ontology": {"classes": classes}}, sort_keys=False, default_flow_style=None)


def _check(options: Namespace, model: Model, exported: Exported, runtime: RuntimeConfig, config: SegmenterConfig) -> int:
    segmenter = VideoSegmenter(prepare_runtime(model, runtime), config)
    program = open_onnx(Path(options.out))
    with open_frames(options.check) as source:
        frames = source if options.max_frames is None else islice(source, options.max_frames)
        agreement = compare_with_program(segmenter, program, exported.signature, frames)
    console.print(
        f"{100 * agreement.share:.4f} % of labels are those of our own step, over {agreement.frames} frames with "
        f"{agreement.resets} resets; {100 * agreement.least:.2f} % in the frame where they differ most",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if agreement.share >= _WANTED else 1
