"""The options of a segmenter, the same for every command that segments, and the segmenter they make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from lmanet_core.commands.terminal import console
from lmanet_core.errors import ConfigError, suggest_name
from lmanet_core.process import leave_quietly
from lmanet_core.settings import SettingField, from_values, settings_of
from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime
from lmanet_core.weights.shipped import STREET_ONLY, default_weights

_TRAIN_EXTRA = ("lightning", "lightning_utilities", "tensorboard")
_CONFIGS = (RuntimeConfig, SegmenterConfig)


def add_segmenter_options(
    parser: ArgumentParser, short: Mapping[str, str] | None = None, only: Collection[str] | None = None
) -> None:
    """Every setting of `RuntimeConfig` and `SegmenterConfig`.

    Args:
        parser: of a command.
        short: option → another name for it.
        only: fields that count; None: all.
    """
    for one in _settings():
        if only is not None and one.path[-1] not in only:
            continue
        about = one.setting
        kind = Literal[about.choices] if about.choices else _switch if one.kind is bool else one.kind
        kind = kind | bool if "true" in about.choices else kind  # as YAML reads it
        unit = f" [{about.unit}]" if about.unit else ""
        names = (f"--{name}" for name in (one.option, (short or {}).get(one.option)) if name)
        parser.add_argument(*names, type=kind, default=one.default, help=f"{about.help}{unit}")


def make_segmenter(model: Model, options: Namespace) -> VideoSegmenter:
    """A segmenter for these weights with the options of `add_segmenter_options`.

    Raises:
        ConfigError: options that contradict each other or the weights.
    """
    if model.config.memory is None:
        given = [option for option in ("window", "memory-frames", "memory-interval") if options[_key(option)]]
        if given:
            raise ConfigError(f"--{given[0]} was given, but these weights have no memory (single-frame network)")
    runtime, segmenter = segmenter_config(options)
    return VideoSegmenter(prepare_runtime(model, runtime), segmenter)


def segmenter_config(options: Namespace, **fixed: Any) -> tuple[RuntimeConfig, SegmenterConfig]:
    """What the options of `add_segmenter_options` say; those that a command lacks have their default, or are `fixed`."""
    given = {one.path: options.get(_key(one.option), one.default) for one in _settings()}
    given |= {(name,): value for name, value in fixed.items()}
    return from_values(RuntimeConfig, given), from_values(SegmenterConfig, given)


def options_from_node(parameters: Mapping[str, Any], source: str) -> list[str]:
    """The arguments that say what a node's parameter file says; what concerns topics and diagnostics alone is left out.

    Args:
        parameters: name → value, as below `ros__parameters`.
        source: what to call the file in errors.

    Raises:
        ConfigError: a name that no node has.
    """
    known = {one.name: one for one in _settings()}
    arguments = []
    for name, value in parameters.items():
        if name == "weights":
            arguments += [f"--weights={value}"] if value else []
        elif name in known:
            value = known[name].default if value == known[name].setting.unset else value
            if value is not None:
                arguments.append(f"--{known[name].option}={str(value).lower() if isinstance(value, bool) else value}")
        elif name.partition(".")[0] in {one.partition(".")[0] for one in known}:
            raise ConfigError(f"config {source}: unknown parameter {name}{suggest_name(name, known)}")
    return arguments


@contextmanager
def wants_lightning(doing: str) -> Iterator[None]:
    """For imports that need Lightning: Ctrl-C ends them quietly; raises ConfigError where it is not installed.

    Args:
        doing: what needs it, such as "training".
    """
    try:
        with leave_quietly():
            yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _TRAIN_EXTRA:
            raise
        raise ConfigError(
            f"{doing} needs Lightning ({error.name} is missing): in the checkout, pip install '.[train]'"
        ) from error


def choose_weights(given: str | None) -> str:
    """The weights to use; where none are given those that ship, and what they are good for is said on standard error."""
    if given:
        return given
    console.print(f"note: {STREET_ONLY}", soft_wrap=True, highlight=False)
    return str(default_weights())


def describe_segmenter(segmenter: VideoSegmenter, model: Model) -> str:
    """One line for people: weights, device, precision, memories."""
    in_use = segmenter.runtime.config.memory
    if in_use is None:
        state = "off: these weights have none"
    elif segmenter.memory_enabled:
        state = f"{segmenter.config.memory_frames or in_use.memory_frames} frames, window {in_use.window or 'global'}"
    else:
        state = "off"
    labels = "label memory on" if segmenter.label_strength else "label memory off"
    return f"{model.source} on {segmenter.runtime.device} in {segmenter.runtime.describe_precision()}; memory {state}; {labels}"


def _switch(text: str | bool) -> bool:
    """on or off, true or false."""
    if isinstance(text, bool):
        return text
    words = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"wanted on or off, got {text!r}")
    return words[text.lower()]


def _settings() -> list[SettingField]:
    return list(chain.from_iterable(settings_of(config) for config in _CONFIGS))


def _key(option: str) -> str:
    return option.replace("-", "_")
