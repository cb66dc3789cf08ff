"""The node's parameters: one table, and their validation as a whole.

Knows nothing of ROS but in `declare_parameters`. `read_settings` turns the values of all parameters into `Settings`, or says
what is wrong with them; it alone decides whether a change is taken. `config/segment.yaml` documents the same table, which a
test holds.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lmanet_core.errors import ConfigError, nearest_name, suggest_name
from lmanet_core.labels import LabelSet
from lmanet_core.settings import describe_range, from_values, settings_of, word_for
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.weights.runtime import RuntimeConfig

if TYPE_CHECKING:
    from rclpy.node import Node

Value = bool | int | float | str | list[str]
When = Literal["live", "configure", "start"]

#: What a rate can be capped for: name of the parameter → topic below `segmentation/`.
RATED_TOPICS: Mapping[str, str] = MappingProxyType(
    {
        "labels": "labels",
        "compressed": "labels/compressed",
        "color": "color",
        "overlay": "overlay",
        "confidence": "confidence",
        "mask": "mask/<group>",
    }
)


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        name: as ROS knows it.
        default: its value; also its type. A list with one empty string is an empty list (ROS has no type for `[]`).
        description: one sentence.
        unit: of a number; empty where it has none.
        low, high: range of a number, both included.
        choices: allowed values of a string; empty where there are others.
        when: "live": taken at the next frame; "configure": taken when the node configures, refused while it is configured;
            "start": only from the command line, launch file or YAML.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    when: When = "configure"


def _from_settings(config: type[Any]) -> list[Parameter]:
    """The rows of settings that the command line knows, too."""
    rows = []
    for one in settings_of(config):
        about = one.setting
        default: Value = one.default if about.unset is None else about.unset
        when: When = "live" if about.live else "configure"
        rows.append(Parameter(one.name, default, about.help, about.unit, about.low, about.high, about.choices, when))
    return rows


_RUNTIME, _SEGMENTER = _from_settings(RuntimeConfig), _from_settings(SegmenterConfig)

_WINDOW = 1 + next(row for row, one in enumerate(_SEGMENTER) if one.name == "memory.interval_s")  # its place in the table

TABLE: tuple[Parameter, ...] = (
    Parameter("weights", "", "Weights: a file, hf:FOLDER, hf:owner/name or python:FILE.py:function; empty: those shipped."),
    *_RUNTIME[:-1],
    Parameter("cameras", [""], "Names of cameras, each a prefix of its topics; empty for one camera without prefix."),
    Parameter("transport", "raw", "Subscribe to image (raw) or image/compressed.", choices=("raw", "compressed")),
    Parameter("output_prefix", "segmentation", "Results are below this name."),
    Parameter("enabled", True, "Take images; false: let go of the camera.", when="live"),
    Parameter("decode_when_unheard", True, "Feed the memory while nobody listens; false: let go of the camera.", when="live"),
    Parameter("unheard_after_s", 5.0, "So long without a listener means that nobody listens.", "s", 0.0, 3600.0, when="live"),
    *_SEGMENTER[: _WINDOW],
    _RUNTIME[-1],
    *_SEGMENTER[_WINDOW :],
    Parameter("groups", [""], "Class groups of segmentation/mask/<group>, as 'name=class,class'; empty: as in the weights."),
    Parameter("palette", [""], "Other colours, as 'class=R,G,B'; classes not named keep those of the weights."),
    Parameter("overlay_opacity", 0.5, "Share of the colour in the overlay.", "", 0.0, 1.0, when="live"),
    Parameter("png_level", 1, "Effort of the PNG-compressed label maps: 0 fast, 9 small.", "", 0, 9, when="live"),
    Parameter("jpeg_quality", 90, "Of the compressed overlay: 1 small, 100 fine.", "", 1, 100, when="live"),
    Parameter("max_input_age_s", 0.0, "Images older than this are dropped unseen; 0: none.", "s", 0.0, 3600.0, when="live"),
    *(
        Parameter(f"max_rate_hz.{name}", 0.0, f"Cap for segmentation/{topic}; 0: every frame.", "Hz", 0.0, 1000.0, when="live")
        for name, topic in RATED_TOPICS.items()
    ),
    Parameter("no_image_warn_s", 5.0, "Say so when no image came for this long.", "s", 0.1, 3600.0, when="live"),
    Parameter("diagnostics.age_warn_s", 1.0, "Age at publish that the diagnostics warn of.", "s", 0.001, 3600.0, when="live"),
    Parameter("diagnostics.age_error_s", 5.0, "Age at publish that is an error.", "s", 0.001, 3600.0, when="live"),
    Parameter("diagnostics.rate_warn_hz", 0.0, "Output rate below which they warn; 0: never.", "Hz", 0.0, 1000.0, when="live"),
    Parameter("bond", False, "Send the heartbeats that nav2's lifecycle manager waits for (package bond)."),
    Parameter("autostart", True, "Configure and activate without being told.", when="start"),
)  # fmt: skip

BY_NAME: Mapping[str, Parameter] = MappingProxyType({parameter.name: parameter for parameter in TABLE})


@dataclass(frozen=True)
class Settings:
    """All parameters, valid together.

    Attributes:
        cameras: names; one empty name means one camera without prefix.
        runtime: where and how the network runs.
        segmenter: for every camera; `memory` in it is `memory.enabled`.
        groups: class group → class names; empty: those of the weights.
        palette: class → (R, G, B) that replaces the weights' colour.
        max_rate_hz: by entry of `RATED_TOPICS`; 0 means every frame.

    The others are the parameters of these names.
    """

    weights: str
    runtime: RuntimeConfig
    cameras: tuple[str, ...]
    transport: str
    output_prefix: str
    enabled: bool
    decode_when_unheard: bool
    unheard_after_s: float
    segmenter: SegmenterConfig
    groups: Mapping[str, tuple[str, ...]]
    palette: Mapping[str, tuple[int, int, int]]
    overlay_opacity: float
    png_level: int
    jpeg_quality: int
    max_input_age_s: float
    max_rate_hz: Mapping[str, float]
    no_image_warn_s: float
    age_warn_s: float
    age_error_s: float
    rate_warn_hz: float
    bond: bool
    autostart: bool


def defaults() -> dict[str, Value]:
    """Name → default of every parameter."""
    return {parameter.name: parameter.default for parameter in TABLE}


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Validate all parameters together.

    Args:
        values: a value for every name of the table; whole numbers are taken for decimal ones.

    Raises:
        ConfigError: a wrong type, a value out of range, or values that contradict each other.
    """
    v = {parameter.name: _check(parameter, values[parameter.name]) for parameter in TABLE}
    if v["diagnostics.age_warn_s"] > v["diagnostics.age_error_s"]:
        raise ConfigError(
            f"diagnostics.age_warn_s ({v['diagnostics.age_warn_s']:g}) must not be above "
            f"diagnostics.age_error_s ({v['diagnostics.age_error_s']:g})"
        )
    return Settings(
        weights=v["weights"],
        runtime=from_values(RuntimeConfig, {one.path: v[one.name] for one in settings_of(RuntimeConfig)}),
        cameras=_read_cameras(v["cameras"]),
        transport=v["transport"],
        output_prefix=_read_output_prefix(v["output_prefix"]),
        enabled=v["enabled"],
        decode_when_unheard=v["decode_when_unheard"],
        unheard_after_s=v["unheard_after_s"],
        segmenter=from_values(SegmenterConfig, {one.path: v[one.name] for one in settings_of(SegmenterConfig)}),
        groups={name: tuple(re.split(r"\s*,\s*", members)) for name, members in _pairs("groups", v["groups"])},
        palette={name: _read_color(name, color) for name, color in _pairs("palette", v["palette"])},
        overlay_opacity=v["overlay_opacity"],
        png_level=v["png_level"],
        jpeg_quality=v["jpeg_quality"],
        max_input_age_s=v["max_input_age_s"],
        max_rate_hz={topic: v[f"max_rate_hz.{topic}"] for topic in RATED_TOPICS},
        no_image_warn_s=v["no_image_warn_s"],
        age_warn_s=v["diagnostics.age_warn_s"],
        age_error_s=v["diagnostics.age_error_s"],
        rate_warn_hz=v["diagnostics.rate_warn_hz"],
        bond=v["bond"],
        autostart=v["autostart"],
    )


def change_settings(values: Mapping[str, Any], changes: Mapping[str, Any], configured: bool) -> Settings:
    """The settings after a change.

    Args:
        values: of all parameters, before.
        changes: by name; names that are not in the table are somebody else's and ignored.
        configured: whether the node is configured, so that only live parameters may change.

    Raises:
        ConfigError: as `read_settings`, or a change that has to wait for the node to be unconfigured.
    """
    ours = {name: value for name, value in changes.items() if name in BY_NAME}
    settings = read_settings({**values, **ours})
    fixed = [name for name, value in ours.items() if BY_NAME[name].when != "live" and not _same(value, values[name])]
    if configured and fixed:
        raise ConfigError(f"{', '.join(fixed)} cannot change while the node is configured: first deactivate and cleanup")
    return settings


def unknown_names(names: Iterable[str]) -> dict[str, str]:
    """Names that are no parameter of this node → what may have been meant (or empty). ROS's own names are left out."""
    of_ros = ("use_sim_time", "start_type_description_service")
    return {
        name: nearest_name(name, [*BY_NAME, *of_ros, "qos_overrides."])
        for name in names
        if name not in BY_NAME and name not in of_ros and not name.startswith("qos_overrides.")
    }


def apply_to_labels(labels: LabelSet, settings: Settings) -> LabelSet:
    """The classes of the weights with the groups and colours of the settings.

    Raises:
        ConfigError: a class that these weights do not have.
    """
    for name in settings.palette:
        if name not in labels.names:
            raise ConfigError(f"palette names an unknown class {name}{suggest_name(name, labels.names)}")
    colors = tuple(settings.palette.get(name, color) for name, color in zip(labels.names, labels.colors, strict=True))
    return replace(labels, colors=colors, groups=settings.groups or labels.groups)


def declare_parameters(node: Node) -> dict[str, Any]:
    """Declare the table on a node; returns the values it starts with, whatever their type (see `read_settings`)."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for parameter in TABLE:
        descriptor = ParameterDescriptor(
            description=f"{parameter.description} [{parameter.when}{', ' + parameter.unit if parameter.unit else ''}]",
            additional_constraints=f"one of {', '.join(parameter.choices)}" if parameter.choices else "",
            read_only=parameter.when == "start",
            dynamic_typing=True,  # so that 1 is taken for 1.0 and [] for no strings; read_settings checks types
        )
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=parameter.low, to_value=min(parameter.high, sys.float_info.max))
            ]
        elif isinstance(parameter.default, int) and not isinstance(parameter.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=1)]
        node.declare_parameter(parameter.name, parameter.default, descriptor)
    return current_values(node)


def current_values(node: Node) -> dict[str, Any]:
    """The value of every parameter of the table, as ROS holds it."""
    return {name: node.get_parameter(name).value for name in BY_NAME}


def _check(parameter: Parameter, value: Any) -> Any:
    """The value in the table's type; raises ConfigError where it is none, or out of range."""
    name, default = parameter.name, parameter.default
    if isinstance(default, list):
        if value is None:  # what ROS makes of [] in YAML
            return []
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return [item.strip() for item in value if item.strip()]
        raise ConfigError(f"{name} must be a list of strings, got {value!r}")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    value = word_for(value, parameter.choices)
    if type(value) is not type(default):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[type(default)]
        raise ConfigError(f"{name} must be {kind}, got {value!r}")
    if isinstance(value, (int, float)) and not parameter.low <= value <= parameter.high:
        raise ConfigError(f"{name} must be {describe_range(parameter.low, parameter.high, parameter.unit)}, got {value:g}")
    if parameter.choices and value not in parameter.choices:
        raise ConfigError(f"{name} must be one of {', '.join(parameter.choices)}, got {value!r}")
    return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)


def _read_cameras(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", name, re.ASCII):
            raise ConfigError(f"cameras must be names for topics (letters, digits, _), got {name!r}")
    if len(set(names)) != len(names):
        raise ConfigError(f"cameras must differ, got {', '.join(names)}")
    return tuple(names) or ("",)


def _read_output_prefix(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", name, re.ASCII):
        raise ConfigError(f"output_prefix must be a name for topics without a slash before it, got {name!r}")
    return name


def _pairs(parameter: str, items: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for item in items:
        name, equals, rest = (part.strip() for part in item.partition("="))
        if not (name and equals and rest):
            wanted = "name=class,class" if parameter == "groups" else "class=R,G,B"
            raise ConfigError(f"{parameter} must be a list of '{wanted}', got {item!r}")
        pairs.append((name, rest))
    return pairs


def _read_color(name: str, text: str) -> tuple[int, int, int]:
    numbers = [int(part) for part in re.split(r"\s*,\s*", text) if part.isdecimal()]
    if len(numbers) != 3 or text.count(",") != 2 or max(numbers) > 255:
        raise ConfigError(f"palette: the colour of {name} must be R,G,B of 0-255, got {text!r}")
    red, green, blue = numbers
    return red, green, blue
