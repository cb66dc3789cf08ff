"""`lmanet explain`: where in the past images the memory is read for some positions of a frame, and which past labels hold."""

from __future__ import annotations

from pathlib import Path

import cv2
from jsonargparse import ArgumentParser, Namespace

from lmanet_core.commands.options import add_segmenter_options, choose_weights, make_segmenter
from lmanet_core.errors import ConfigError, InputError, OutputError
from lmanet_core.evaluation.attention import AttentionWatch, draw_sheet
from lmanet_core.evaluation.label_gate import GateWatch
from lmanet_core.evaluation.session import step_watched
from lmanet_core.files import output_errors
from lmanet_core.media import open_frames
from lmanet_core.media.result_folder import free_name
from lmanet_core.weights.checkpoint import load_model


def make_parser() -> ArgumentParser:
    """Options of `lmanet explain`."""
    parser = ArgumentParser(
        description="Draw which labels of the past hold in a frame, and where in the past images the memory of features is "
        "read for some positions.",
        exit_on_error=False,
    )
    parser.add_argument("input", type=str, help="video, image folder or bag")
    parser.add_argument("--weights", type=str | None, default=None, help="of any kind; default: those that ship")
    parser.add_argument("--out", type=str, required=True, help="picture to write, .png or .jpg")
    parser.add_argument(
        "--at", type=str, nargs="+", default=[], help="positions X,Y in pixels of the camera image, for weights with a memory"
    )
    parser.add_argument("--frame", type=int, required=True, help="number of the frame; those before it are segmented first")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of a bag with several cameras")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    add_segmenter_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Write the picture, print the shares.

    Raises:
        LmanetError: input or weights are not usable, or nothing of the past was used for this frame.
    """
    positions = [_parse_position(text) for text in options.at]
    path = Path(options.out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--out must end in .png or .jpg, got {path.name}")
    if path.exists():
        raise OutputError(f"{path} exists and stays; choose another --out, such as {free_name(path)}")
    options.weights = choose_weights(options.weights)
    model = load_model(options.weights)
    segmenter = make_segmenter(model, options)
    if positions and not segmenter.memory_enabled:
        raise ConfigError("--at shows the memory of features, which these weights lack, or it is switched off; leave out --at")
    if not positions and segmenter.label_memory is None:
        raise ConfigError("nothing to explain: the label memory is switched off, and no position was given (--at)")
    attention = [AttentionWatch(segmenter, options.frame, positions)] if positions else []
    gate = [GateWatch(segmenter, options.frame)] if segmenter.label_memory is not None else []
    watches: list[AttentionWatch | GateWatch] = [*attention, *gate]
    with open_frames(options.input, topic=options.topic, fps=options.fps, bits=options.bits) as frames:
        for frame in frames:
            step_watched({"on": segmenter}, frame, *watches)
            if all(watch.is_done for watch in watches):
                break
        else:
            raise InputError(f"{options.input}: there is no frame {options.frame}; frames are counted from 0")
    explanations = [explanation for watch in attention for explanation in watch.explanations]
    sheet = draw_sheet([*(watch.panels for watch in gate), *(one.panels for one in explanations)])
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, sheet[:, :, ::-1])[1].tobytes())
    for watch in gate:
        print(watch.summary)
    for explanation in explanations:
        shares = ", ".join(f"{100 * share:.1f} %" for share in explanation.shares)
        print(f"{explanation.title}; newest first: {shares}")
    return 0


def _parse_position(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--at wants X,Y in pixels, such as 320,180, got {text!r}") from error
    return x, y
