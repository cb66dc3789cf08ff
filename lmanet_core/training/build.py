"""From settings to objects: data sources, the network with its starting weights, what of it is frozen, class weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lmanet_core.data import CityscapesSource, ClipSource, StillsSource, StreetSource
from lmanet_core.data.camera_motion import MotionConfig
from lmanet_core.data.named_sets import NAMED_SETS, NamedSet
from lmanet_core.data.recorded_clips import RecordedClips, Replayed
from lmanet_core.errors import ConfigError, InputError, WeightsError
from lmanet_core.geometry import Size, fit_network_size, parse_size
from lmanet_core.labels import CITYSCAPES, LabelSet
from lmanet_core.labels.mapping import load_mapping
from lmanet_core.network import Backbone, LMANet, ModuleBackbone
from lmanet_core.network.memory_read import LARGEST_POOL
from lmanet_core.training.config import TrainConfig
from lmanet_core.training.losses import ERFNET_CITYSCAPES_WEIGHTS, weights_from_counts
from lmanet_core.weights.adapters import names_model
from lmanet_core.weights.checkpoint import FOREIGN, Model, ModelConfig, build_network, hash_file, load_model

_PROBLEMS_SHOWN = 8
_STRIDE = 8  # of features that are read as they are …
_POOLED_STRIDE = 16  # … and what finer ones are averaged to: they are those of light models, whose frame may not cost much more
_WHITENED = 32  # frames that keys are made from
_COUNTED = 300  # label maps that class weights are counted from, at most


def make_sources(config: TrainConfig) -> tuple[ClipSource, ClipSource | None]:
    """The sets to train and to validate on (None: nothing to validate on).

    Raises:
        InputError, ConfigError: nothing there, or settings that do not fit.
    """
    return make_training_source(config), make_validation_source(config)


def make_training_source(config: TrainConfig) -> ClipSource:
    """The set to train on; see `make_sources`."""
    size, root = config.network_size, Path(config.root or "")
    if config.data == "street":
        return _street(config, config.clips, config.seeds, 0, config.degradations)
    if config.data == "cityscapes":
        return CityscapesSource(root, "train", size, config.unlabelled)
    if config.data in NAMED_SETS:
        return NamedSet(config.data, root, "train", size, _motion(config))
    if config.data == "recorded":
        clips = RecordedClips(root)
        if config.replay is None:
            return clips
        return Replayed(clips, StillsSource(Path(config.replay), clips.size, motion=_motion(config)), config.replay_share)
    return StillsSource(root, size, _labels_file(config), _motion(config), config.exclude)


def make_validation_source(config: TrainConfig) -> ClipSource | None:
    """The set to validate on, which needs nothing of the one to train on; see `make_sources`."""
    size, root = config.network_size, Path(config.root or "")
    still = replace(_motion(config), degrade_past=0.0, degrade_last=0.0)
    if config.data == "street":
        return _street(config, config.val_clips, config.val_seeds, config.val_first_seed, config.val_degradations)
    if config.data == "cityscapes":
        return CityscapesSource(root, "val", size)
    if config.data in NAMED_SETS:
        return NamedSet(config.data, root, "val", size, still)
    if config.data == "recorded" or config.val_root is None:
        return None
    labels = _labels_file(config) or (root / "labels.yaml" if (root / "labels.yaml").is_file() else None)
    return StillsSource(Path(config.val_root), size, labels, None if config.val_is_video else still)


def _labels_file(config: TrainConfig) -> Path | None:
    return None if config.labels is None else Path(config.labels)


def _motion(config: TrainConfig) -> MotionConfig:
    strength, base = config.motion, MotionConfig()
    return replace(
        base,
        translation=base.translation * strength,
        zoom=base.zoom * strength,
        roll_deg=base.roll_deg * strength,
        perspective=base.perspective * strength,
        degrade_past=config.degrade_past,
        degrade_last=config.degrade_last,
    )


def _street(config: TrainConfig, count: int, seeds: int, first: int, degradations: str) -> ClipSource:
    kinds = tuple(kind.strip() for kind in degradations.split(","))
    cache = None if config.cache is None else Path(config.cache)
    return StreetSource(config.network_size, count, seeds, first, kinds, cache=cache)


def list_problems(config: TrainConfig) -> list[str]:
    """Everything that would go wrong with the data, a line each; every label map is opened."""
    frames = clip_frames(config)
    return [
        problem
        for source in make_sources(config)
        if source is not None
        for problem in source.problems(frames, config.largest_stride, True)
    ]


def require_complete(source: ClipSource, frames: int, stride: int, command: str = "the same command") -> None:
    """Raises InputError where files are missing, before hours are spent; `command` is one that takes `--check`."""
    problems = list(islice(source.problems(frames, stride, False), _PROBLEMS_SHOWN + 1))
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        more = "; and more" if len(problems) > _PROBLEMS_SHOWN else ""
        raise InputError(f"the data is not complete: {shown}{more}. What lists everything: {command} with --check")


def clip_frames(config: TrainConfig) -> int:
    """Frames in a clip: S + 1, or 1 for single frames."""
    if config.single_frame:
        return 1
    if config.memory_frames is not None:
        return config.memory_frames + 1
    model = load_model(config.weights) if config.weights else None
    trained = None if model is None else model.config.memory
    architecture = config.architecture if model is None else model.config.architecture
    return config.memory(trained, architecture).memory_frames + 1


def describe_data(config: TrainConfig, source: ClipSource) -> dict[str, Any]:
    """What a resumed run compares, and what its weights say."""
    where = "" if config.root is None else Path(config.root).name
    return {"set": f"{config.data} {where}".strip(), "clips": len(source), "classes": list(source.labels.names)}


def load_teacher(config: TrainConfig, labels: LabelSet) -> LMANet | None:
    """The network to distil from; raises WeightsError where its classes are others than the data's."""
    if config.teacher is None:
        return None
    model = load_model(config.teacher)
    if model.config.labels.names != labels.names:
        raise WeightsError(f"the teacher {config.teacher} has other classes than the data; train one on this data first")
    return model.network.requires_grad_(False)


def make_network(config: TrainConfig, labels: LabelSet) -> tuple[LMANet, ModelConfig]:
    """The network to train, with its starting weights; what is new in it starts from `config.seed`.

    Raises:
        WeightsError: weights that cannot be read, or are for other classes.
        ConfigError: settings that the weights or the backbone do not allow.
    """
    model = None if config.weights is None else load_model(config.weights)
    architecture = config.architecture if model is None else model.config.architecture
    same_classes = model is not None and model.config.labels.names == labels.names
    origin = None if model is None else _origin_of_classes(config, model, labels)
    if model is not None and not same_classes and not config.reset_classifier and origin is None:
        raise WeightsError(
            f"{config.weights} has {_classes(model.config.labels)}, the data {_classes(labels)}; "
            "reset_classifier: true starts the last layer anew and keeps the rest, class_mapping says what leads to what"
        )
    trained = None if model is None else model.config.memory
    if trained is not None and config.whiten_keys:
        raise ConfigError(f"{config.weights} has keys that were trained; leave whiten_keys out")
    built = ModelConfig(
        architecture=architecture,
        num_classes=model.config.num_classes if model is not None and same_classes else len(labels.names),
        labels=labels,
        memory=None if config.single_frame else config.memory(trained, architecture),
        input_size=config.network_size,  # a crop is a window of it: things keep their size in pixels
        provenance=_origin(config, model),
    )
    torch.manual_seed(config.seed)
    if built.memory is not None and model is not None and trained is None and config.pool is None and names_model(architecture):
        stride = model.network.backbone.stride
        pool = 1 if stride >= _STRIDE else min(LARGEST_POOL, _POOLED_STRIDE // stride)
        built = replace(built, memory=replace(built.memory, pool=pool))
    if model is not None and (model.network.backbone.foreign or names_model(architecture)):
        built = replace(built, cut=model.config.cut, code=model.config.code)
        network = LMANet(_own_classes(config, model, labels).backbone, built.memory)
    else:
        network = build_network(built)
    for name in ("size", "crop"):
        text = getattr(config, name)
        if text is not None:
            _require_multiple(name, parse_size(text), network.backbone)
    if config.dropout is not None:
        _limit_dropout(network, config.dropout)
    if model is not None:
        _take_weights(network, model, built, keep_classifier=not config.reset_classifier and origin is None)
        if origin is not None:
            _map_classifier(network, model, built, origin)
    return network, built


def whiten_keys(network: LMANet, source: ClipSource, config: TrainConfig) -> None:
    """Start the keys of a new memory from the features of some training frames, see `MemoryModule.whiten_keys`."""
    assert network.memory is not None
    keys, channels = network.memory.config.key_channels, network.backbone.feature_channels
    if keys > channels:
        raise ConfigError(f"whiten_keys makes key_channels of {channels} feature channels: wanted at most as many, got {keys}")
    rng = np.random.default_rng((config.seed, 3))
    features = []
    network.eval()
    with torch.no_grad():
        for index in np.sort(rng.permutation(len(source))[:_WHITENED]):
            frame = source.clip(int(index), 1, 1, rng).frames[-1]
            pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))).unsqueeze(0)
            features.append(network.encode(network.backbone.normalize(pixels)))
    network.memory.whiten_keys(torch.cat(features))


def frozen_modules(network: LMANet, config: TrainConfig) -> list[nn.Module]:
    """What this stage must not change (paper, III-E).

    Raises:
        ConfigError: a backbone of somebody else that does not say what its encoder is.
    """
    if config.stage in ("backbone", "all"):
        return []
    if config.stage == "memory" or isinstance(network.backbone, ModuleBackbone):
        return [network.backbone]
    encoder = getattr(network.backbone, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError(
            f"stage {config.stage} freezes the encoder: {type(network.backbone).__name__} needs a submodule named encoder"
        )
    return [encoder]


def thawed_modules(network: LMANet, config: TrainConfig) -> list[nn.Module]:
    """What of the frozen is trained: in stages joint and decoder, of somebody else's model, the layer after the cut."""
    backbone = network.backbone
    if config.stage not in ("joint", "decoder") or not isinstance(backbone, ModuleBackbone) or backbone.cut is None:
        return []
    return [backbone.module.get_submodule(backbone.cut.layer)]


def class_weights(config: TrainConfig, source: ClipSource) -> torch.Tensor:
    """(classes,) weights of the loss."""
    kind = config.class_weights
    if kind == "auto":
        kind = "erfnet" if config.data == "cityscapes" else "none"
    if kind == "none":
        return torch.ones(len(source.labels.names))
    if kind == "erfnet":
        if source.labels.names != CITYSCAPES.names:
            raise ConfigError("class_weights: erfnet is for Cityscapes' 19 classes; use data or none")
        return torch.tensor(ERFNET_CITYSCAPES_WEIGHTS)
    rng = np.random.default_rng(config.seed)
    counts = np.zeros(256, np.int64)
    for index in np.sort(rng.permutation(len(source))[:_COUNTED]):
        counts += np.bincount(source.clip(int(index), 1, 1, rng).labels[-1].ravel(), minlength=256)
    return torch.tensor(weights_from_counts(counts[: len(source.labels.names)]))


def _own_classes(config: TrainConfig, model: Model, labels: LabelSet) -> LMANet:
    """Somebody else's model, whose last layer stays as it is; raises ConfigError where that does not fit."""
    if config.reset_classifier or config.class_mapping is not None or model.config.labels.names != labels.names:
        raise ConfigError(
            f"{config.weights} keeps its own {_classes(model.config.labels)}: train it on data that has these, and leave "
            f"reset_classifier and class_mapping out; the data has {_classes(labels)}"
        )
    if model.config.architecture == FOREIGN:
        raise ConfigError(f"{config.weights} has no name to load it by again; give it as python:FILE.py:function")
    return model.network


def _limit_dropout(network: nn.Module, rate: float) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = min(module.p, rate)


def _take_weights(network: LMANet, model: Model, built: ModelConfig, keep_classifier: bool) -> None:
    state = model.network.state_dict()
    if not keep_classifier:
        depends = _classifier_keys(built)
        state = {key: tensor for key, tensor in state.items() if key not in depends}
    if built.memory is None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("memory.")}
    network.load_state_dict(state, strict=False)


def _classifier_keys(built: ModelConfig) -> dict[str, int]:
    """Tensors whose shape depends on the number of classes, and the dimension that does."""
    with torch.device("meta"):
        one, other = (build_network(replace(built, num_classes=built.num_classes + more)).state_dict() for more in (0, 1))
    differing = {key: np.flatnonzero(np.not_equal(tensor.shape, other[key].shape)) for key, tensor in one.items()}
    return {key: int(dimensions[0]) for key, dimensions in differing.items() if len(dimensions)}


def _origin_of_classes(config: TrainConfig, model: Model, labels: LabelSet) -> list[list[int]] | None:
    """For each class of the data the ids of the weights that lead to it; None without a mapping."""
    if config.class_mapping is None:
        return None
    if config.reset_classifier:
        raise ConfigError("reset_classifier starts the last layer anew, class_mapping from the weights; leave one of them out")
    mapping = load_mapping(config.class_mapping, model.config.labels)
    if mapping.classes.names != labels.names:
        raise ConfigError(
            f"class_mapping must lead to the classes of the data, {_classes(labels)}; {mapping.name} leads to "
            f"{_classes(mapping.classes)}"
        )
    return [np.flatnonzero(mapping.prediction_table == number).tolist() for number in range(len(labels.names))]


def _map_classifier(network: LMANet, model: Model, built: ModelConfig, origin: list[list[int]]) -> None:
    """A class starts as the mean of those that lead to it, and anew where there is none."""
    known, state = model.network.state_dict(), network.state_dict()
    for key, dimension in _classifier_keys(built).items():
        for number, ids in enumerate(origin):
            if ids:
                row = known[key].index_select(dimension, torch.tensor(ids)).mean(dimension)
                state[key].select(dimension, number).copy_(row)


def _origin(config: TrainConfig, model: Model | None) -> dict[str, str]:
    if model is None or config.weights is None:
        return {"started_from": "nothing"}
    path, digest = Path(config.weights), hash_file(Path(config.weights))
    return {"started_from": f"{path.name} ({model.source}, sha256 {digest})"}


def _classes(labels: LabelSet) -> str:
    names = ", ".join(labels.names[:3])
    return f"{len(labels.names)} classes ({names}, …)"


def _require_multiple(name: str, size: Size, backbone: Backbone) -> None:
    if backbone.fixed_size is not None and size != backbone.fixed_size:
        raise ConfigError(f"{name} must be {Size(*backbone.fixed_size)}, the only one that this network takes; got {size}")
    multiple = backbone.size_multiple or backbone.stride
    if any(side % multiple != backbone.size_remainder for side in size):
        nearest = fit_network_size(size, size.height * size.width, multiple, backbone.size_remainder)
        remainder = f" + {backbone.size_remainder}" if backbone.size_remainder else ""
        raise ConfigError(
            f"sides of {name} must be {multiple}·n{remainder} for this backbone, got {size}; nearest is {nearest}"
        )
