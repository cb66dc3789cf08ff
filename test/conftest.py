"""What tests of several folders need: the outlines of the weight files that others published."""

from __future__ import annotations

import re

import pytest

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
