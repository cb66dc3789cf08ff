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

_SIDE = 8  # of a square, pixels
_STEP = 4  # from square to square
_ROUNDS = 3  # of trying what the neighbours have found …
_DESCENTS = 2  # … and going downhill from the best of it
_FARTHEST = 8.0  # pixels from where a descent began; what ends farther away is an error
_RIDGE = 10.0  # squared grey levels to a pixel; squares without texture stay where they are
_SURE = 1.0  # grey levels; pixels that differ by less count alike where squares overlap
_SMOOTHS = 1.0  # squared grey levels of a square that its flow may cost to be the median of its surroundings
_NEIGHBOURS = ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1))  # itself first; of a grid with a border of one
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
    """The search at one resolution. n squares; a shift is (B, n, 2), pixels to the right and down."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size = size
        self._counts = Size(*(math.ceil((side - _SIDE) / _STEP) + 1 for side in size))
        reached = (_STEP * (count - 1) + _SIDE for count in self._counts)
        self._whole = Size(*reached)  # of squares, a little more than the picture
        self._margin = (0, self._whole.width - size.width, 0, self._whole.height - size.height)
        rows, columns = (
            (_STEP * torch.arange(count)[:, None] + torch.arange(_SIDE)).float().to(device) for count in self._counts
        )
        shape = (*self._counts, _SIDE, _SIDE)
        places = torch.stack((columns[None, :, None, :].expand(shape), rows[:, None, :, None].expand(shape)), -1)
        self._unit = 2.0 / torch.tensor([size.width - 1.0, size.height - 1.0], device=device)  # of `grid_sample`, in pixels
        self._places = places.reshape(1, -1, _SIDE**2, 2) * self._unit - 1.0
        slope = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=device) / 8.0
        self._slopes = torch.stack((slope, slope.T))[:, None]

    def search(self, before: torch.Tensor, after: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 1, h, w) and a first guess of the flow (B, 2, h, w) → the flow."""
        template = self._squares(pad(before, self._margin, mode="replicate"))
        template = template - template.mean(-1, keepdim=True)
        downhill = self._downhill(before)
        shift = avg_pool2d(pad(start, self._margin, mode="replicate"), _SIDE, _STEP)
        shift = shift.flatten(2).transpose(1, 2)
        for turn in range(_ROUNDS):
            begin, cost = self._best(after, template, self._neighbours(shift, with_none=turn == 0))
            shift = begin
            for _ in range(_DESCENTS):
                shift = shift - (downhill * self._differs(after, template, shift)[:, :, None]).sum(-1)
            near = (shift - begin).square().sum(-1, keepdim=True) < _FARTHEST**2
            better = self._cost(after, template, shift)[..., None] <= cost[..., None]
            shift = torch.where(near & better, shift, begin)
        smooth = self._median(shift)
        gain = self._cost(after, template, smooth) <= self._cost(after, template, shift) + _SMOOTHS
        return self._dense(after, template, torch.where(gain[..., None], smooth, shift))

    def _squares(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) of whole squares → (B, n, C · 64)."""
        return unfold(pictures, _SIDE, stride=_STEP).transpose(1, 2)

    def _downhill(self, before: torch.Tensor) -> torch.Tensor:
        """(B, n, 2, 64): what a grey level of difference at each pixel of a square says of its shift (Gauss–Newton)."""
        slopes = conv2d(pad(before, (1, 1, 1, 1), mode="replicate"), self._slopes)
        slopes = self._squares(pad(slopes, self._margin, mode="replicate")).view(len(before), -1, 2, _SIDE**2)
        slopes = slopes - slopes.mean(-1, keepdim=True)  # brightness is free
        xx, yy = (slopes.square().sum(-1) + _RIDGE).unbind(-1)
        xy = (slopes[:, :, 0] * slopes[:, :, 1]).sum(-1)
        inverse = torch.stack((yy, -xy, -xy, xx), -1) / (xx * yy - xy * xy)[..., None]
        x, y = slopes[:, :, :1], slopes[:, :, 1:]
        return inverse[..., 0::2, None] * x + inverse[..., 1::2, None] * y

    def _seen(self, after: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, n, 64): the other picture where squares are, shifted."""
        places = torch.addcmul(self._places, shift[:, :, None], self._unit)
        return grid_sample(after, places, align_corners=True, padding_mode="border")[:, 0]

    def _differs(self, after: torch.Tensor, template: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, n, 64): grey levels between a square and what is seen, whatever its brightness."""
        seen = self._seen(after, shift)
        return seen - seen.mean(-1, keepdim=True) - template

    def _cost(self, after: torch.Tensor, template: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, n): squared difference."""
        return self._differs(after, template, shift).square().sum(-1)

    def _neighbours(self, shift: torch.Tensor, with_none: bool) -> torch.Tensor:
        """(K, B, n, 2): a square's own shift, those of the four beside it, and none."""
        height, width = self._counts
        bordered = pad(self._on_grid(shift), (1, 1, 1, 1), mode="replicate")
        around = [bordered[..., down : down + height, right : right + width] for down, right in _NEIGHBOURS]
        if with_none:
            around.append(torch.zeros_like(around[0]))
        return torch.stack(around).flatten(3).transpose(2, 3)

    def _best(self, after: torch.Tensor, template: torch.Tensor, shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of several shifts (K, B, n, 2) that of the least cost, (B, n, 2), and its cost, (B, n)."""
        costs = torch.stack([self._cost(after, template, shift) for shift in shifts])
        cost, which = costs.min(0)
        return shifts.gather(0, which[None, ..., None].expand(1, *shifts.shape[1:]))[0], cost

    def _median(self, shift: torch.Tensor) -> torch.Tensor:
        """The median of a square's shift and those of the eight around it."""
        around = unfold(pad(self._on_grid(shift), (1, 1, 1, 1), mode="replicate"), 3).view(len(shift), 2, 9, -1)
        return around.sort(2).values[:, :, 4].transpose(1, 2)

    def _on_grid(self, shift: torch.Tensor) -> torch.Tensor:
        """(B, n, 2) → (B, 2, rows of squares, columns)."""
        return shift.transpose(1, 2).reshape(-1, 2, *self._counts)

    def _dense(self, after: torch.Tensor, template: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, 2, h, w): of the squares over a pixel, those that match there count most."""
        sure = self._differs(after, template, shift).abs().clamp_(min=_SURE).reciprocal_()
        parts = torch.cat((sure[..., None] * shift[:, :, None], sure[..., None]), -1)  # (B, n, 64, 3)
        planes = fold(parts.permute(0, 3, 2, 1).flatten(1, 2), self._whole, _SIDE, stride=_STEP)
        planes = planes[..., : self.size.height, : self.size.width]
        return planes[:, :2] / planes[:, 2:]
