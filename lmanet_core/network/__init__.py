"""Networks: backbones, the memory module, and LMANet that joins them. `nn.Module`s hold weights only."""

from lmanet_core.network.adapter import ModuleBackbone
from lmanet_core.network.backbone import Backbone
from lmanet_core.network.erfnet import ERFNet
from lmanet_core.network.lmanet import LMANet
from lmanet_core.network.memory_read import KeyValue, MemoryConfig, MemoryFrames, MemoryModule
from lmanet_core.network.pspnet import PSPNet101

__all__ = [
    "Backbone",
    "ERFNet",
    "KeyValue",
    "LMANet",
    "MemoryConfig",
    "MemoryFrames",
    "MemoryModule",
    "ModuleBackbone",
    "PSPNet101",
]
