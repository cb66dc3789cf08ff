"""Read the weight files that others published, by what is in them and not by their names.

Four kinds are understood; each key of a file is either mapped to a parameter of ours, dropped for a reason given here, or
named in the error.

* LMANet on ERFNet and on PSPNet-101 (`lmanet_erf_best.pth`, `lmanet_psp101_best.pth`, training checkpoints of both),
* ERFNet alone (`erfnet_pretrained.pth`),
* PSPNet-101 of semseg (`train_epoch_200.pth`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmanet_core.errors import WeightsError
from lmanet_core.network import MemoryConfig
from lmanet_core.weights.unwrap import StateDict, unwrap

#: Keys by which the networks are known: ERFNet, our PSPNet-101 or LMANet's, semseg's.
_MARKS = ("encoder.initial_block.conv.weight", "encoder.layer0.0.weight", "layer0.0.weight")

#: What is dropped and why, by pattern of the published key.
_DROPPED = {
    r"encoder\.output_conv\.(weight|bias)": "classifier of the encoder's own pretraining",
    r"aux\..*": "auxiliary training loss",
}
#: In the reduced-gated fusion only: trained files hold it, no computation uses it.
_DROPPED_REDUCED = {r"memory_fusion\.conv_layer_2\.(weight|bias)": "present in published files but never used"}

_MEMORY_HEADS = {
    "kv_M_r4.Key.": "memory.memory_head.key.",
    "kv_M_r4.Value.": "memory.memory_head.value.",
    "kv_Q_r4.Key.": "memory.query_head.key.",
    "kv_Q_r4.Value.": "memory.query_head.value.",
}
_FUSION = {
    "concat": {"bn1.": "normalize_query.bn.", "bn2.": "normalize_memory.bn."},
    "gated": {
        "bn1.": "normalize_query.bn.",
        "bn2.": "normalize_memory.bn.",
        "conv_layer_1.": "embed_query.",
        "conv_layer_2.": "embed_memory.",
        "conv_layer_3.": "attend_query.",
        "conv_layer_4.": "attend_memory.",
        "bn.": "bn.",
    },
    "reduced-gated": {
        "bn0.": "bn_reduced.",
        "conv_layer_1.": "reduce.",
        "conv_layer_3.": "attend_query.",
        "conv_layer_4.": "attend_memory.",
        "bn.": "bn.",
    },
}


@dataclass(frozen=True)
class PublishedWeights:
    """A published file in our terms.

    Attributes:
        kind: what the file is, for people.
        architecture: "erfnet" or "pspnet101".
        num_classes: as the backbone's constructor takes it.
        memory: configuration of the memory module; None for single-frame files.
        state_dict: keys of our `LMANet`.
        dropped: published key → why it is not used.
    """

    kind: str
    architecture: str
    num_classes: int
    memory: MemoryConfig | None
    state_dict: StateDict
    dropped: Mapping[str, str]


def import_published(content: Mapping[str, object], name: str = "weights") -> PublishedWeights:
    """Recognise a published file and map it.

    Args:
        content: what `torch.load(..., weights_only=True)` gave: a state dict, or a checkpoint that holds one, see `unwrap`.
        name: of the file, for messages.

    Raises:
        WeightsError: not one of the four kinds, or keys that are neither mapped nor known to be unused.
    """
    state, beside = unwrap(content, name, _MARKS)
    has_memory = "kv_M_r4.Key.weight" in state
    if _MARKS[0] in state:
        architecture, rename = "erfnet", _rename_erfnet
        classifier = "decoder.output_conv.weight"
        class_axis = 1
    elif _MARKS[1] in state:
        architecture, rename = "pspnet101", _rename_pspnet
        classifier, class_axis = "decoder.cls.4.weight", 0
    elif _MARKS[2] in state:
        architecture, rename = "pspnet101", _rename_semseg
        classifier, class_axis = "cls.4.weight", 0
    else:
        shown = ", ".join(list(state)[:3])
        raise WeightsError(
            f"{name}: neither ERFNet nor PSPNet-101 (first keys: {shown}); published files of LMANet, ERFNet and semseg's "
            "PSPNet-101 are understood, and our own safetensors. Weights of another network: give python:FILE.py:function, "
            "which builds it and loads them, or hf:FOLDER (docs/models.md)"
        )
    if classifier not in state:
        raise WeightsError(f"{name}: looks like {architecture} but has no {classifier}; is the file complete?")
    fusion = _recognise_fusion(state) if has_memory else None
    mapped, dropped, unknown = _map_keys(state, rename, fusion)
    if unknown:
        shown = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise WeightsError(f"{name}: {len(unknown)} keys not understood as {architecture} ({shown})")
    return PublishedWeights(
        kind=("LMANet on " if has_memory else "single-frame ") + {"erfnet": "ERFNet", "pspnet101": "PSPNet-101"}[architecture],
        architecture=architecture,
        num_classes=_channels(state, classifier, name, class_axis),
        memory=_memory_config(state, fusion, name) if fusion else None,
        state_dict=mapped,
        dropped={**beside, **dropped},
    )


def _recognise_fusion(state: StateDict) -> str:
    if "memory_fusion.bn0.weight" in state:
        return "reduced-gated"
    return "gated" if "memory_fusion.conv_layer_3.weight" in state else "concat"


def _memory_config(state: StateDict, fusion: str, name: str) -> MemoryConfig:
    """Widths come from the tensors; S and R are not in the files, so they are those of the published results."""
    value = "kv_M_r4.Value.weight"
    return MemoryConfig(
        key_channels=_channels(state, "kv_M_r4.Key.weight", name),
        value_channels=_channels(state, value, name) if value in state else 0,
        fusion=fusion,
        window=21,
        memory_frames=3 if fusion == "reduced-gated" else 4,
        frame_interval_s=1 / 17,  # neighbouring frames of Cityscapes
    )


def _channels(state: StateDict, key: str, name: str, axis: int = 0) -> int:
    shape = tuple(state[key].shape)
    if len(shape) != 4 or shape[axis] < 1:
        raise WeightsError(f"{name}: {key} wanted the 4 dimensions of a convolution, got {shape}")
    return shape[axis]


def _map_keys(
    state: StateDict, rename: Callable[[str], str | None], fusion: str | None
) -> tuple[StateDict, dict[str, str], list[str]]:
    mapped: StateDict = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    reasons = {**_DROPPED, **(_DROPPED_REDUCED if fusion == "reduced-gated" else {})}
    for key, tensor in state.items():
        reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, key)), None)
        if reason is not None:
            dropped[key] = reason
            continue
        ours = _rename_memory(key, fusion) or rename(key)
        if ours is None:
            unknown.append(key)
        else:
            mapped[ours] = tensor
    return mapped, dropped, unknown


def _rename_memory(key: str, fusion: str | None) -> str | None:
    if fusion is None:
        return None
    for theirs, ours in _MEMORY_HEADS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    for theirs, ours in _FUSION[fusion].items():
        if key.startswith(f"memory_fusion.{theirs}"):
            return f"memory.fusion.{ours}" + key.removeprefix(f"memory_fusion.{theirs}")
    return None


def _rename_erfnet(key: str) -> str | None:
    return f"backbone.{key}" if key.startswith(("encoder.", "decoder.")) else None


def _rename_pspnet(key: str) -> str | None:
    return f"backbone.{key}" if key.startswith(("encoder.", "decoder.", "ppm.")) else None


def _rename_semseg(key: str) -> str | None:
    if re.match(r"layer\d\.", key):
        return f"backbone.encoder.{key}"
    if key.startswith("cls."):
        return f"backbone.decoder.{key}"
    return f"backbone.{key}" if key.startswith("ppm.") else None
