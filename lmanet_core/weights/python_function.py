"""The user's own function that returns a model: `module:function`, or `FILE.py:function`. Its code runs, with all it may do."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from lmanet_core.errors import LmanetError, WeightsError

_WANTED = "wanted python:module:function or python:FILE.py:function"


def call(name: str) -> Any:
    """What the function returns.

    Args:
        name: `module:function` or `FILE.py:function`; modules beside the file, or in the working folder, can be imported.

    Raises:
        WeightsError: no such file, module or function; whatever the code raised, with its line.
    """
    place, function_name = _split(name)
    file = Path(place).expanduser() if place.endswith(".py") else None
    folder = file.resolve().parent if file is not None else Path.cwd()
    try:
        with _importing(folder):
            return _find(file, place, function_name, name)()
    except LmanetError:
        raise
    except (Exception, SystemExit) as error:  # of the user's code, whatever it is
        where = _line_of(error, folder)
        line = str(error).strip().split("\n", 1)[0][:300]
        raise WeightsError(f"python:{name}: {type(error).__name__}: {line}{where}") from error


def _line_of(error: BaseException, folder: Path) -> str:
    """Where in the user's own files an error came from, in brackets; empty where it came from none."""
    for line in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(line.filename)
        if file.is_file() and file.resolve().is_relative_to(folder):
            return f" ({file.name}, line {line.lineno})"
    return ""


def files_of(name: str) -> list[Path]:
    """The file that the function is in; none where it cannot be told.

    Raises:
        WeightsError: not a name of this kind.
    """
    place, _ = _split(name)
    if place.endswith(".py"):
        return [Path(place).expanduser()]
    try:
        with _importing(Path.cwd()):
            spec = importlib.util.find_spec(place)
    except (Exception, SystemExit) as error:  # of the packages around the module
        raise WeightsError(f"python:{name}: {type(error).__name__}: {error}") from error
    return [Path(spec.origin)] if spec is not None and spec.origin else []


def absolute(name: str) -> str:
    """The same name from any folder."""
    place, function = _split(name)
    return f"{Path(place).expanduser().resolve()}:{function}" if place.endswith(".py") else name


def _split(name: str) -> tuple[str, str]:
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise WeightsError(f"python:{name}: {_WANTED}")
    return place, function


def _find(file: Path | None, place: str, function_name: str, name: str) -> Any:
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"python:{name}: no such file {file}; {_WANTED}")
        module = _import_file(file)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise  # something that the module imports
            raise WeightsError(f"python:{name}: no module {error.name} here or among the installed ones; {_WANTED}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        offered = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise WeightsError(f"python:{name}: no function {function_name} there, but {', '.join(offered[:8]) or 'none at all'}")
    return function


def _import_file(file: Path) -> ModuleType:
    """A file as a module, under a name that no other has; found again by what pickles or looks up its classes."""
    known_as = f"lmanet_python_{sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(known_as, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    return module


#: Folder of a user's file → modules beside it that were imported for it.
_beside: dict[Path, dict[str, ModuleType]] = {}


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Modules beside the user's file, or in the working folder, can be imported; those of other folders are out of the way."""
    for place, modules in _beside.items():
        for name, module in modules.items():
            if place != folder and sys.modules.get(name) is module:
                del sys.modules[name]
    sys.modules.update(_beside.get(folder, {}))
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        found = {name: module for name, module in sys.modules.items() if name not in before and _lies_in(folder, name, module)}
        _beside[folder] = {**_beside.get(folder, {}), **found}


def _lies_in(folder: Path, name: str, module: ModuleType) -> bool:
    """Whether a module is a file of this folder, or of a package there."""
    file, top = getattr(module, "__file__", None), name.partition(".")[0]
    return file is not None and (Path(file) == folder / f"{top}.py" or Path(file).is_relative_to(folder / top))
