"""The table of parameters and its validation. Needs no ROS."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from lmanet_core.errors import ConfigError
from lmanet_core.labels import CITYSCAPES
from lmanet_core.settings import describe_range
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_ros.parameters import TABLE, apply_to_labels, change_settings, defaults, read_settings, unknown_names

CONFIG = Path(__file__).resolve().parents[2] / "config/segment.yaml"


def test_yaml_documents_exactly_the_table():
    text = CONFIG.read_text()
    written = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert list(written) == [parameter.name for parameter in TABLE]
    assert written == defaults()
    for parameter in TABLE:
        comment = re.search(rf"# (.*)\n    {re.escape(parameter.name)}:", text)[1]
        assert comment.startswith(parameter.description)
        expected = parameter.when
        if math.isfinite(parameter.low):
            expected += f", {describe_range(parameter.low, parameter.high, parameter.unit)}"
        assert comment.endswith(f"[{expected}]"), parameter.name
        assert all(choice in comment for choice in parameter.choices if choice != "triton")


def test_defaults_are_valid_and_the_segmenters_own():
    settings = read_settings(defaults())
    assert settings.segmenter == SegmenterConfig()
    assert settings.cameras == ("",)
    assert settings.groups == settings.palette == {}


def test_ranges_hold_their_defaults():
    for parameter in TABLE:
        if isinstance(parameter.default, float | int):
            assert parameter.low <= parameter.default <= parameter.high


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory.window", 20, "odd"),
        ("memory.frames", 65, "0 to 64"),
        ("memory.frames", 1.5, "a whole number, got 1.5"),
        ("memory.enabled", 1, "true or false, got 1"),
        ("memory.enabled", "yes", "true or false"),
        ("continuity.gap_s", -0.1, "0 s or more"),
        ("continuity.gap_intervals", 0.5, "1 to 1000"),
        ("output_prefix", "/seg", "without a slash before it"),
        ("continuity.gap_s", math.nan, "got nan"),
        ("overlay_opacity", 1.01, "0 to 1"),
        ("transport", "theora", "raw, compressed"),
        ("precision", "int8", "auto, fp32"),
        ("compile", "on", "auto, true, false"),
        ("network_size", "big", "WIDTHxHEIGHT"),
        ("output_size", "half", "WIDTHxHEIGHT"),
        ("weights", 5, "a string"),
        ("cameras", "front", "a list of strings"),
        ("cameras", ["front", "fr ont"], "names for topics"),
        ("cameras", ["front", "front"], "must differ"),
        ("groups", ["drivable"], "name=class,class"),
        ("palette", ["road=1,2"], "R,G,B"),
        ("palette", ["road=1,2,256"], "R,G,B"),
        ("palette", ["road=1,2,x"], "R,G,B"),
        ("diagnostics.age_warn_s", 6.0, "must not be above"),
    ],
)
def test_wrong_value_is_refused_and_says_why(name, value, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_settings({**defaults(), name: value})
    assert name.split(".")[0] in str(caught.value) or "size" in str(caught.value)


@pytest.mark.parametrize(("given", "word"), [(True, "true"), (False, "false"), ("true", "true"), ("auto", "auto")])
def test_compile_is_taken_as_a_word_or_as_a_truth_value(given, word):
    assert read_settings({**defaults(), "compile": given}).runtime.compile == word


def test_values_that_contradict_each_other_are_refused_together():
    assert read_settings({**defaults(), "upsample": "logits"})
    assert read_settings({**defaults(), "resize": "crop"})
    with pytest.raises(ConfigError, match="upsample: logits wants resize: stretch"):
        read_settings({**defaults(), "upsample": "logits", "resize": "crop"})


def test_whole_number_is_taken_for_a_decimal_one():
    assert read_settings({**defaults(), "continuity.gap_s": 2}).segmenter.continuity.gap_s == 2.0


@pytest.mark.parametrize("empty", [None, [], [""], ()])
def test_every_form_of_an_empty_list_is_taken(empty):
    assert read_settings({**defaults(), "cameras": empty}).cameras == ("",)


def test_a_camera_without_a_name_has_no_prefix_and_one_with_a_name_has():
    assert read_settings(defaults()).cameras == ("",)
    assert read_settings({**defaults(), "cameras": ["front"]}).cameras == ("front",)
    assert read_settings({**defaults(), "cameras": ["front", "rear"]}).cameras == ("front", "rear")


def test_window_of_minus_one_is_global():
    windows = [read_settings({**defaults(), "memory.window": w}).runtime.window for w in (0, 7, -1)]
    assert windows == [None, 7, "global"]


def test_live_parameter_changes_while_configured():
    assert not change_settings(defaults(), {"memory.enabled": False}, configured=True).segmenter.memory


def test_other_parameter_waits_until_the_node_is_unconfigured():
    with pytest.raises(ConfigError, match="device cannot change while the node is configured: first deactivate and cleanup"):
        change_settings(defaults(), {"device": "cpu"}, configured=True)
    assert change_settings(defaults(), {"device": "cpu"}, configured=False).runtime.device == "cpu"


def test_same_value_again_is_no_change():
    assert change_settings(defaults(), {"device": "auto", "cameras": [""]}, configured=True)


def test_a_typo_beneath_any_name_is_told_and_ros_own_names_are_known():
    typos = {"use_sim_timee": "use_sim_time", "memory.enabledd": "memory.enabled", "qos_override.x": "qos_overrides."}
    assert unknown_names([*typos, "use_sim_time", "start_type_description_service", "qos_overrides./a.b.c"]) == typos


def test_names_of_others_are_none_of_our_business():
    assert change_settings(defaults(), {"use_sim_time": True}, configured=True) == read_settings(defaults())


def test_unknown_name_gets_the_nearest_known_one():
    names = ["memory.enabeld", "xyz", "weights", "use_sim_time", "qos_overrides./a.subscription.depth"]
    assert unknown_names(names) == {"memory.enabeld": "memory.enabled", "xyz": ""}


def test_groups_and_palette_change_the_labels():
    settings = read_settings({**defaults(), "groups": ["ground = road, sidewalk"], "palette": ["road=1, 2, 3"]})
    labels = apply_to_labels(CITYSCAPES, settings)
    assert labels.groups == {"ground": ("road", "sidewalk")}
    assert labels.colors[0] == (1, 2, 3)
    assert labels.colors[1:] == CITYSCAPES.colors[1:]


@pytest.mark.parametrize(("name", "value"), [("palette", ["raod=1,2,3"]), ("groups", ["a=raod"])])
def test_unknown_class_is_refused_with_the_nearest_known_one(name, value):
    with pytest.raises(ConfigError, match="did you mean road"):
        apply_to_labels(CITYSCAPES, read_settings({**defaults(), name: value}))
