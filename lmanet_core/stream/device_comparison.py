"""How much of the past labels still holds, for pictures on a GPU: `label_evidence.PictureComparison` on tensors.

The same formulas and constants; see there.
"""

from __future__ import annotations

import torch

from lmanet_core.geometry import Size
from lmanet_core.stream import label_evidence as evidence
from lmanet_core.stream.picture_tensors import Picture, Places, blurred, box, dilated, eroded, filtered, resized

_EDGE = 0.02  # pixels outside that are still inside: a still picture's flow is not exactly 0
_TURNS = 4  # that a patch may wind and still be one


class Comparison:
    """What two thumbnails say of the labels of the past, see `label_evidence.PictureComparison`.

    Args:
        size: of the thumbnails.
        device: where they are.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        self._size = size
        self._places = Places(size, device)
        coarse = Size(*(max(1, side // evidence.COARSE) for side in size))
        self._coarser, self._finer = resized(size, coarse, device), resized(coarse, size, device)
        self._near, self._far = (blurred(coarse, sigma, device) for sigma in evidence.SURROUNDINGS)
        self._numbers = torch.arange(1, size.height * size.width + 1, dtype=torch.int32, device=device).view(size)
        self._second = torch.from_numpy(evidence.SECOND_DERIVATIVE).to(device)[None]

    def __call__(self, now: Picture, past: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What holds of the labels of the picture before.

        Args:
            now: this picture.
            past: (3, h, w), the colours of the one before.
            flow: (2, h, w), pixels to the right and down from each pixel to where it was.

        Returns:
            (3, h, w) as `PictureComparison.compare` gives it, and the colours to compare the next picture with.
        """
        flat = _flat(now.colours)
        flow = self._filled(flow, dilated(flat[None], evidence.MARGIN)[0] == 0)
        came, margin = self._places.arrive(past, flow)
        came, inside = came.round_(), margin >= -_EDGE
        difference = box((came - now.colours).abs().mean(0), evidence.BLUR)
        noise = (self._noise(now.grey) - evidence.FREE_NOISE).clamp_(min=0.0)
        difference = (difference - evidence.NOISE_DIFFERENCE * noise).clamp_(min=0.0)
        contrast = (now.grey.std(correction=0) / evidence.CONTRAST).clamp_(evidence.LEAST_CONTRAST, 1.0)
        tolerance = evidence.TOLERANCE * contrast
        holds = torch.exp(-(difference / tolerance).square()) * inside
        lost = self._lost(flat, difference > evidence.DIFFERS * tolerance) & inside
        holds = holds.masked_fill(lost, evidence.LOST)
        right, down = flow
        found = torch.stack((down / self._size.height, right / self._size.width, holds))
        return found, torch.where(lost, came, now.colours)

    def _filled(self, flow: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        weight = known.float()
        coarse = self._coarser(torch.cat((flow * weight, weight[None])))
        coarse = self._near(coarse) + 1e-2 * self._far(coarse) + 1e-6 * coarse.mean((1, 2), keepdim=True)
        return torch.where(known, flow, self._finer(coarse[:2] / coarse[2:].clamp(min=1e-9)))

    def _noise(self, grey: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise, grey levels."""
        ordered = filtered(grey, self._second).abs().flatten().sort().values
        count = len(ordered)
        median = ordered[(count - 1) // 2 : count // 2 + 1].mean()
        return median / evidence.NOISE_MEDIAN

    def _lost(self, flat: torch.Tensor, differs: torch.Tensor) -> torch.Tensor:
        """(h, w) bool: flat patches that look different from what was there, and a margin around them."""
        patches = self._patches(flat > 0).flatten()
        counted = torch.stack((torch.ones_like(flat), differs.float())).flatten(1)
        sums = counted.new_zeros(2, len(patches) + 1).index_add_(1, patches, counted)
        changed = (sums[1] > evidence.LOST_SHARE * sums[0])[patches].view(flat.shape)
        return dilated((changed * flat)[None], evidence.MARGIN)[0] > 0

    def _patches(self, flat: torch.Tensor) -> torch.Tensor:
        """(h, w) int32: of each flat pixel the highest number of its patch, 0 elsewhere. One that winds often is several."""
        numbers, most = self._numbers * flat, self._numbers.numel() + 1
        # what is not flat counts runs, so that the highest so far is that of this run
        runs = {axis: (~flat).cumsum(axis, dtype=torch.int32) * most for axis in (0, 1)}
        back = {axis: (~flat).flip(axis).cumsum(axis, dtype=torch.int32) * most for axis in (0, 1)}
        for axis in (1, 0) * _TURNS:
            ahead = (runs[axis] + numbers).cummax(axis).values - runs[axis]
            behind = (back[axis] + ahead.flip(axis)).cummax(axis).values - back[axis]
            numbers = behind.flip(axis) * flat
        return numbers


def _flat(colours: torch.Tensor) -> torch.Tensor:
    """(h, w) 1.0 where the picture is of one colour over a whole window, else 0.0."""
    side = evidence.FLAT_SIDE
    span = dilated(colours, side) - eroded(colours, side)
    flat = (span.amax(0, keepdim=True) <= evidence.FLAT).float()
    return dilated(eroded(flat, side), side)[0]
