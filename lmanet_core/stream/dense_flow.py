"""Optical flow on tensors, for pictures that are on a GPU and stay there: dense inverse search.

Squares of one picture are searched for in the other, from coarse to fine (Kroeger et al., "Fast Optical Flow using Dense
Inverse Search", 2016, arXiv 1603.03590). OpenCV's own (`cv2.DISOpticalFlow`) scans them, so that each square waits for the one
before it. Here all squares at once try what their neighbours have found, for some rounds. Work and shapes are fixed and nothing
waits for the host, so that it can be captured in a CUDA graph. On a CPU OpenCV's is many times faster.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool2d, conv2d, fold, grid_sample, interpolate, pad, unfold

from lmanet_core.geometry import Size
from lmanet_core.stream.picture_tensors import slope_kernels

_SIDE = 8  # of a square, pixels
_STEP = 4  # from square to square
_ROUNDS = 2  # of trying what the neighbours have found …
_DESCENTS = 3  # … and going downhill from the best of it
_FARTHEST = 8.0  # pixels that a round may go along either axis
_RIDGE = 10.0  # squared grey levels to a pixel; squares without texture stay where they are
_SURE = 1.0  # grey levels; pixels that differ by less count alike where squares overlap
_SMOOTHS = 1.0 / _SIDE**2  # squared grey levels a pixel that it may cost to be the median of the surroundings
_NEIGHBOURS = ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1))  # itself first; on a grid with a border of one
_COARSEST_SIDE = 32  # pixels of the longer side


class DenseFlow:
    """Flow between pictures of one size.

    Args:
        size: of the pictures, at least 8 pixels a side.
        device: where they are.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        self._levels = [_Level(size, device)]
        halvings = min(int(math.log2(max(size) / _COARSEST_SIDE) + 0.5), int(math.log2(min(size) / _SIDE)))
        for _ in range(halvings):
            size = Size(math.ceil(size.height / 2), math.ceil(size.width / 2))
            self._levels.append(_Level(size, device))

    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """How far each pixel of `before` is from where it is in `after`.

        Args:
            before, after: (B, h, w) float32, grey levels 0–255.

        Returns:
            (B, 2, h, w) float32, pixels to the right and down.
        """
        pairs = [torch.stack((before, after))]
        for _ in self._levels[1:]:
            pairs.append(avg_pool2d(pairs[-1], 2, ceil_mode=True))
        flow: torch.Tensor | None = None
        for level, (one, other) in reversed(list(zip(self._levels, pairs, strict=True))):
            if flow is None:
                flow = one.new_zeros(len(one), 2, *level.size)
            else:
                finer = interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False) * 2.0
                flow = finer[..., : level.size.height, : level.size.width]
            flow = level.search(one[:, None], other[:, None], flow)
        assert flow is not None
        return flow


class _Level:
    """The search at one resolution. n squares; a shift is (B, 2, n), pixels to the right and down."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size = size
        self._counts = Size(*(math.ceil((side - _SIDE) / _STEP) + 1 for side in size))
        # what squares cover, a little more than the picture
        self._whole = Size(*(_STEP * (count - 1) + _SIDE for count in self._counts))
        self._margin = (0, self._whole.width - size.width, 0, self._whole.height - size.height)
        rows, columns = (
            (_STEP * torch.arange(count)[:, None] + torch.arange(_SIDE)).float().to(device) for count in self._counts
        )
        shape = (*self._counts, _SIDE, _SIDE)
        places = torch.stack((columns[None, :, None, :].expand(shape), rows[:, None, :, None].expand(shape)), -1)
        self._unit = 2.0 / torch.tensor([size.width - 1.0, size.height - 1.0], device=device)  # of `grid_sample`, in pixels
        self._places = places.reshape(1, 1, -1, _SIDE**2, 2) * self._unit - 1.0
        numbers = torch.arange((self._counts.height + 2) * (self._counts.width + 2)).view(-1, self._counts.width + 2)
        around = [numbers[y : y + self._counts.height, x : x + self._counts.width].flatten() for y, x in _NEIGHBOURS]
        self._around = torch.cat(around).to(device)  # of each square itself and the four beside it, on the bordered grid
        self._slopes = slope_kernels(device)[:, None]

    def search(self, before: torch.Tensor, after: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 1, h, w) and a first guess of the flow (B, 2, h, w) → the flow."""
        template = self._squares(pad(before, self._margin, mode="replicate"))[:, None]  # (B, 1, n, 64)
        downhill = self._downhill(before)
        shift = avg_pool2d(pad(start, self._margin, mode="replicate"), _SIDE, _STEP).flatten(2)
        begin = torch.zeros_like(shift)
        for _ in range(_ROUNDS):
            around = self._bordered(shift).flatten(2).index_select(2, self._around)
            begin = self._best(after, template, torch.cat((begin, around), 2))
            shift = begin
            for _ in range(_DESCENTS):
                differs = self._seen(after, shift) - template
                shift = shift - (downhill * differs).sum(-1)
            shift = begin + (shift - begin).clamp_(-_FARTHEST, _FARTHEST)
        median = unfold(self._bordered(shift), 3).view(len(shift), 2, 9, -1).sort(2).values[:, :, 4]
        return self._dense(after, template, self._best(after, template, torch.cat((median, begin, shift), 2), _SMOOTHS))

    def _bordered(self, shift: torch.Tensor) -> torch.Tensor:
        """(B, 2, n) → (B, 2, rows of squares + 2, columns + 2)."""
        return pad(shift.reshape(-1, 2, *self._counts), (1, 1, 1, 1), mode="replicate")

    def _squares(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) of whole squares → (B, n, C · 64)."""
        return unfold(pictures, _SIDE, stride=_STEP).transpose(1, 2)

    def _downhill(self, before: torch.Tensor) -> torch.Tensor:
        """(B, 2, n, 64): what a grey level of difference at each pixel of a square says of its shift (Gauss–Newton)."""
        slopes = conv2d(pad(before, (1, 1, 1, 1), mode="replicate"), self._slopes)
        slopes = unfold(pad(slopes, self._margin, mode="replicate"), _SIDE, stride=_STEP)
        slopes = slopes.view(len(before), 2, _SIDE**2, -1).transpose(2, 3)
        slopes = slopes - slopes.mean(-1, keepdim=True)  # brightness is free
        xx, yy = (slopes.square().sum(-1) + _RIDGE).unbind(1)
        xy = (slopes[:, 0] * slopes[:, 1]).sum(-1)
        crossed = torch.stack((yy, xx), 1)[..., None] * slopes - xy[:, None, :, None] * slopes.flip(1)
        return crossed / (xx * yy - xy * xy)[:, None, :, None]

    def _seen(self, after: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        """The other picture where squares are that have been shifted, (B, 2, K · n) → (B, K, n, 64)."""
        moved = shifts.transpose(1, 2).reshape(len(shifts), -1, self._places.shape[2], 1, 2)
        places = torch.addcmul(self._places, moved, self._unit)
        seen = grid_sample(after, places.flatten(1, 2), align_corners=True, padding_mode="border")
        return seen.view(places.shape[:-1])

    def _best(self, after: torch.Tensor, template: torch.Tensor, shifts: torch.Tensor, lead: float = 0.0) -> torch.Tensor:
        """Of several shifts (B, 2, K · n) those with which squares differ least, whatever their brightness, (B, 2, n).

        Args:
            after: the other picture.
            template: the squares.
            shifts: to choose from.
            lead: squared grey levels a pixel by which the first may be worse.
        """
        costs = (self._seen(after, shifts) - template).var(-1, correction=0)
        if lead:
            costs[:, 0] -= lead
        which = costs.argmin(1)[:, None, None].expand(-1, 2, 1, -1)
        return shifts.view(len(shifts), 2, costs.shape[1], -1).gather(2, which)[:, :, 0]

    def _dense(self, after: torch.Tensor, template: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, 2, h, w): of the squares over a pixel, those that match there count most."""
        differs = self._seen(after, shift) - template
        sure = (differs - differs.mean(-1, keepdim=True)).abs().clamp_(min=_SURE).reciprocal_()  # (B, 1, n, 64)
        parts = torch.cat((sure * shift[..., None], sure), 1)
        planes = fold(parts.transpose(2, 3).flatten(1, 2), self._whole, _SIDE, stride=_STEP)
        planes = planes[..., : self.size.height, : self.size.width]
        return planes[:, :2] / planes[:, 2:]
