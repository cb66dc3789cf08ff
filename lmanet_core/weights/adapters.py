"""Models of other people, by name or as a file, wrapped so that they stream like ours.

    python:module:function, python:FILE.py:function   the user's own (`python_function`); its code runs
    hf:FOLDER, hf:owner/name                          Hugging Face transformers (`hugging_face`); nobody's code runs
    TorchScript, ONNX                                 files, recognised by content; logits only, so no memory of features

`wrap_module` makes a `Model` of any module that gives logits. What the module needs to be fed is read off its attributes:

    mean, std      three numbers each, of RGB in 0–1; what is left out is 0 and 1
    bgr            True: the channels come as BGR
    class_names    in the order of the outputs; one output more than names is void and never wins
    input_size     (height, width) it was trained on
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from lmanet_core.errors import ConfigError, LmanetError, WeightsError
from lmanet_core.geometry import Size
from lmanet_core.labels import LabelSet, distinct_colors, list_label_sets, nameless_labels, read_label_set, usual_groups
from lmanet_core.network import Backbone, LMANet, ModuleBackbone
from lmanet_core.network.adapter import Program
from lmanet_core.weights import hugging_face, python_function
from lmanet_core.weights.checkpoint import FOREIGN, Model, ModelConfig, hash_file, load_ours, require_finite
from lmanet_core.weights.onnx import OnnxModule

_PYTHON, _HUGGING_FACE = "python:", "hf:"
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What a module takes.

    Attributes:
        mean, std: of RGB in 0–1, also where the module takes BGR.
        bgr: channels come as BGR.
    """

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    bgr: bool = False

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"RGB of 0–1, less ({mean}), over ({std}){', then as BGR' if self.bgr else ''}"


def names_model(weights: str | os.PathLike[str]) -> bool:
    """Whether these weights are a model's name, `python:…` or `hf:…`, and no file."""
    return os.fspath(weights).startswith((_PYTHON, _HUGGING_FACE))


def load_named(name: str) -> Model:
    """The model of this name; `NAME@FILE.safetensors` is that model with the weights of the file, which were saved with it.

    Raises:
        WeightsError: no such model; what its code raised; a model that gives no logits.
        ConfigError: class names or settings of it that do not fit.
    """
    base, at, file = name.rpartition("@")
    if at and file.endswith(".safetensors"):
        if not Path(file).expanduser().is_file():
            raise WeightsError(f"{name}: no such file {file}")
        return load_ours(Path(file).expanduser(), network=base)
    if name.startswith(_PYTHON):
        made = python_function.call(name.removeprefix(_PYTHON))
        module, names = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        model = wrap_module(module, name=name, labels=names)
        known_as = _PYTHON + python_function.absolute(name.removeprefix(_PYTHON))
        return replace(model, config=replace(model.config, architecture=known_as, code=hash_file(Path(known_as))))
    found = hugging_face.load(name.removeprefix(_HUGGING_FACE))
    model = wrap_module(
        found.module,
        name=name,
        labels=found.names,
        preprocessing=Preprocessing(found.mean, found.std, found.bgr),
        input_size=None if found.input_size is None else Size(*found.input_size),
        source=f"Hugging Face {found.family}",
        provenance=found.provenance,
    )
    known_as = _HUGGING_FACE + hugging_face.absolute(name.removeprefix(_HUGGING_FACE))
    return replace(model, config=replace(model.config, architecture=known_as))


def rebuild(config: ModelConfig) -> LMANet:
    """The network of a saved configuration whose architecture is a model's name, its memory with random weights.

    Raises:
        WeightsError: the model is not to be had by that name any more, or its code is not what it was.
    """
    name = config.architecture
    help = f"give it as --weights NAME@FILE, NAME being where the model is now (it was {name})"
    try:
        if config.code and hash_file(Path(name)) != config.code:
            raise WeightsError(f"the code of {name} has changed since these weights were saved; if you trust it, {help}")
        model = load_named(name)
        if config.cut and isinstance(model.network.backbone, ModuleBackbone):
            model = recut(model, config.cut)
        return LMANet(model.network.backbone, config.memory)
    except (LmanetError, OSError) as error:
        if "has changed since" in str(error):
            raise
        raise WeightsError(f"its network is not to be had: {error}; {help}") from error


def files_of(name: str) -> list[Path]:
    """The files that a model's name leads to, as far as they are known without loading it.

    Raises:
        WeightsError: the name leads nowhere.
    """
    if name.startswith(_HUGGING_FACE):
        return hugging_face.files_of(name.removeprefix(_HUGGING_FACE))
    return python_function.files_of(name.removeprefix(_PYTHON))


def wrap_module(
    module: nn.Module,
    *,
    name: str = "the model",
    labels: LabelSet | Sequence[str] | os.PathLike[str] | None = None,
    cut: str = "auto",
    preprocessing: Preprocessing | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: Size | None = None,
    source: str = "",
    provenance: Mapping[str, str] | None = None,
) -> Model:
    """A module that segments single images, as a `Model`. It is put into eval mode, in float32, on the CPU, in place.

    Args:
        module: takes normalised images (B, 3, H, W); what it may return, see `ModuleBackbone`. A `Backbone` or an `LMANet`
            is taken as it is.
        name: for errors.
        labels: classes, their names, or what `read_label_set` takes; None: the module's `class_names`, or numbers.
        cut: layer before which a memory of features would go in; "auto" finds it.
        preprocessing, input_size: None: the module's attributes.
        mean, std: of RGB in 0–1, in place of what the module says.
        source: what kind of model it is, for people.
        provenance: see `ModelConfig`.

    Raises:
        WeightsError: no module; it gives no logits of an image; weights that are not finite.
        ConfigError: class names that do not fit, attributes that are no numbers, a cut that is none.
    """
    if not isinstance(module, nn.Module):
        raise WeightsError(f"{name}: wanted a torch.nn.Module, or (module, class names), got {type(module).__name__}")
    given_numbers = {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    if given_numbers and isinstance(module, LMANet | Backbone):
        raise ConfigError(f"{name}: {' and '.join(given_numbers)}: {type(module).__name__} has its own; leave them out")
    own = preprocessing or _preprocessing_of(module, name, given_numbers)
    if input_size is None and (given := getattr(module, "input_size", None)) is not None:
        if not _numbers(given, 2) or min(given) < 1:
            raise ConfigError(f"{name}: input_size must be (height, width), got {given!r}")
        input_size = Size(*map(int, given))
    named = getattr(module, "class_names", None)
    classes: Any = named if labels is None else labels
    if isinstance(labels, str | os.PathLike):
        classes = read_label_set(labels, None if named is None else _label_set(named, len(named)))
    source = source or type(module).__name__
    _require_values(module, name)
    module = _settled(module)
    require_finite(name, module.state_dict())
    try:
        if isinstance(module, LMANet | Backbone):
            network = module if isinstance(module, LMANet) else LMANet(module)
            if cut != "auto":
                raise ConfigError(f"cut {cut}: {source} has its own place for the memory; leave cut out")
        else:
            network = LMANet(ModuleBackbone(module, cut, mean=own.mean, std=own.std, bgr=own.bgr, input_size=input_size)).eval()
        outputs = _outputs(network.backbone)
        config = ModelConfig(
            architecture=FOREIGN,
            num_classes=outputs,
            labels=_label_set(classes, outputs),
            memory=None if network.memory is None else network.memory.config,
            provenance=provenance or {},
            cut=_cut_of(network.backbone),
        )
    except LmanetError as error:
        raise type(error)(f"{name}: {error}") from error
    return Model(network, config if input_size is None else replace(config, input_size=input_size), source)


def relabel(model: Model, labels: LabelSet | Sequence[str] | os.PathLike[str]) -> Model:
    """The same model with other names, colours and groups of its classes, given as to `wrap_module`.

    Raises:
        ConfigError: a label set that cannot be read, or is for another number of classes.
    """
    given = read_label_set(labels, model.config.labels) if isinstance(labels, str | os.PathLike) else labels
    return replace(model, config=replace(model.config, labels=_label_set(given, model.config.num_classes)))


def recut(model: Model, cut: str) -> Model:
    """The same model, the memory of features to go in before another layer.

    Raises:
        ConfigError: a model with a place of its own for it; no layer that can be cut before.
    """
    backbone = model.network.backbone
    if not isinstance(backbone, ModuleBackbone):
        raise ConfigError(f"cut {cut}: {model.config.architecture} has its own place for the memory; leave cut out")
    other = ModuleBackbone(
        backbone.module, cut, mean=backbone.mean, std=backbone.std, bgr=backbone.bgr, input_size=backbone.input_size
    )
    return replace(model, network=LMANet(other, model.config.memory).eval(), config=replace(model.config, cut=cut))


def _cut_of(backbone: Backbone) -> str:
    return backbone.cut.layer if isinstance(backbone, ModuleBackbone) and backbone.cut is not None else ""


# ---- files


def program_kind(path: Path) -> str:
    """What a file is, if it is a network with its computation: "torchscript", "export", "onnx"; else empty."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b":", b"B"):  # ir_version, then producer_name, graph or opset_import
        return "onnx"
    if start != b"PK\x03\x04":
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # in a damaged file it stumbles in every way there is; whoever reads it will say so
        return ""
    inner = {name.partition("/")[2] for name in names}
    if inner & {"archive_format", "serialized_exported_program.json"}:
        return "export"
    return "torchscript" if "constants.pkl" in inner and any(name.startswith("code/") for name in inner) else ""


def load_program(path: Path, kind: str) -> Model:
    """A compiled network, logits only.

    Raises:
        WeightsError: damaged, not to be loaded safely, or gives no logits.
        ConfigError: it needs an extra that is not installed.
    """
    if kind == "export":
        raise WeightsError(
            f"{path.name}: a torch.export file; PyTorch would run code named in it. If you trust it, load it in a function of "
            "yours: def make(): return torch.export.load(…).module(), and give python:FILE.py:make"
        )
    if kind == "onnx":
        return wrap_module(OnnxModule(path), name=path.name, source="ONNX")
    try:
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # in a damaged file it stumbles in every way there is
        reason = str(error).strip().split("\n", 1)[0][:160]
        raise WeightsError(f"{path.name}: damaged TorchScript file ({reason}); copy or export it again") from error
    return wrap_module(module, name=path.name, source="TorchScript")


# ---- what a module says of itself


def _require_values(module: nn.Module, name: str) -> None:
    """Raises WeightsError where a tensor has a shape but no values; the message names it."""
    empty = next((key for key, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta), None)
    if empty is not None:
        raise WeightsError(f"{name}: wanted weights with values, got {empty} on the meta device; load the weights first")


def _settled(module: nn.Module) -> nn.Module:
    """In eval mode, in float32, on one device."""
    if isinstance(module, torch.jit.ScriptModule | OnnxModule):
        module = Program(module)
    try:
        module.eval()
    except NotImplementedError:  # torch.export's graph modules
        module = Program(module)
    return module.to("cpu").float().eval()


def _preprocessing_of(module: nn.Module, name: str, given_numbers: Mapping[str, Any]) -> Preprocessing:
    """As given, else from the module's attributes; a tensor of that name is the module's own matter."""
    if isinstance(module, Backbone):
        return Preprocessing(module.mean, module.std)
    values: dict[str, Any] = {}
    for attribute in ("mean", "std"):
        given = given_numbers.get(attribute, getattr(module, attribute, None))
        if isinstance(given, tuple | list):
            if not _numbers(given, 3) or (attribute == "std" and min(given) <= 0):
                raise ConfigError(f"{name}: {attribute} must be three numbers, for RGB in 0–1, got {given!r}")
            values[attribute] = tuple(map(float, given))
    return Preprocessing(**values, bgr=getattr(module, "bgr", False) is True)


def _numbers(given: Any, count: int) -> TypeGuard[Sequence[float]]:
    return isinstance(given, tuple | list) and len(given) == count and all(isinstance(one, int | float) for one in given)


def _outputs(backbone: Backbone) -> int:
    """Channels of the logits."""
    if isinstance(backbone, ModuleBackbone):
        return backbone.num_classes
    side = 8 * backbone.stride + backbone.size_remainder
    with torch.no_grad():
        return int(backbone(torch.zeros(1, 3, side, side)).shape[1])


def _label_set(labels: LabelSet | Iterable[str] | None, outputs: int) -> LabelSet:
    """Classes for so many outputs, one of which may be void; raises ConfigError."""
    if labels is None:
        return nameless_labels(outputs)
    if not isinstance(labels, LabelSet):
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise ConfigError(f"class names must be a list of texts, got {labels!r}")
        names = tuple(str(name) for name in labels)
        labels = _known_set(names) or LabelSet(names, distinct_colors(len(names)), usual_groups(names))
    if len(labels.names) not in (outputs, outputs - 1):
        raise ConfigError(
            f"wanted a name for each of the model's {outputs} outputs, or one less where the last is void; "
            f"got {len(labels.names)}: {', '.join(labels.names[:4])}, …"
        )
    return labels


def _known_set(names: tuple[str, ...]) -> LabelSet | None:
    """The label set that ships and has these names, however they are written."""
    plain = [name.strip().lower() for name in names]
    known = map(read_label_set, list_label_sets())
    return next((one for one in known if [name.lower() for name in one.names] == plain), None)
