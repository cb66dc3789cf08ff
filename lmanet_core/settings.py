"""What people may set, said once: a field of a frozen dataclass with its help, unit and range.

The command line (`commands.options`, `commands.train`), the node's parameters (`lmanet_ros.parameters`) and the YAML files are
made from these fields, so none of them can know a setting that the others do not.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from lmanet_core.errors import ConfigError, suggest_name

#: What settings were called in the release before, and what they are called now. Files with the old names load for one release.
RENAMED = {
    "nearness": "position_bias",
    "follow_motion": "motion_compensation",
    "spoil_past": "degrade_past",
    "spoil_last": "degrade_last",
}

_KEY = "setting"
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What there is to know of a field.

    Attributes:
        help: one sentence.
        unit: of a number; empty where it has none.
        low, high: range of a number, both included.
        choices: allowed values of a string; empty where there are others.
        live: whether it may change while a stream runs, or when a training run is resumed.
        name: in YAML and as a ROS parameter, dots and all; empty: the field's.
        option: on the command line, without dashes; empty: the field's.
        unset: what stands for None where there is no null: ROS parameters have a type.
    """

    help: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    live: bool = False
    name: str = ""
    option: str = ""
    unset: int | float | None = None


@dataclass(frozen=True)
class SettingField:
    """A setting in its dataclass.

    Attributes:
        path: of attributes from the outer dataclass: ("continuity", "gap_s").
        setting: what there is to know.
        default: of the field.
        kind: its type.
    """

    path: tuple[str, ...]
    setting: Setting
    default: Any
    kind: Any

    @property
    def name(self) -> str:
        """In YAML and as a ROS parameter."""
        return self.setting.name or ".".join(self.path)

    @property
    def option(self) -> str:
        """On the command line, without dashes in front."""
        return self.setting.option or self.path[-1].replace("_", "-")


def setting(default: Any, help: str, **about: Any) -> Any:
    """A field of a dataclass that people may set; `about` as in `Setting`."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help, **about)})


def settings_of(config: type[Any], path: tuple[str, ...] = ()) -> Iterator[SettingField]:
    """Every setting of a dataclass and of the dataclasses within it, in order."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        here = (*path, field.name)
        if _KEY in field.metadata:
            yield SettingField(here, field.metadata[_KEY], field.default, hints[field.name])
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name], here)


def check_settings(config: Any) -> None:
    """Compare the fields of a dataclass with what their settings allow; for its `__post_init__`.

    Raises:
        ConfigError: a value of another type, out of range, or none of the choices.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if _KEY not in field.metadata:
            continue
        about, value, default = field.metadata[_KEY], getattr(config, field.name), field.default
        if value is None and default is None:
            continue
        wanted = bool if isinstance(default, bool) else str if isinstance(default, str) else None
        if wanted is not None and not isinstance(value, wanted):
            kind = "true or false" if wanted is bool else "text"
            raise ConfigError(f"{field.name} must be {kind}, got {value!r}")
        if about.choices and value not in about.choices:
            raise ConfigError(f"{field.name} must be {' or '.join(about.choices)}, got {value!r}")
        if isinstance(default, bool) or not (math.isfinite(about.low) or math.isfinite(about.high)):
            continue
        if isinstance(value, str) and value in _words(hints[field.name]):  # beside the numbers, such as "global"
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not about.low <= value <= about.high:
            raise ConfigError(f"{field.name} must be {describe_range(about.low, about.high, about.unit)}, got {value!r}")


def word_for(value: Any, choices: Sequence[str]) -> Any:
    """true and false, which YAML and ROS take for truth values, as words where a setting has these; others as they are."""
    word = str(value).lower()
    return word if isinstance(value, bool) and word in choices else value


def _words(kind: Any) -> set[str]:
    """The strings that a type such as `int | Literal["global"] | None` takes."""
    parts = [part for one in get_args(kind) for part in (one, *get_args(one))]
    return {part for part in parts if isinstance(part, str)}


def describe_range(low: float, high: float, unit: str) -> str:
    """Such as "0 to 60 s", or "0.001 s or more" where there is no upper limit."""
    unit = f" {unit}" if unit else ""
    return f"{low:g}{unit} or more" if math.isinf(high) else f"{low:g} to {high:g}{unit}"


def from_values(config: type[T], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> T:
    """Make a dataclass, and those within it, from values by path; what is left out keeps its default.

    Raises:
        ConfigError: as the dataclasses themselves.
    """
    hints = get_type_hints(config)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # T is a dataclass
        here = (*path, field.name)
        if here in values:
            given[field.name] = values[here]
        elif dataclasses.is_dataclass(hints[field.name]):
            given[field.name] = from_values(hints[field.name], values, here)
    return config(**given)


def read_options(file: str | os.PathLike[str]) -> dict[Any, Any]:
    """What a YAML file of options says; raises ConfigError where it cannot be read or is not of 'option: value' lines."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read config {file}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"config {file}: wanted 'option: value' lines, got {type(content).__name__}")
    return content


def rename_old(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, those under an old name (`RENAMED`) under the new one.

    Raises:
        ConfigError: a setting is there under both names.
    """
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        new = RENAMED.get(name, name)
        if new in renamed or (new != name and new in values):
            raise ConfigError(f"{name} is called {new} now, and both are given; keep {new}")
        renamed[new] = value
    return renamed


def refuse_unknown(file: str | os.PathLike[str], given: Iterable[Any], known: Sequence[str]) -> None:
    """Raise ConfigError for the first option of a file that is none of the known ones; the nearest of them is named."""
    for key in given:
        if key not in known:
            raise ConfigError(f"config {file}: unknown option {key!r}{suggest_name(str(key), known, 'known:')}")
