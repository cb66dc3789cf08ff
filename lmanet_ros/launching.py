"""What the launch files check before they start anything, so that a mistake starts nothing and leaves nothing behind.

Imports neither PyTorch nor ROS: `ros2 launch` runs in an interpreter of its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from lmanet_core.errors import nearest_name, suggest_name
from lmanet_ros.names import resolve


class LaunchError(RuntimeError):
    """An argument is wrong; the message says which, what was wanted and what came."""


def is_true(name: str, text: str) -> bool:
    """The meaning of true, false, on, off …; raises LaunchError for anything else."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise LaunchError(f"{name}:={text} must be true or false")


def choice(name: str, text: str, allowed: tuple[str, ...]) -> str:
    """The text, if it is one of those allowed; raises LaunchError otherwise."""
    if text not in allowed:
        raise LaunchError(f"{name}:={text} must be {', '.join(allowed)}{suggest_name(text, allowed)}")
    return text


def require_names(namespace: str, name: str) -> None:
    """Raise LaunchError where ROS would refuse a node's name or namespace."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise LaunchError(f"name:={name} must be letters, digits and _, and begin with no digit")
    if namespace.strip("/") and not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*/?", namespace, re.ASCII):
        raise LaunchError(f"namespace:={namespace} must be parts of letters, digits and _, with / between them")


def whole_number(name: str, text: str) -> int:
    """The number; raises LaunchError where the text is none from 0 up."""
    if not text.isdecimal():
        raise LaunchError(f"{name}:={text} must be a whole number, 0 or more")
    return int(text)


def decimal_number(name: str, text: str) -> float:
    """The number; raises LaunchError where the text is none above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise LaunchError(f"{name}:={text} must be a number above 0")
    return number


def likely_typos(given: Iterable[str], known: Collection[str]) -> list[str]:
    """A sentence for each argument that is none and resembles one. Others may belong to a launch file that includes ours."""
    near = {name: nearest_name(name, known, alike=0.8) for name in given if name not in known}
    return [f"{name}:= is no argument here and changes nothing; did you mean {one}:=?" for name, one in near.items() if one]


def default_python(environment: Mapping[str, str] | None = None) -> str:
    """The interpreter of the active virtual environment; empty where there is none: the installed script's own then."""
    folder = (os.environ if environment is None else environment).get("VIRTUAL_ENV", "")
    python = Path(folder, "bin", "python")
    return str(python) if folder and python.is_file() else ""


def require_python(python: str) -> None:
    """Raise LaunchError where an interpreter cannot be run."""
    if python and shutil.which(python) is None:
        raise LaunchError(f"python:={python} is no program that can be run")


def read_parameters(file: str, namespace: str, name: str) -> dict[str, Any]:
    """The parameters that a file holds for a node.

    Args:
        file: YAML, as ROS takes it.
        namespace, name: of the node.

    Returns:
        Name → value, nested names joined by dots.

    Raises:
        LaunchError: no such file, no parameters in it, or none for this node.
    """
    path = Path(file).expanduser()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LaunchError(f"params_file:={file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LaunchError(f"params_file:={file} must hold parameters, such as /**: {{ros__parameters: {{…}}}}")
    wanted = resolve(name, namespace)
    found: dict[str, Any] = {}
    matched = False
    for key, value in _nodes(content):
        if _matches(key, wanted):
            matched = True
            found |= _flat(value)
    if not matched:
        keys = ", ".join(str(key) for key in content) or "nothing"
        raise LaunchError(f"params_file:={file} is for {keys}; wanted /** or {wanted}, above ros__parameters")
    return found


def middleware_settings(environment: Mapping[str, str], config: Path) -> dict[str, str]:
    """What has the middleware carry camera images between the nodes of one computer.

    Args:
        environment: of the launch.
        config: folder with cyclonedds.xml and fastdds.xml.

    Returns:
        Environment variable → value; none where the user has set any of them, or for another middleware.
    """
    middleware = environment.get("RMW_IMPLEMENTATION", "")
    if middleware == "rmw_cyclonedds_cpp":
        settings = {"CYCLONEDDS_URI": (config / "cyclonedds.xml").as_uri()}
    elif middleware in ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp"):  # empty: ROS's default, which is Fast-DDS
        names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # from Kilted on; before
        settings = dict.fromkeys(names, str(config / "fastdds.xml"))
    else:
        return {}
    return {} if any(environment.get(name) for name in (*settings, "FASTDDS_BUILTIN_TRANSPORTS")) else settings


def _nodes(content: Mapping[Any, Any], above: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Patterns of node names with their parameters; namespaces may be keys of their own."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in content.items():
        place = f"{above}/{str(key).strip('/')}"
        if isinstance(value, dict) and isinstance(value.get("ros__parameters"), dict):
            found.append((place, value["ros__parameters"]))
        elif isinstance(value, dict):
            found += _nodes(value, place)
    return found


def _matches(pattern: str, name: str) -> bool:
    """`/**` is any number of parts, `/*` is one."""
    parts, names = pattern.strip("/").split("/"), name.strip("/").split("/")
    if parts[0] == "**":
        return len(parts) == 1 or any(_matches("/".join(parts[1:]), "/".join(names[start:])) for start in range(len(names)))
    if not fnmatchcase(names[0], parts[0]) or (len(parts) == 1) != (len(names) == 1):
        return False
    return len(parts) == 1 or _matches("/".join(parts[1:]), "/".join(names[1:]))


def _flat(parameters: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat
