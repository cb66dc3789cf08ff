"""The state dict within a checkpoint: what training tools put around it, and in front of its keys, taken away.

Checkpoints hold the weights under a key of theirs beside epoch and optimiser (Lightning, semseg, timm, Ultralytics and others);
DataParallel, `torch.compile`, averaged models and Lightning's modules put a prefix before each key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from lmanet_core.errors import WeightsError

StateDict = dict[str, torch.Tensor]

#: Where checkpoints keep the weights; of several the first. Running averages of the weights come last: they are named where
#: they are left out.
_HOLDERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
    "ema_state_dict", "model_ema", "state_dict_ema", "ema",
)  # fmt: skip
_AVERAGES = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
_AVERAGE = "running average of the weights, beside those that are used; save it alone to use it"
#: What stands beside a network's own keys, and why it is not used.
_BESIDE = {
    r"n_averaged": "counter of an averaged model",
    r"(criterion|loss|loss_fn|loss_function|metrics?|(train|val|test)_\w+)\.?.*": "of the training, not of the network",
}


def unwrap(content: Mapping[str, object], name: str, marks: Sequence[str]) -> tuple[StateDict, dict[str, str]]:
    """The state dict of a checkpoint with the network's own keys.

    Args:
        content: what `torch.load(..., weights_only=True)` gave.
        name: of the file, for messages.
        marks: keys by which a network is known; what stands before one of them is the prefix.

    Returns:
        Tensors by key, and what is not used: key → why.

    Raises:
        WeightsError: no tensors, something else among them, or a file to resume training from.
    """
    if "progress" in content and "network" in content:
        raise WeightsError(f"{name}: a file to resume training from; give best.safetensors or last.safetensors beside it")
    inner, dropped = _find(content, name)
    strange = [str(key) for key, value in inner.items() if not isinstance(value, torch.Tensor)]
    if strange or not inner:
        what = f"entries that are not tensors ({', '.join(strange[:3])})" if strange else "nothing"
        raise WeightsError(f"{name}: wanted a dict of tensors, or a checkpoint with one as 'state_dict'; got {what}")
    tensors = {str(key).replace("_orig_mod.", ""): value for key, value in inner.items()}
    prefix = _prefix(tensors, marks)
    state: StateDict = {}
    for key, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor)
        why = next((why for pattern, why in _BESIDE.items() if re.fullmatch(pattern, key)), None)
        if why is not None and not (prefix and key.startswith(prefix)):
            dropped[key] = why
        else:
            state[key.removeprefix(prefix)] = tensor
    return state, dropped


def _find(content: Mapping[str, object], name: str) -> tuple[Mapping[str, object], dict[str, str]]:
    """The mapping that holds the tensors, however deep, and the averages that are left out."""
    holders = [key for key in _HOLDERS if key in content and not isinstance(content[key], torch.Tensor)]
    if not holders:
        nested = [key for key, value in content.items() if isinstance(value, Mapping) and _may_hold_weights(value)]
        if any(isinstance(value, torch.Tensor) for value in content.values()) or len(nested) != 1:
            return content, {}
        holders = nested
    chosen = content[holders[0]]
    if not isinstance(chosen, Mapping):
        raise WeightsError(f"{name}: wanted a dict of tensors under {holders[0]!r}, got {type(chosen).__name__}")
    dropped = {key: _AVERAGE for key in holders[1:] if key in _AVERAGES}
    inner, more = _find(chosen, name)
    return inner, {**dropped, **more}


def _may_hold_weights(value: Mapping[str, object]) -> bool:
    return any(key in value for key in _HOLDERS) or (
        bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())
    )


def _prefix(keys: Mapping[str, object], marks: Sequence[str]) -> str:
    """What stands before the network's own keys, such as "module." or "model.net."."""
    for mark in marks:
        for key in keys:
            if key == mark or key.endswith(f".{mark}"):
                return key.removesuffix(mark)
    return "module." if all(key.startswith("module.") for key in keys) else ""
