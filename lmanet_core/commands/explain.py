"""`lmanet explain`: where in the past images the memory is read for some positions of a frame."""

from __future__ import annotations

from pathlib import Path

import cv2
from jsonargparse import ArgumentParser, Namespace

from lmanet_core.commands.options import add_segmenter_options, choose_weights, make_segmenter
from lmanet_core.errors import ConfigError, InputError
from lmanet_core.evaluation.attention import AttentionWatch, draw_sheet
from lmanet_core.evaluation.session import step_watched
from lmanet_core.media import open_frames
from lmanet_core.media.sinks import output_errors
from lmanet_core.weights.checkpoint import load_model


def make_parser() -> ArgumentParser:
    """Options of `lmanet explain`."""
    parser = ArgumentParser(
        description="Draw where in the past images the memory is read for some positions of a frame.", exit_on_error=False
    )
    parser.add_argument("input", type=str, help="video, image folder or bag")
    parser.add_argument("--weights", type=str | None, default=None, help="with a memory; default: those that ship")
    parser.add_argument("--out", type=str, required=True, help="picture to write, .png or .jpg")
    parser.add_argument("--at", type=str, nargs="+", required=True, help="positions X,Y in pixels of the camera image")
    parser.add_argument("--frame", type=int, required=True, help="number of the frame; those before it are segmented first")
    parser.add_argument("--topic", type=str | None, default=None, help="image topic of a bag with several cameras")
    parser.add_argument("--fps", type=float | None, default=None, help="frames a second of an image folder (10)")
    add_segmenter_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Write the picture, print the shares.

    Raises:
        LmanetError: input or weights are not usable, or no memory was read for this frame.
    """
    positions = [_parse_position(text) for text in options.at]
    path = Path(options.out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"--out must end in .png or .jpg, got {path.name}")
    options.weights = choose_weights(options.weights)
    model = load_model(options.weights)
    segmenter = make_segmenter(model, options)
    if not segmenter.memory_enabled:
        raise ConfigError("nothing to explain: these weights have no memory, or it is switched off")
    watch = AttentionWatch(segmenter, options.frame, positions)
    with open_frames(options.input, topic=options.topic, **({} if options.fps is None else {"fps": options.fps})) as frames:
        for frame in frames:
            step_watched({"on": segmenter}, frame, watch)
            if watch.is_done:
                break
        else:
            raise InputError(f"{options.input}: there is no frame {options.frame}; frames are counted from 0")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, draw_sheet(watch.explanations)[:, :, ::-1])[1].tobytes())
    for explanation in watch.explanations:
        shares = ", ".join(f"{100 * share:.1f} %" for share in explanation.shares)
        print(f"{explanation.title}; newest first: {shares}")
    return 0


def _parse_position(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--at wants X,Y in pixels, such as 320,180, got {text!r}") from error
    return x, y
