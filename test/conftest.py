"""What tests of several folders need: weights that mean nothing, and the outlines of the weight files that others published."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

#: What all tests import and this interpreter lacks, as where `colcon test` runs outside of the environment that the node has.
MISSING = [name for name in ("torch", "cv2", "safetensors", "rosbags", "jsonargparse", "hypothesis") if find_spec(name) is None]

if MISSING:
    collect_ignore = ["core", "golden", "ros"]
else:
    from lmanet_core.process import prepare_process

    prepare_process()  # before PyTorch is loaded, as every command does; beside other programs tests then take far less time
    import torch

    from lmanet_core.geometry import Size
    from lmanet_core.labels import CITYSCAPES
    from lmanet_core.network import MemoryConfig
    from lmanet_core.weights.checkpoint import ModelConfig, build_network, save_model


@pytest.fixture(scope="session")
def missing():
    """Packages that tests need and this interpreter lacks."""
    return MISSING


#: Ours → theirs, tried from top to bottom. Written from the published key lists, not from the importer's tables.
_RENAMES = {
    "every": {r"^memory\.memory_head\.key": "kv_M_r4.Key", r"^memory\.query_head\.key": "kv_Q_r4.Key",
              r"^memory\.memory_head\.value": "kv_M_r4.Value", r"^memory\.query_head\.value": "kv_Q_r4.Value",
              r"^memory\.fusion": "memory_fusion"},
    "gated": {r"normalize_query\.bn": "bn1", r"normalize_memory\.bn": "bn2", r"embed_query": "conv_layer_1",
              r"embed_memory": "conv_layer_2", r"attend_query": "conv_layer_3", r"attend_memory": "conv_layer_4"},
    "concat": {r"normalize_query\.bn": "bn1", r"normalize_memory\.bn": "bn2"},
    "reduced-gated": {r"bn_reduced": "bn0", r"fusion\.reduce": "fusion.conv_layer_1", r"attend_query": "conv_layer_3",
                      r"attend_memory": "conv_layer_4"},
    "semseg": {r"^backbone\.encoder\.": "", r"^backbone\.decoder\.": ""},
    "backbone": {r"^backbone\.": ""},
}  # fmt: skip

#: What the files hold beyond our networks.
_UNUSED = {
    "psp101 sigmoid-down1": {"memory_fusion.conv_layer_2.weight": (256, 2048, 1, 1), "memory_fusion.conv_layer_2.bias": (256,)},
    "erfnet": {"encoder.output_conv.weight": (20, 128, 1, 1), "encoder.output_conv.bias": (20,)},
    "semseg": {"aux.0.weight": (256, 1024, 3, 3), "aux.1.weight": (256,), "aux.1.bias": (256,),
               "aux.1.running_mean": (256,), "aux.1.running_var": (256,),
               "aux.1.num_batches_tracked": (), "aux.4.weight": (19, 256, 1, 1), "aux.4.bias": (19,)},
}  # fmt: skip


@pytest.fixture(scope="session")
def published_shapes():
    """(theirs → shape, theirs → ours) of a published file, without the prefix "module."; unused keys are in the first only."""
    import torch

    from lmanet_core.network import ERFNet, LMANet, MemoryConfig, PSPNet101

    networks = {
        "erf sigmoid-do1": ("gated", lambda: LMANet(ERFNet(20), MemoryConfig())),
        "erf concat": ("concat", lambda: LMANet(ERFNet(20), MemoryConfig(fusion="concat"))),
        "psp101 sigmoid-down1": ("reduced-gated", lambda: LMANet(PSPNet101(19), MemoryConfig(128, 0, "reduced-gated"))),
        "erfnet": ("backbone", lambda: LMANet(ERFNet(20))),
        "semseg": ("semseg", lambda: LMANet(PSPNet101(19))),
    }

    def outline(kind):
        style, build = networks[kind]
        with torch.device("meta"):  # shapes only
            state = build().state_dict()
        shapes, ours = {}, {}
        for key, tensor in state.items():
            theirs = key
            for pattern, replacement in {**_RENAMES["every"], **_RENAMES[style], **_RENAMES["backbone"]}.items():
                theirs = re.sub(pattern, replacement, theirs)
            shapes[theirs], ours[theirs] = tuple(tensor.shape), key
        return {**shapes, **_UNUSED.get(kind, {})}, ours

    return outline


def save_random_weights(path, memory):
    """ERFNet for 64x32 with weights that mean nothing, but whose labels follow the image and whose confidence varies."""
    config = ModelConfig("erfnet", 20, CITYSCAPES, memory, Size(32, 64), {"trained": "not at all"})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = build_network(config)
        for _ in range(20):  # BatchNorm learns how strong the signal is at each layer; untrained it fades away
            network.backbone.decode(network.train().encode(torch.rand(4, 3, 32, 64)))
        network.backbone.decoder.output_conv.weight *= 40
    save_model(path, network.eval(), config)
    return path


@pytest.fixture(scope="session")
def video_weights(tmp_path_factory):
    """A weights file with a memory of 3 frames, for 64x32."""
    memory = MemoryConfig(key_channels=4, value_channels=8, window=5, memory_frames=3)
    return save_random_weights(tmp_path_factory.mktemp("weights") / "video.safetensors", memory)


@pytest.fixture(scope="session")
def following_weights(tmp_path_factory):
    """The same with a memory that follows the motion of the picture."""
    memory = MemoryConfig(8, 8, window=5, memory_frames=3, position_bias=20.0, motion_compensation=True)
    return save_random_weights(tmp_path_factory.mktemp("weights") / "following.safetensors", memory)


@pytest.fixture(scope="session")
def single_frame_weights(tmp_path_factory):
    """A weights file without memory, for 64x32."""
    return save_random_weights(tmp_path_factory.mktemp("weights") / "image.safetensors", None)
