"""Labels to learn from, made by the weights themselves with more than they have on a robot: time, and the future.

    each frame → as it is and mirrored, at every scale, by every teacher → mean ─┐
    the frames before → label memory forwards ───────────────────────────────────┼→ mean of the two → soft labels
    the frames after  → label memory backwards ──────────────────────────────────┘

Where the past and the future disagree, their mean is unsure. Of each class the surest pixels count, so that rare classes are
learned from too (class-balanced self-training, Zou et al., 2018); the rest is void.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lmanet_core.adaptation.mirror import class_shares
from lmanet_core.arrays import UInt8Array
from lmanet_core.data.recorded_clips import KINDS, RecordedClips, pack_soft
from lmanet_core.files import replace_file
from lmanet_core.geometry import Size, plan_geometry, resize_image
from lmanet_core.labels import UNLABELLED
from lmanet_core.media.sinks import make_folder, write_png
from lmanet_core.stream.label_memory import LabelMemory, blend, likeliest
from lmanet_core.stream.stream_plan import fit_to_backbone
from lmanet_core.weights.runtime import Runtime

_LEAST_SHARE = 1e-6
THRESHOLDS = "thresholds.json"


class Teacher:
    """Labels clips. One thread at a time.

    Args:
        runtimes: of the teachers, all with the same classes.
        scales: shares of the network's size.
    """

    def __init__(self, runtimes: Sequence[Runtime], scales: Sequence[float] = (1.0,)) -> None:
        self._runtimes, self._scales = runtimes, scales
        self._shares: dict[str, torch.Tensor] = {}  # of the frames of the last clip, which the next one may have, too

    def label(self, clips: RecordedClips, index: int) -> tuple[UInt8Array, UInt8Array, UInt8Array]:
        """Soft labels of the last frame of a clip.

        Returns:
            The `KINDS` likeliest classes (K, H, W) uint8; their shares of 255; how sure the first is (H, W), of 255.

        Raises:
            InputError: a frame that cannot be read.
        """
        past, following = clips.list.clips[index], clips.list.following[index]
        images = {name: clips.image(name) for name in (*past, *following)}
        known = self._shares
        self._shares = {name: known[name] if name in known else self._look(image) for name, image in images.items()}
        last = past[-1]
        shares = self._shares[last].float()[0]
        if len(images) > 1:
            ways = (past, (*reversed(following), last))
            shares = torch.stack([self._believe(images, way, len(shares)) for way in ways]).mean(0)
        top, classes = shares.topk(min(KINDS, len(shares)), 0)
        top, classes = (_padded(planes, KINDS) for planes in (top, classes))
        parts = top / top.sum(0, keepdim=True).clamp(min=_LEAST_SHARE)
        planes = (classes, parts * 255.0, top[0].clamp(max=1.0) * 255.0)
        kinds, wanted, certain = (plane.round().byte().cpu().numpy() for plane in planes)
        return kinds, wanted, certain

    def _look(self, image: UInt8Array) -> torch.Tensor:
        """(1, C, H, W): the mean of what all teachers say at all scales."""
        size, seen = Size(*image.shape[:2]), []
        for runtime in self._runtimes:
            for scale in self._scales:
                wanted = Size(round(size.height * scale), round(size.width * scale))
                inner = fit_to_backbone(wanted, wanted.height * wanted.width, runtime.network.backbone)
                plan, scaled = plan_geometry(size, inner, "input"), resize_image(image, inner)
                for mirrored in (False, True):
                    shares = class_shares(runtime, scaled, mirrored).cpu()
                    seen.append(shares if inner == size else plan.logits_to_output(shares))
        return torch.stack(seen).mean(0).half()

    def _believe(self, images: dict[str, UInt8Array], names: Sequence[str], classes: int) -> torch.Tensor:
        """(C, H, W): what a label memory believes after these frames."""
        memory = LabelMemory()
        for name in names:
            view = memory.view(images[name])
            evidence = None if view.evidence is None else torch.from_numpy(view.evidence)
            logits = self._shares[name].float().clamp(min=_LEAST_SHARE).log()
            _, _, belief = blend(logits, memory.belief, evidence)
            memory.commit(view, belief)
        kinds, shares = likeliest(belief)
        dense = torch.zeros(classes, *shares.shape[1:])
        return dense.scatter_add_(0, kinds.long(), shares)


def label_clips(root: Path, teacher: Teacher, keep: float, sure: float, advance: Callable[[], None]) -> None:
    """Write soft labels and label maps of all clips of a folder, and the thresholds last; what is there already stays.

    Args:
        root: see `recorded_clips`.
        teacher: who labels.
        keep: share of each class's pixels that counts, the surest first.
        sure: probability from which on a pixel counts, whatever its class.
        advance: called after each clip.

    Raises:
        InputError: a frame that cannot be read.
        OutputError: no space, or not permitted.
    """
    clips = RecordedClips(root)
    for folder in ("soft", "labels", "certain"):
        make_folder(root / folder)
    counts = np.zeros((len(clips.labels.names), 256), np.int64)
    for index in range(len(clips)):
        name = clips.name(index)
        soft, certain = root / "soft" / f"{name}.png", root / "certain" / f"{name}.png"
        if not soft.is_file():
            kinds, shares, how_sure = teacher.label(clips, index)
            write_png(certain, how_sure)
            write_png(soft, pack_soft(kinds, shares))
        kinds, how_sure = clips.soft(name)[0], clips.certain(name)
        counts += np.bincount(kinds.ravel().astype(np.int64) * 256 + how_sure.ravel(), minlength=counts.size).reshape(
            counts.shape
        )
        advance()
    thresholds = class_thresholds(counts, keep, sure)
    for index in range(len(clips)):
        name = clips.name(index)
        kinds, how_sure = clips.soft(name)[0], clips.certain(name)
        write_png(root / "labels" / f"{name}.png", np.where(how_sure >= thresholds[kinds], kinds, np.uint8(UNLABELLED)))
    pixels = counts.sum(1)
    with replace_file(root / THRESHOLDS) as file:
        said = {
            kind: {"threshold": round(int(threshold) / 255, 3), "share": round(float(count / pixels.sum()), 5)}
            for kind, threshold, count in zip(clips.labels.names, thresholds, pixels, strict=True)
            if count
        }
        file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def class_thresholds(counts: npt.NDArray[np.int64], keep: float, sure: float) -> npt.NDArray[np.int64]:
    """(classes,) how sure a pixel must be to count, of 255.

    Args:
        counts: (classes, 256) pixels by class and by how sure they are.
        keep, sure: see `label_clips`.
    """
    at_least = counts[:, ::-1].cumsum(1)[:, ::-1]  # so sure or surer
    enough = at_least >= keep * counts.sum(1, keepdims=True)
    highest = 255 - enough[:, ::-1].argmax(1)
    thresholds: npt.NDArray[np.int64] = np.minimum(highest, round(255 * sure))
    return thresholds


def _padded(planes: torch.Tensor, count: int) -> torch.Tensor:
    """More planes, of class 0 with nothing, where there are fewer classes."""
    missing = planes.new_zeros(max(0, count - len(planes)), *planes.shape[1:])
    return torch.cat((planes, missing))
