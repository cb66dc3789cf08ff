"""Adapter between the golden numbers' checker and this package: the checker's names on the left, ours on the right."""

from __future__ import annotations

import numpy as np
import torch

from lmanet_core.labels import UNLABELLED
from lmanet_core.metrics import ConfusionMatrix
from lmanet_core.network import ERFNet, LMANet, MemoryConfig, PSPNet101
from lmanet_core.network.fusion import FUSIONS
from lmanet_core.ops import attention_weights
from lmanet_core.ops import local_attention as our_local_attention
from lmanet_core.stream.memory import MemoryBuffer
from lmanet_core.training.losses import cross_entropy_sums
from lmanet_core.weights.published import import_published

_FUSIONS = {"sigmoid-do1": "gated", "sigmoid-down1": "reduced-gated", "concat": "concat"}


def local_attention(q, K, V, R):
    window = None if R == "global" else R
    out = our_local_attention(q, K, V, window, impl="blocked")
    weights = attention_weights(q, K, window)
    if window is None:
        weights = weights.unflatten(2, q.shape[-2:])
    return out, weights


def fusion(config, state_dict, mem, vQ):
    name = _FUSIONS[config["fusion"]]
    value_channels = config["D"]
    module = FUSIONS[name](value_channels, value_channels if name == "reduced-gated" else 2 * value_channels)
    published = _with_dummy_backbone(state_dict, config["backbone"])
    prefix = "memory.fusion."
    mapped = import_published(published).state_dict
    module.load_state_dict({key.removeprefix(prefix): value for key, value in mapped.items() if key.startswith(prefix)})
    return module.to(vQ.dtype).eval()(vQ, mem)


def _with_dummy_backbone(state_dict, backbone):
    """The importer recognises whole files, so the fusion's weights are put into the outline of one."""
    outline = {
        "erf": ("encoder.initial_block.conv.weight", "decoder.output_conv.weight"),
        "psp101": ("encoder.layer0.0.weight", "decoder.cls.4.weight"),
    }[backbone]
    return {**dict.fromkeys((*outline, "kv_M_r4.Key.weight"), torch.zeros(20, 20, 1, 1)), **state_dict}


class _Stream:
    def __init__(self, network: LMANet, memory_frames: int) -> None:
        self.network = network
        self.memory = MemoryBuffer(memory_frames)
        self.count = 0

    def reset(self):
        self.memory.clear()

    def step(self, x):
        self.network.to(x.dtype)
        features = self.network.encode(x)
        logits = self.network.decode(features, self.memory.frames())
        self.memory.push(self.network.remember(features), self.count)
        self.count += 1
        return logits


def _network(config, state_dict) -> LMANet:
    published = import_published(state_dict)
    inferred = published.memory
    memory = MemoryConfig(
        key_channels=inferred.key_channels,
        value_channels=inferred.value_channels,
        fusion=inferred.fusion,
        window=None if config["R"] == "global" else config["R"],
        memory_frames=config["S"],
    )
    assert memory.fusion == _FUSIONS[config["fusion"]]
    backbone = {"erfnet": ERFNet, "pspnet101": PSPNet101}[published.architecture](published.num_classes)
    network = LMANet(backbone, memory)
    network.load_state_dict(published.state_dict)
    return network.eval()


def make_model(config, state_dict):
    return _Stream(_network(config, state_dict), config["S"])


def loss(logits, labels, class_weights, ignore_index):
    known = labels.masked_fill(labels == ignore_index, UNLABELLED)
    total, weight = cross_entropy_sums(logits, known, torch.as_tensor(class_weights, dtype=logits.dtype))
    return total / weight


def iou(preds, labels):
    matrix = ConfusionMatrix(19)
    for prediction, truth in zip(preds[:, 0], labels[:, 0], strict=True):
        matrix.update(prediction.numpy().astype(np.uint8), truth.numpy().astype(np.uint8))
    return [1.0 if np.isnan(value) else float(value) for value in matrix.iou()]  # the golden rule: an absent class counts 1


def train_grads(config, state_dict, x, labels, class_weights):
    network = _network(config, state_dict).to(x.dtype)
    logits = network(x.transpose(0, 1), last_only=True)[:, -1]
    value = loss(logits, labels, class_weights, 19)
    value.backward()
    theirs_by_tensor = {id(tensor): key for key, tensor in state_dict.items()}  # the importer renames, it does not copy
    ours = import_published(state_dict).state_dict
    parameters = dict(network.named_parameters())
    return value.detach(), {theirs_by_tensor[id(ours[key])]: parameter.grad for key, parameter in parameters.items()}
