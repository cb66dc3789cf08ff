"""The paper's experiments: each prints its table, keeps what it trained, and says what it cannot do."""

from __future__ import annotations

import csv
import shutil
from xml.etree import ElementTree

import pytest
import torch
import yaml

from lmanet_core.commands.main import main
from lmanet_core.errors import ConfigError
from lmanet_core.experiments import paper as experiments
from lmanet_core.experiments.cost import measure
from lmanet_core.experiments.paper import EXPERIMENTS, ExperimentConfig, ExperimentResult, run_experiment
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import load_model, save_model

pytest.importorskip("lightning", reason="training needs lightning: pip install '.[train]'")

SETTINGS = {
    "data": "street",
    "size": "64x32",
    "clips": 2,
    "seeds": 1,
    "val_clips": 2,
    "val_seeds": 1,
    "memory_frames": 1,
    "window": 3,
    "key_channels": 4,
    "fusion": "residual",
    "batch_size": 1,
    "epochs": 1,
    "max_steps": 1,
    "learning_rate": 0.01,  # one step that shows in the labels, whatever the arithmetic
    "workers": 0,
    "accelerator": "cpu",
}


@pytest.fixture
def experiment(tmp_path, single_frame_weights, capsys):
    """`lmanet experiment` on a tiny street; returns the rows of the table it writes."""

    def run(name, *arguments, weights=single_frame_weights):
        # consistency and whitened keys: settings that no single-frame network could be trained with
        settings = {**SETTINGS, "cache": str(tmp_path / "frames"), "consistency": 0.5, "whiten_keys": True}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        out = tmp_path / "out"
        options = ("--data", tmp_path / "run.yaml", "--weights", weights, "--out", out, "--device", "cpu", *arguments)
        code = main(["experiment", name, *(str(option) for option in options)])
        said = capsys.readouterr()
        assert code == 0, said.err
        with (out / f"{name}.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[-1][0] in said.out and (out / f"{name}.txt").stat().st_size and (out / f"{name}.svg").stat().st_size
        return rows

    return run


@pytest.mark.parametrize("name", list(experiments.VARIANTS))
def test_variants_are_trained_and_compared(experiment, monkeypatch, tmp_path, name):
    few = experiments.VARIANTS[name][-2:]
    monkeypatch.setattr(experiments, "VARIANTS", {name: few})
    rows = experiment(name, "--stages", "joint", "--max-clips", "1")
    assert [row[0] for row in rows] == ["", "single frame", *(heading for heading, _ in few)]
    assert rows[1][2] == rows[1][3]
    one, other = (
        load_model(tmp_path / "out" / name / heading.replace(" ", "") / "joint" / "last.safetensors") for heading, _ in few
    )
    assert one.config.memory != other.config.memory  # one step need not show in the labels


def test_an_interrupted_experiment_goes_on(experiment, monkeypatch):
    monkeypatch.setattr(experiments, "VARIANTS", {"window": experiments.VARIANTS["window"][:1]})
    first = experiment("window", "--max-clips", "1")
    from lmanet_core.training import run

    def refuse(config):
        raise AssertionError(f"{config.out} was trained again")

    with monkeypatch.context() as patched:
        patched.setattr(run, "train", refuse)
        assert experiment("window", "--max-clips", "1") == first
        with pytest.raises(AssertionError, match=r"R=1/memory was trained again"):
            experiment("window", "--max-clips", "1", "--seed", "5")


def test_variants_start_from_what_given_weights_are_without_their_memory(experiment, monkeypatch, tmp_path, video_weights):
    monkeypatch.setattr(experiments, "VARIANTS", {"window": experiments.VARIANTS["window"][:1]})
    given = tmp_path / "given.safetensors"
    shutil.copy(video_weights, given)

    def rows():
        return experiment("window", "--stages", "joint", "--max-clips", "1", weights=given)

    first = rows()
    assert first[1][0] == "single frame" and first[1][2] == first[1][3]
    model = load_model(given)
    single = load_model(tmp_path / "out" / "window" / "single_frame.safetensors")
    assert single.config.memory is None and single.network.memory is None
    whole = model.network.backbone.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in single.network.backbone.state_dict().items())
    variant = tmp_path / "out" / "window" / "R=1" / "joint" / "last.safetensors"
    trained = variant.stat().st_mtime_ns
    assert rows() == first and variant.stat().st_mtime_ns == trained
    with torch.no_grad():
        next(model.network.backbone.parameters()).mul_(1.5)
    save_model(given, model.network, model.config)  # other weights under the same name are not what was trained on
    assert rows() != first and variant.stat().st_mtime_ns != trained


def test_longer_memory_is_read_without_training(experiment, video_weights):
    rows = experiment("longer-memory", "--conditions", "none,noise", weights=video_weights)
    assert rows[0] == ["", "none", "noise"]
    trained = [row[0] for row in rows if "trained" in row[0]]
    assert len(trained) == 1 and len(rows) == 2 + 4 * int(trained[0].split()[2])


def test_longer_memory_wants_a_memory(tmp_path, single_frame_weights):
    train = TrainConfig(**{**SETTINGS, "stage": "backbone", "weights": str(single_frame_weights)})
    with pytest.raises(ConfigError, match="has no memory"):
        run_experiment(ExperimentConfig("longer-memory", train, tmp_path))


def test_classes_are_listed_one_by_one(experiment, video_weights):
    rows = experiment("classes", weights=video_weights)
    assert rows[0] == ["", "none off", "none on"] and rows[1][0] == "mean" and len(rows) == 2 + 19


def test_cost_is_measured_beside_the_single_frame(experiment, monkeypatch):
    monkeypatch.setattr(experiments, "COST_WINDOWS", (None, 3))
    monkeypatch.setattr(experiments, "COST_ROUNDS", 2)
    rows = experiment("cost")
    assert [row[0] for row in rows[1:]] == ["single frame", "global", "R = 3"]
    assert all(float(row[1]) > 0 and float(row[3]) > 50 for row in rows[1:]) and float(rows[1][2]) == 0


def test_percentages_of_the_cost_are_those_of_the_figures_beside_them(experiment, monkeypatch):
    rounds = iter([(10.0, 100.0), (20.0, 110.0), (30.0, 100.0), (33.0, 120.0), (20.0, 100.0), (36.0, 130.0)])
    monkeypatch.setattr(experiments, "COST_WINDOWS", (3,))
    monkeypatch.setattr(experiments, "_measure_cost", lambda config, window: next(rounds))
    _, single, window = experiment("cost")
    assert [float(value) for value in single[1:]] == [20, 0, 100, 0]
    assert [float(value) for value in window[1:]] == pytest.approx([33, 65, 120, 20])


def test_cost_is_that_of_a_full_memory(single_frame_weights):
    for window, frames in (("3", 2), ("global", 4), ("none", 0)):
        assert measure(str(single_frame_weights), "64x32", window, frames, "cpu", "fp32")["read_frames"] == frames


def test_every_experiment_of_the_paper_has_a_name():
    assert EXPERIMENTS == ("memory-size", "window", "fusion", "cost", "longer-memory", "classes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "speed"}, "an experiment is one of memory-size, .*; got 'speed'"),
        ({"stages": ("decoder",)}, "stages are memory, joint, all, or several of them, got decoder"),
        ({"train": TrainConfig(**{**SETTINGS, "stage": "backbone"})}, "starts from trained weights"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, changes, message):
    train = TrainConfig(**{**SETTINGS, "stage": "backbone", "weights": "w.pth"})
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig(**{"name": "window", "train": train, "out": tmp_path, **changes})


def test_bars_are_as_long_as_the_values_are_large(tmp_path):
    rows = (("a <b>", "none", 10.0, 20.0), ("b", "none", 5.0, float("nan")))
    experiments.write_result(tmp_path, "one", ExperimentResult("one: x", ("", "condition", "off", "on"), rows, (2, 3)))
    svg = ElementTree.parse(tmp_path / "one.svg").getroot()
    bars = [each for each in svg.findall(".//{*}rect") if each.find("{*}title") is not None]
    assert [bar.find("{*}title").text for bar in bars] == ["a <b> none, off: 10", "b none, off: 5", "a <b> none, on: 20"]
    heights = [float(bar.get("height")) for bar in bars]
    assert heights == pytest.approx([heights[2] / 2, heights[2] / 4, 240.0])
    assert {float(bar.get("y")) + float(bar.get("height")) for bar in bars} == {float(bars[2].get("y")) + heights[2]}


def test_a_table_without_numbers_has_no_plot(tmp_path):
    experiments.write_result(tmp_path, "words", ExperimentResult("words", ("", "said"), (("a", "b"),)))
    assert (tmp_path / "words.csv").read_text().split() == [",said", "a,b"] and not (tmp_path / "words.svg").exists()
