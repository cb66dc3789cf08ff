"""Weights that their authors publish, by name. None of them is part of this package; each has a licence of its own.

What stands here was read where the authors say it. What could not be verified is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmanet_core.errors import ConfigError, suggest_name


@dataclass(frozen=True)
class KnownWeights:
    """Published weights.

    Attributes:
        name: to fetch them by.
        data_set: that they were trained on.
        miou: as their authors say.
        licence: likewise.
        address: of the file; of a model on the Hugging Face hub `hf:owner/name`, which its own client fetches.
        file: what to call the file.
        git_blob: SHA-1 of the file as git counts it, over its size and its content.
        size: bytes; None: not published, and covered by the hash.
    """

    name: str
    data_set: str
    miou: str
    licence: str
    address: str
    file: str = ""
    git_blob: str = ""
    size: int | None = None

    @property
    def on_hub(self) -> bool:
        """Whether `--weights ADDRESS` is all there is to do."""
        return self.address.startswith("hf:")


_HUB_LICENCE = "other: see the model's card, SegFormer's is for research"

CATALOGUE: tuple[KnownWeights, ...] = (
    KnownWeights(
        "erfnet_cityscapes",
        "Cityscapes, 19 classes",
        "72.1 val, 69.8 test",
        "CC BY-NC 4.0: personal and research use only; https://creativecommons.org/licenses/by-nc/4.0/",
        "https://raw.githubusercontent.com/Eromera/erfnet_pytorch/d4a46faf9e465286c89ebd9c44bc929b2d213fb3/"
        "trained_models/erfnet_pretrained.pth",
        "erfnet_pretrained.pth",
        "44fc485db5072d2144f58d520c2694a2e5b44ac4",
    ),
    KnownWeights(
        "segformer_b0_cityscapes",
        "Cityscapes, 19 classes",
        "",
        _HUB_LICENCE,
        "hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024",
    ),
    KnownWeights(
        "segformer_b4_cityscapes",
        "Cityscapes, 19 classes",
        "",
        _HUB_LICENCE,
        "hf:nvidia/segformer-b4-finetuned-cityscapes-1024-1024",
    ),
    KnownWeights(
        "segformer_b0_ade20k", "ADE20K, 150 classes", "", _HUB_LICENCE, "hf:nvidia/segformer-b0-finetuned-ade-512-512"
    ),
)


def find_weights(name: str) -> KnownWeights:
    """The entry of this name; raises ConfigError, which names the nearest."""
    known = {one.name: one for one in CATALOGUE}
    if name not in known:
        raise ConfigError(f"no known weights {name!r}{suggest_name(name, known, 'known:')}")
    return known[name]
