"""A network as a file for other programs: ONNX, or a program of `torch.export`.

What is written is `exported_step.ExportedStep`, the streamed step with its memories as inputs and outputs, or `SingleFrame`.
Files carry what is known of the model under the metadata key `lmanet`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lmanet_core.errors import ConfigError, LmanetError, WeightsError
from lmanet_core.files import output_errors
from lmanet_core.geometry import Size
from lmanet_core.network.adapter import ModuleBackbone, Program
from lmanet_core.stream.exported_step import ExportedStep, Signature, SingleFrame
from lmanet_core.stream.segmenter import SegmenterConfig
from lmanet_core.stream.stream_plan import require_allowed
from lmanet_core.weights.checkpoint import Model
from lmanet_core.weights.runtime import RuntimeConfig, prepare_runtime

#: Of the ONNX file: known to TensorRT 10, OpenVINO and onnxruntime.
OPSET = 18
_METADATA_KEY = "lmanet"


@dataclass(frozen=True)
class Exported:
    """A program ready to be written.

    Attributes:
        module: what computes.
        signature: what it takes and gives.
        metadata: what is known of it: classes, colours, groups, size, memories.
    """

    module: ExportedStep | SingleFrame
    signature: Signature
    metadata: dict[str, Any]


def prepare_export(
    model: Model, size: Size, config: SegmenterConfig, runtime: RuntimeConfig, stateless: bool = False, background: bool = False
) -> Exported:
    """What to write of a model.

    Args:
        model: as `load_model` gave it.
        size: of the network's input.
        config: `memory`, `memory_frames`, `label_memory` and `label_memory_strength` count, the rest is the host's matter.
        runtime: `cut`, `label_set`, `window` count; it runs in float32 on the CPU.
        stateless: logits of single frames, without any memory.
        background: see `SingleFrame`.

    Raises:
        ConfigError: a size that the network does not take, or settings that do not fit.
        WeightsError: a compiled network, which is a file for other programs already.
    """
    backbone = model.network.backbone
    if isinstance(backbone, ModuleBackbone) and isinstance(backbone.module, Program):
        raise WeightsError("a compiled network cannot be exported; export the module that it was made from")
    require_allowed(size, backbone)
    ready = prepare_runtime(model, runtime)
    labels, memory = ready.config.labels, ready.config.memory
    metadata: dict[str, Any] = {**labels.to_dict(), "size": list(size)}
    module: ExportedStep | SingleFrame
    if stateless:
        module = SingleFrame(ready, size, background)
        metadata["background"] = background
    else:
        frames = 0 if memory is None or not config.memory else config.memory_frames or memory.memory_frames
        module = ExportedStep(ready, size, frames, config.label_strength)
        metadata |= {"memory_frames": frames, "label_memory_strength": config.label_strength}
    module = module.eval().requires_grad_(False)
    return Exported(module, module.signature(), metadata)


def write_program(exported: Exported, kind: Literal["onnx", "pt2"], path: Path, compiled: bool = False) -> None:
    """Write a file; one that is there is replaced when the new one is complete.

    Args:
        exported: what to write.
        kind: of the file.
        path: of the file.
        compiled: pt2: machine code for this processor, by AOTInductor, in place of a program for any.

    Raises:
        WeightsError: something in the network cannot be exported; the operator is named.
        ConfigError: a package is missing.
        OutputError: the file cannot be written.
    """
    with _quiet():
        program = _trace(exported)
        with output_errors(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            beside = Path(folder) / "program.pt2"  # AOTInductor wants that ending
            text = json.dumps(exported.metadata)
            if kind == "pt2" and compiled:
                _compile(program, beside, text)
            elif kind == "pt2":
                with beside.open("wb") as file:
                    torch.export.save(program, file, extra_files={_METADATA_KEY: text})
            else:
                onnx = _to_onnx(program, exported.signature)
                onnx.model.metadata_props[_METADATA_KEY] = text
                onnx.save(str(beside), include_initializers=True)
            beside.chmod(0o644)
            beside.replace(path)


def is_exported(path: Path) -> bool:
    """Whether a file was written by `write_program`, by its content."""
    try:
        if not zipfile.is_zipfile(path):
            entry = b"\x0a" + bytes([len(_METADATA_KEY)]) + _METADATA_KEY.encode() + b"\x12"  # of ONNX's metadata_props
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return path.suffix == ".onnx" and content.find(entry) >= 0
        with zipfile.ZipFile(path) as archive:
            named = [Path(name) for name in archive.namelist()]
            compiled = [name for name in named if name.name.endswith("metadata.json")]
            return any(name.parts[-2:] == ("extra", _METADATA_KEY) for name in named) or any(
                _METADATA_KEY in json.loads(archive.read(str(name))) for name in compiled
            )
    except (OSError, ValueError, TypeError, zipfile.BadZipFile):  # nothing in it, a folder, damaged
        return False


def open_onnx(path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An ONNX file as a function of arrays by name, run by onnxruntime on the CPU.

    Raises:
        ConfigError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{path.name} needs onnxruntime: pip install onnxruntime, the extra onnx") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _trace(exported: Exported) -> torch.export.ExportedProgram:
    names, signature = _arguments(exported), exported.signature
    given = {name: signature.inputs[told] for name, told in names.items()}
    try:
        with torch.no_grad():
            program: torch.export.ExportedProgram = torch.export.export(exported.module, (), given, strict=False)
            return program
    except LmanetError:
        raise
    except Exception as error:  # of PyTorch, which has a class of its own for each
        raise WeightsError(f"the network cannot be exported: {_reason(error)}") from error


def _arguments(exported: Exported) -> dict[str, str]:
    """Argument of `forward` → name of the input."""
    if isinstance(exported.module, SingleFrame):
        return {"image": "input"}
    return {name: name for name in exported.signature.inputs}


def _compile(program: torch.export.ExportedProgram, path: Path, metadata: str) -> None:
    settings = {"aot_inductor.metadata": {_METADATA_KEY: metadata}}
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    except Exception as error:  # of the compiler
        raise WeightsError(f"the network cannot be compiled here: {_reason(error)}; is there a C++ compiler?") from error


def _to_onnx(program: torch.export.ExportedProgram, signature: Signature) -> Any:
    try:
        import onnx  # noqa: F401  (the exporter asks for both)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"export to ONNX needs {error.name}: pip install onnx onnxscript, which are in the extra onnx"
        ) from error
    try:
        return torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            verbose=False,
        )
    except Exception as error:  # of PyTorch and onnxscript
        raise WeightsError(f"the network cannot be exported to ONNX: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The operator that has no form there, or the first line of what was said."""
    told = []
    link: BaseException | None = error
    while link is not None:
        told.append(str(link))
        link = link.__cause__ or link.__context__
    text = "\n".join(told)
    operators = re.findall(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if operators:
        return f"no ONNX form of {', '.join(dict.fromkeys(operators))}; replace it in the model"
    if "data-dependent" in text.lower():
        where = re.search(r"Could not (?:guard on|extract|convert).*", text)
        return f"its computation depends on what is in the image ({where[0][:120] if where else 'an if or loop over values'})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
