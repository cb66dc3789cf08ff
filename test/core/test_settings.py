"""A setting is said once: command line, ROS parameters and YAML have the same ones, and mean the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lmanet_core.commands import train
from lmanet_core.commands.main import make_parser
from lmanet_core.commands.options import add_segmenter_options, make_segmenter, options_from_node, segmenter_config
from lmanet_core.errors import ConfigError
from lmanet_core.settings import RENAMED, from_values, settings_of
from lmanet_core.stream.continuity import ContinuityConfig
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.training.config import TrainConfig
from lmanet_core.weights.checkpoint import load_model
from lmanet_core.weights.runtime import RuntimeConfig

NODE = Path(__file__).resolve().parents[2] / "config/segment.yaml"
ALL = [*settings_of(RuntimeConfig), *settings_of(SegmenterConfig)]
#: One other value for each setting, as the node's parameter file has it.
OTHER = {
    "device": "cpu", "precision": "bf16", "cut": "auto", "label_set": "cityscapes", "threads": 1, "compile": "false",
    "memory.window": -1,
    "memory.enabled": False, "memory.frames": 2,
    "memory.interval_s": 0.25, "label_memory.enabled": False, "label_memory.strength": 0.5,
    "network_size": "64x32", "output_size": "network", "resize": "crop", "upsample": "labels", "rotate": 90, "bits": 12,
    "attention": "reference", "continuity.gap_intervals": 4.0, "continuity.gap_s": 3.5, "continuity.late_s": 0.02,
    "continuity.scene_cut": False, "continuity.scene_cut_similarity": 0.5, "continuity.scene_cut_margin": 0.25,
    "continuity.blind": False, "continuity.frozen_repeats": 20,
}  # fmt: skip


def from_arguments(arguments, weights):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_segmenter_options(parser)
    return make_segmenter(load_model(weights), parser.parse_args(arguments))


def test_every_setting_has_its_own_name_and_option_and_a_sentence():
    assert {one.name for one in ALL} == set(OTHER)
    for names in ([one.name for one in ALL], [one.option for one in ALL]):
        assert len(set(names)) == len(names)
    assert all((one.setting.help.endswith(".") and one.setting.help[0].isupper()) or ":" in one.setting.help for one in ALL)


@pytest.mark.parametrize("command", ["segment", "evaluate", "explain"])
def test_the_command_line_has_every_setting(command):
    options = {action.dest for action in make_parser(command)._actions}
    assert {one.option.replace("-", "_") for one in ALL} <= options


def test_a_nodes_parameter_file_means_the_same_on_the_command_line(video_weights):
    parameters = {**yaml.safe_load(NODE.read_text())["/**"]["ros__parameters"], **OTHER}
    del parameters["weights"]
    segmenter = from_arguments(options_from_node(parameters, "node.yaml"), video_weights)
    assert segmenter.config == SegmenterConfig(
        memory=False, memory_frames=2, memory_interval_s=0.25, label_memory=False,
        label_memory_strength=0.5, network_size="64x32", output_size="network", resize="crop",
        rotate=90, bits=12, attention="reference",
        continuity=ContinuityConfig(
            gap_intervals=4.0, gap_s=3.5, late_s=0.02, scene_cut=False, scene_cut_similarity=0.5, scene_cut_margin=0.25,
            blind=False, frozen_repeats=20,
        ),
    )  # fmt: skip
    assert segmenter.runtime.config.memory.window is None and segmenter.runtime.precision == "bf16"


def test_the_shipped_parameter_file_is_the_default_of_the_command_line(video_weights):
    parameters = yaml.safe_load(NODE.read_text())["/**"]["ros__parameters"]
    given, default = (from_arguments(arguments, video_weights) for arguments in (options_from_node(parameters, "x"), []))
    assert given.config == default.config == SegmenterConfig()
    assert given.runtime.config == default.runtime.config


@pytest.mark.parametrize("word", ["auto", "true", "false"])
def test_compile_is_the_same_word_from_yaml_and_from_the_command_line(word, tmp_path):
    (tmp_path / "config.yaml").write_text(f"compile: {word}\n")  # where YAML takes true for a truth value
    for given in ([f"--compile={word}"], ["--config", str(tmp_path / "config.yaml")]):
        options = make_parser("segment").parse_args(["drive.mp4", "--out", "out", *given])
        assert segmenter_config(options)[0].compile == word


def test_a_typo_in_a_parameter_file_is_told_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"config n\.yaml: unknown parameter memory\.frame; did you mean memory\.frames\?"):
        options_from_node({"memory.frame": 2}, "n.yaml")


def test_zero_and_minus_one_stand_for_what_has_no_number():
    assert [RuntimeConfig(window=window).window for window in (0, -1, 7, "global", None)] == [None, "global", 7, "global", None]
    assert SegmenterConfig(memory_frames=0) == SegmenterConfig()
    with pytest.raises(ConfigError, match="odd"):
        RuntimeConfig(window=20)


def test_values_by_path_make_the_dataclasses():
    made = from_values(SegmenterConfig, {("resize",): "crop", ("continuity", "gap_s"): 2.0})
    assert made == SegmenterConfig(resize="crop", continuity=ContinuityConfig(gap_s=2.0))


OLD_CONFIG = "data: street\nsize: 64x48\nweights: w.safetensors\nnearness: 8\nfollow_motion: false\nspoil_past: 0.25\n"


def test_a_training_file_with_the_names_of_the_release_before_means_the_same(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(OLD_CONFIG)
    old = TrainConfig.from_yaml(tmp_path / "old.yaml")
    assert (old.position_bias, old.motion_compensation, old.degrade_past) == (8.0, False, 0.25)
    options = make_parser("train").parse_args(["--config", str(tmp_path / "old.yaml"), "--degrade-last", "0.5"])
    assert train.read_config(options) == replace(old, degrade_last=0.5)
    assert "nearness is called position_bias now; the old name goes with the next release" in capsys.readouterr().err


def test_a_setting_under_both_its_names_is_refused(tmp_path):
    (tmp_path / "both.yaml").write_text(OLD_CONFIG + "position_bias: 9\n")
    wanted = "nearness is called position_bias now, and both are given; keep position_bias"
    with pytest.raises(ConfigError, match=wanted):
        TrainConfig.from_yaml(tmp_path / "both.yaml")
    with pytest.raises(ConfigError, match=wanted):
        train.read_config(make_parser("train").parse_args(["--config", str(tmp_path / "both.yaml")]))


def test_a_run_saved_under_the_old_names_goes_on_with_the_same_settings(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD_CONFIG)
    config = TrainConfig.from_yaml(tmp_path / "old.yaml")
    old_names = {new: old for old, new in RENAMED.items()}
    saved = {old_names.get(name, name): value for name, value in config.to_dict().items()}
    assert saved["nearness"] == 8.0 and config.differences(saved) == []
    assert config.differences(saved | {"nearness": 9.0}) == ["position_bias: was 9.0, now 8"]


def test_renamed_settings_exist():
    known = {one.name for one in settings_of(TrainConfig)}
    assert set(RENAMED.values()) <= known and not set(RENAMED) & known
