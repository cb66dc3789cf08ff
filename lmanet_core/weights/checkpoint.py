"""Weights on disk: our own format, and loading of everything that is understood.

Ours is safetensors with one metadata entry, `lmanet`, that holds JSON: architecture, memory, classes with colours and groups,
input size and normalisation, provenance. Nothing in it can run code, but that of a `python:` model by its name, and only where
its file is byte for byte what it was. Published files (`lmanet_core.weights.published`) are unpickled with `weights_only=True`
and never otherwise. A file is recognised by its content, never by its name. Other people's models, `python:…` and `hf:…` and
compiled ones, are the matter of `lmanet_core.weights.adapters`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from lmanet_core.errors import ConfigError, OutputError, WeightsError
from lmanet_core.files import replace_file
from lmanet_core.geometry import Size
from lmanet_core.labels import CITYSCAPES, LabelSet, nameless_labels
from lmanet_core.network import Backbone, ERFNet, LMANet, MemoryConfig, PSPNet101
from lmanet_core.settings import rename_old
from lmanet_core.weights.published import PublishedWeights, import_published

FORMAT_VERSION = 1
#: Architecture of a module whose code is elsewhere.
FOREIGN = "module"
_METADATA_KEY = "lmanet"

#: Training checkpoints hold their best accuracy as a NumPy number, which NumPy 1 and 2 pickle under two names.
_NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)),
]

_BACKBONES: dict[str, Callable[[int], Backbone]] = {"erfnet": ERFNet, "pspnet101": PSPNet101}
_PUBLISHED_INPUT = {"erfnet": Size(512, 1024), "pspnet101": Size(1025, 2049)}


def register_backbone(name: str, factory: Callable[[int], Backbone]) -> None:
    """Make a backbone of your own loadable by name: `factory(num_classes)` builds it with random weights.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _BACKBONES:
        raise ConfigError(f"a backbone named {name!r} is already registered; choose another name")
    _BACKBONES[name] = factory


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a network that is not a tensor; what our files carry as metadata.

    Attributes:
        architecture: name of a backbone, "erfnet", "pspnet101" or a registered one; of a model of somebody else's its name,
            `python:…` or `hf:…`; "module" where it has none, and cannot be built anew.
        num_classes: what the backbone's constructor gets; may exceed the label set by a void class.
        labels: names, colours and groups of the classes that a label map can hold.
        memory: how it remembers; None for a single-frame network.
        input_size: size it was trained on.
        cut: layer of somebody else's model before which the memory goes in; empty: none is known.
        code: SHA-256 of the files of a `python:` model. A saved file runs this code and no other.
        provenance: free text about how the weights came to be (data set, command, date, figures, licence).
    """

    architecture: str
    num_classes: int
    labels: LabelSet
    memory: MemoryConfig | None = None
    input_size: Size = _PUBLISHED_INPUT["erfnet"]
    provenance: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""
    code: str = ""

    def to_json(self) -> str:
        """As stored in a file."""
        data = {
            "format": FORMAT_VERSION,
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "labels": self.labels.to_dict(),
            "memory": None if self.memory is None else asdict(self.memory),
            "input_size": list(self.input_size),
            "provenance": dict(self.provenance),
            **{name: value for name, value in (("cut", self.cut), ("code", self.code)) if value},
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The inverse of `to_json`; raises ConfigError on anything else."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT_VERSION:
                raise ConfigError(f"format {data['format']} of the metadata is not {FORMAT_VERSION}; update lmanet_ros")
            memory = data["memory"]
            return cls(
                architecture=str(data["architecture"]),
                num_classes=int(data["num_classes"]),
                labels=LabelSet.from_dict(data["labels"]),
                memory=None if memory is None else MemoryConfig(**rename_old(memory)),
                input_size=Size(*data["input_size"]),
                provenance={str(key): str(value) for key, value in data["provenance"].items()},
                cut=str(data.get("cut", "")),
                code=str(data.get("code", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"the metadata is not that of an LMANet network: {error}") from error


@dataclass(frozen=True)
class Model:
    """A network in eval mode and what is known about it.

    Attributes:
        network: weights as in the file, float32, on the CPU.
        config: see `ModelConfig`.
        source: what kind of file it came from, for people.
        dropped: keys of the file that are not used, and why.
    """

    network: LMANet
    config: ModelConfig
    source: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of trained values, buffers not counted."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def build_network(config: ModelConfig) -> LMANet:
    """A network for this configuration, with random weights unless it is a named model; WeightsError where it is unknown."""
    from lmanet_core.weights import adapters  # builds on this module

    if config.architecture == FOREIGN:
        raise WeightsError("a module without a name cannot be built anew; give it as python:FILE.py:function")
    if adapters.names_model(config.architecture):
        return adapters.rebuild(config)
    if config.architecture not in _BACKBONES:
        known = ", ".join(_BACKBONES)
        raise WeightsError(f"architecture {config.architecture!r} is not one of {known}; register_backbone adds others")
    return LMANet(_BACKBONES[config.architecture](config.num_classes), config.memory)


def save_model(path: str | os.PathLike[str], network: LMANet, config: ModelConfig, half: bool = False) -> None:
    """Write our format; an existing file survives whatever goes wrong.

    Args:
        path: of the file.
        network, config: what to write.
        half: convolutions in float16, which halves the file; loaded they are float32 again. Statistics of BatchNorm stay.

    Raises:
        OutputError: the file cannot be written, or the network is a module that no name leads to.
    """
    path = Path(path)
    if config.architecture == FOREIGN:
        raise OutputError(f"{path}: this module has no name to load it by; give it as python:FILE.py:function, and write that")
    # Copies, for safetensors takes no two tensors that share memory, as tied weights do.
    state = network.state_dict()
    copies = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    if half:
        copies |= {key: tensor.half() for key, tensor in copies.items() if tensor.dim() == 4}
    content = serialize(copies, {_METADATA_KEY: config.to_json()})
    with replace_file(path, needed=len(content)) as file:
        file.write_bytes(content)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load weights of any understood kind.

    Args:
        path: a file: ours, one of the published four, TorchScript, `torch.export` or ONNX; or a model's name:
            `python:module:function`, `python:FILE.py:function`, `hf:FOLDER` or `hf:owner/name`, see docs/models.md.

    Raises:
        WeightsError: missing, damaged or unsafe file, unknown architecture, missing, extra or misshapen keys, values that are
            not finite, a model that gives no logits; the message names them.
        ConfigError: class names that do not fit.
    """
    from lmanet_core.weights import adapters  # builds on this module

    if adapters.names_model(path):
        return adapters.load_named(os.fspath(path))
    path = Path(path)
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file"
            raise WeightsError(f"cannot read weights {path}: {what}; give a .safetensors or a published .pth file")
        ours, program = _is_safetensors(path), adapters.program_kind(path)
    except OSError as error:  # no permission, a name too long
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    if program:
        return adapters.load_program(path, program)
    return load_ours(path) if ours else _load_published(path)


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as handle:
        start = handle.read(9)
    return len(start) == 9 and start[8:] == b"{"


def load_ours(path: Path, network: str = "") -> Model:
    """A file in our format; `network`: the name of somebody else's model that it holds the weights of, in place of its own."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(_METADATA_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name}: damaged safetensors file ({error}); copy or download it again") from error
    if metadata is None:
        return _assemble_published(path.name, state)  # a plain one, as other tools write them
    try:
        config = ModelConfig.from_json(metadata)
    except ConfigError as error:
        raise WeightsError(f"{path.name}: {error}") from error
    if network:
        config = replace(config, architecture=network, code="")
    return _assemble(path.name, config, state, source="LMANet safetensors", dropped={})


def _load_published(path: Path) -> Model:
    try:
        # Open, for given a path PyTorch goes by the name's ending.
        with path.open("rb") as handle, torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(handle, map_location="cpu", weights_only=True)
    except Exception as error:  # in a damaged file the unpickler stumbles in every way there is
        code = re.search(r"\bGLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code is not None:
            raise WeightsError(
                f"{path.name}: refused, for loading it would run code named in the file ({code[1]}); "
                "save its plain state_dict and load that"
            ) from error
        what = f"not a weights file, or damaged ({_reason(path, error)}); copy or download it again"
        raise WeightsError(f"{path.name}: {what}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path.name}: wanted a dict of tensors, got {type(content).__name__}")
    return _assemble_published(path.name, content)


def _assemble_published(name: str, content: Mapping[str, object]) -> Model:
    published = import_published(content, name)
    return _assemble(name, _published_config(published), published.state_dict, published.kind, published.dropped)


def _published_config(published: PublishedWeights) -> ModelConfig:
    evaluated = len(CITYSCAPES.names)
    known = published.num_classes in (evaluated, evaluated + 1)
    return ModelConfig(
        architecture=published.architecture,
        num_classes=published.num_classes,
        labels=CITYSCAPES if known else nameless_labels(published.num_classes),
        memory=published.memory,
        input_size=_PUBLISHED_INPUT[published.architecture],
        provenance={"imported": published.kind},
    )


def _assemble(name: str, config: ModelConfig, state: dict[str, torch.Tensor], source: str, dropped: Mapping[str, str]) -> Model:
    try:
        network = build_network(config)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except (ConfigError, RuntimeError, TypeError, ValueError) as error:  # sizes in the metadata that make no network
        raise WeightsError(f"{name}: no {config.architecture} can be built for it: {error}") from error
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in expected]
    misshapen = [
        f"{key} wanted {tuple(expected[key].shape)} got {tuple(tensor.shape)}"
        for key, tensor in state.items()
        if key in expected and expected[key].shape != tensor.shape
    ]
    complaints = [
        f"{len(keys)} keys {what} ({_some(keys)})"
        for what, keys in (("missing", missing), ("not understood", extra), ("of another shape", misshapen))
        if keys
    ]
    if complaints:
        raise WeightsError(f"{name}: does not fit {config.architecture}: {'; '.join(complaints)}")
    require_finite(name, state)
    network.load_state_dict(state, strict=False)  # only counters of BatchNorm may be absent
    return Model(network.float().eval(), config, source, dropped)


def require_finite(name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Raises WeightsError where a value is NaN or infinite; the message names its tensor."""
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{name}: wanted finite weights, got NaN or infinite ones in {len(bad)} tensors ({_some(bad)}); was the training "
            "unstable, or the file damaged? take an earlier checkpoint, or copy it again"
        )


def _some(keys: Iterable[str], count: int = 4) -> str:
    keys = list(keys)
    return ", ".join(keys[:count]) + (", …" if len(keys) > count else "")


def _reason(path: Path, error: Exception) -> str:
    """What went wrong in a line, without PyTorch's advice to load the file unsafely."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, git lfs pull gets the file itself"
    if isinstance(error, pickle.UnpicklingError):
        return "no pickled tensors"
    return str(error).strip().split("\n", 1)[0][:160] or type(error).__name__


def is_ours(path: Path) -> bool:
    """Whether a file is in our format, by its content."""
    try:
        with safe_open(path, "pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal; of a model's name (`python:…`, `hf:…`), of the files it is made of."""
    from lmanet_core.weights import adapters  # builds on this module

    if adapters.names_model(path):
        hashes = "".join(hash_file(file) for file in adapters.files_of(os.fspath(path)))
        return hashlib.sha256(hashes.encode()).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
