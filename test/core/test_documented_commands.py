"""Every `lmanet` command of README and docs is run, on small stand-ins of what it speaks of, and has options that there are."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import string
from pathlib import Path

import cv2
import pytest
import torch

from lmanet_core.commands.main import COMMANDS, main, make_parser
from lmanet_core.experiments.paper import EXPERIMENTS
from lmanet_core.stream.segmenter import VideoSegmenter

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Words of a command → what they are called among the stand-ins.
STAND_INS = {
    "INPUT": "drive.mp4", "INPUT…": "drive.mp4", "BAG": "drive.mcap", "RECORDED": "results.mcap", "hf:FOLDER": "hf:segformer",
    "bag": "bag/images", "RUN.yaml": "config/train/street_memory.yaml", "NAME": "kitti", "TOPIC": "/camera/labels/compressed",
    "/front/image_raw,/rear/image_raw": "two", "camvid_0016E5_15hz_mcap": "clip.mcap", "night.mcap": "clip.mcap",
    "python:own.py:espnet": "python:camvid.py:make",
}  # fmt: skip
#: Numbers that fit the size and length of the stand-ins.
SMALLER = {
    "480x272": "64x32", "640x360": "64x32", "640x480": "64x32", "480x360": "64x32", "512x256": "64x32", "2048x1024": "64x32",
    "320,180": "20,10", "500,200": "50,20",
}  # fmt: skip
SMALLER_OPTIONS = {"--frame": "3", "--picture": "2", "--start": "0.1", "--end": "0.4", "--max-steps": "1", "--max-clips": "1"}
#: What is asked for besides, where the command says nothing of it.
BESIDES = {
    "adapt": {"--steps": "1", "--moments": "4", "--batch-size": "1", "--workers": "0"},
    "street": {"--frames": "2", "--size": "64x32"},
    "train --weights": {"--size": "64x32", "--max-steps": "1", "--epochs": "1", "--batch-size": "1", "--workers": "0"},
    "evaluate --data street": {"--size": "64x32", "--max-clips": "1"},
    "evaluate BAG": {"--out": "report"},
    "evaluate --data NAME": {"--size": "64x32"},
}  # fmt: skip
#: Commands that no stand-in can serve → the test that runs their like.
ELSEWHERE = {
    "weights fetch": "test_download.py, from a server of its own",
    "rtsp://": "test_media_live.py, the same reader over HTTP",
    "hf:owner/name": "test_adapters.py, without a network",
    "experiment cost": "test_evaluation_experiments.py; at full size it takes minutes",
    "bench": "test_benchmark.py; at full size it takes minutes",
}
MENTIONED = ("", "--data", "--mapping", "convert", "info")
EXTRAS = {
    "hf:": "transformers",
    "model.onnx": "onnxruntime",
    "--check": "onnxruntime",
    "export": "onnxscript",
    "adapt": "lightning",
    "train ": "lightning",
    "experiment": "lightning",
}


def documented():
    """(command, options, whether it is whole) of every command in a block or between backticks, variables put in."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        spans = re.findall(r"`(lmanet [^`]*?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.DOTALL)
        variables = {}
        for line in (*text.splitlines(), *spans):
            if assigned := re.match(r"(\w+)=(\"[^\"]*\"|\S+)$", line):
                variables[assigned[1]] = string.Template(assigned[2].strip('"')).safe_substitute(variables)
            match = re.match(r"lmanet (\w+) ?([^#;]*)", " ".join(line.split()))
            if match and match[1] in COMMANDS:
                options = string.Template(match[2]).safe_substitute(variables).strip()
                mention = "…" in options.removeprefix("INPUT…") or (line in spans and options in MENTIONED)
                name = f"{page.name}: lmanet {match[1]} {match[2][:60]}"
                yield pytest.param(match[1], options, not mention, id=name)


@functools.cache
def options_of(command):
    """Long options of a command and of the commands within it."""
    parser = make_parser(command)
    within = [one for action in parser._actions for one in (getattr(action, "_name_parser_map", None) or {}).values()]
    return {option for one in (parser, *within) for action in one._actions for option in action.option_strings}


@pytest.mark.parametrize(("command", "options", "whole"), list(documented()))
def test_documented_options_exist(command, options, whole):
    assert {word.partition("=")[0] for word in re.findall(r"--[\w-]+(?:=\S*)?", options)} <= options_of(command)


@pytest.fixture(scope="module")
def world(tmp_path_factory, ros2, following_weights):
    """A folder with all that the commands speak of."""
    spec = importlib.util.spec_from_file_location("documented_world", Path(__file__).with_name("documented_world.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home = tmp_path_factory.mktemp("world")
    module.make_world(home, ros2, following_weights)
    if importlib.util.find_spec("transformers"):
        module.make_hub_folders(home)
    if importlib.util.find_spec("onnxscript"):
        module.make_onnx(home / "model.onnx")
    return home


def on_stand_ins(command, options, out):
    """The words of a command, in terms of what is in the world; results go into the folder `out`."""
    words = [STAND_INS.get(word, SMALLER.get(word, word)) for word in shlex.split(options)]
    if "two" in words:
        words = ["two.mcap", *words[1:]]
        words[words.index("two")] = "/front/image_raw,/rear/image_raw"
    if command == "adapt":
        words = [{"drive.mcap": "long.mcap", "solidWhiteRight.mp4": "long.mcap"}.get(word, word) for word in words]
    if "camvid" in options:  # of CamVid's classes
        of_camvid = {"python:own.py:make": "python:camvid.py:make", "W,V": "camvid_memory,camvid_single"}
        words = [of_camvid.get(word, word) for word in words]
    for place, word in enumerate(words[:-1]):
        words[place + 1] = SMALLER_OPTIONS.get(word, words[place + 1])
        if word == "--out":
            words[place + 1] = str(out / Path(words[place + 1]).name)
        if word == "--root" and words[place + 1] == "ROOT" and "kitti" in words:
            words[place + 1] = "KITTI"
    if command == "train" and "--out" not in words and "--help" not in words:
        words += ["--out", str(out / "run")]
    line = f"{command} {options}"
    return words + [one for start, more in BESIDES.items() if line.startswith(start) for pair in more.items() for one in pair]


@pytest.mark.parametrize(
    ("command", "options"),
    {one.values[:2]: pytest.param(*one.values[:2], id=one.id) for one in documented() if one.values[2]}.values(),
)
def test_documented_command_runs(command, options, world, tmp_path, monkeypatch, capsys):
    line = f"{command} {options}"
    for words, test in ELSEWHERE.items():
        if words in line:
            pytest.skip(f"run by {test}")
    for words, module in EXTRAS.items():
        if words in line:
            pytest.importorskip(module)
    monkeypatch.chdir(world)
    try:
        code = main([command, *on_stand_ins(command, options, tmp_path)])
    except SystemExit as stopped:  # --help
        code = stopped.code
    said = capsys.readouterr()
    assert code == 0 or (code == 1 and command in ("evaluate", "compare", "doctor", "adapt") and "error" not in said.err), (
        said.err
    )


def test_every_family_of_the_documentation_is_segmented_with(world, published_shapes, monkeypatch):
    for module in ("transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(module)
    for file, kind in (("train_epoch_200.pth", "semseg"), ("lmanet_erf_best.pth", "erf sigmoid-do1")):
        shapes, _ = published_shapes(kind)
        torch.save({f"module.{key}": torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}, world / file)
    monkeypatch.chdir(world)
    (example,) = re.findall(r"```python\n(# families\.py.*?)```", (ROOT / "docs/models.md").read_text(), re.DOTALL)
    made = {}
    exec(example, made)
    image = cv2.imread("bag/images/000.png")
    counts = {name: len(one.labels.names) for name, one in made.items() if isinstance(one, VideoSegmenter)}
    assert counts == {
        **dict.fromkeys(("erfnet", "pspnet", "lmanet"), 19),
        **dict.fromkeys(("segformer", "dpt", "mobilenet", "own", "torchscript", "onnx"), 4),
    }
    for name, count in counts.items():
        labels = made[name].step(image, 10**9).labels
        assert labels.shape == image.shape[:2] and labels.max() < count
    assert made["lmanet"].memory is not None and made["pspnet"].memory is None


def test_scripts_of_the_documentation_are_there():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"\b(?:benchmarks|config/train|test)/[\w/]+\.(?:py|yaml)\b", text))
    assert len(named) > 20 and not [name for name in named if not (ROOT / name).is_file()]


def test_an_experiment_is_named_as_it_is_called():
    names = {one.values[1].split()[0] for one in documented() if one.values[0] == "experiment" and one.values[1]}
    assert {name for name in names if name.islower()} <= {*EXPERIMENTS, "memory-gain"}


def test_there_are_documented_commands_of_every_kind():
    assert {one.values[0] for one in documented()} | {"demo"} == set(COMMANDS)  # that one stands there as `make demo`
