"""`lmanet demo` with nothing at hand: a drive, a report with memory off and on, a table and a picture."""

from __future__ import annotations

import json

import cv2
import pytest

from lmanet_core.commands.demo import classes_table
from lmanet_core.commands.main import main
from lmanet_core.errors import WeightsError
from lmanet_core.media import open_frames
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.shipped import default_weights

SMALL = ("--frames", "8", "--size", "64x32", "--seed", "5")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a small demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    return out


def test_a_demo_writes_drive_report_video_and_picture(demo):
    with open_frames(demo / "drive.mcap") as frames:
        assert len(list(frames)) == 8
    names = {path.name for path in (demo / "report").iterdir()}
    assert {"report.html", "summary.json", "side_by_side.webm", "result"} <= names
    picture = cv2.imread(str(demo / "picture.png"))
    assert picture.shape[1] == 2 * 64 and picture.shape[0] > 2 * 32


def test_a_demo_compares_single_frames_label_memory_and_both_over_the_true_labels(demo):
    summary = json.loads((demo / "report/summary.json").read_text())
    assert summary["variants"] == ["on", "off", "labels"] and summary["figures"]["labelled_frames"] == 8
    assert set(summary["frame_ms"]) == {"on", "off", "labels"} and summary["runs"]["on"]["iou"] != summary["runs"]["off"]["iou"]


def test_the_table_has_the_common_classes_and_the_frame_rates(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), *SMALL]) == 0
    said = capsys.readouterr().out
    for word in ("road", "rare classes, mean", "mIoU of", "flicker", "temporal consistency", "frames a second, here and now"):
        assert word in said
    assert "single frame" in said and "both memories" in said
    assert main(["demo", "--out", str(tmp_path / "out"), *SMALL]) == 5
    assert main(["demo", "--out", str(tmp_path / "out"), *SMALL, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--frames", "6"), 2, "--frames must be more than 6, got 6"),
        (("--level", "9"), 2, "level must be 0 (clean) to 3 (heavy), got 9"),
    ],
)
def test_settings_that_make_no_demo_are_refused(tmp_path, capsys, options, code, message):
    assert main(["demo", "--out", str(tmp_path / "out"), *options]) == code
    assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "out").exists()


def test_single_frame_weights_make_no_demo(tmp_path, capsys, single_frame_weights):
    assert main(["demo", "--out", str(tmp_path / "out"), "--weights", str(single_frame_weights)]) == 2
    assert "memory off and on" in " ".join(capsys.readouterr().err.split())


def test_the_shipped_weights_are_small_and_say_where_they_come_from():
    model = load_model(default_weights())
    assert default_weights().stat().st_size <= 6_000_000
    assert model.config.memory is not None and model.config.memory.fusion == "residual"
    assert model.config.input_size == (256, 512)
    assert {"command", "steps", "seed", "data", "versions", "log"} <= set(model.config.provenance)


def test_an_installation_without_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("lmanet_core.weights.shipped._WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="install it again, or give weights"):
        default_weights()


def test_changes_in_the_table_are_those_of_the_figures_beside_them():
    iou = [{"road": 0.90249, "car": 0.5001}, {"road": 0.903, "car": 0.5}, {"road": 0.90251, "car": 0.49996}]
    ways = zip(("off", "labels", "on"), iou, strict=True)
    runs = {
        way: {"iou": each, "confusion": [[90, 0, 0], [0, 10, 0]], "miou": 0.7, "tc": 0.5, "flicker": None} for way, each in ways
    }
    table = classes_table({"runs": runs, "frame_ms": {"off": 10.0, "labels": 12.5, "on": 20.0}})
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == ("road", "90.2", "90.3", "90.3", "+0.1") and rows[1] == ("car", "50.0", "50.0", "50.0", "0.0")
    assert rows[-1] == ("frames a second, here and now", "100.0", "80.0", "50.0", "")
