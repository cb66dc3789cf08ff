"""Where what was seen is now, for pictures on a GPU: `motion.PictureMotion` and the moving of places on tensors.

The same formulas and constants; see there.
"""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample

from lmanet_core.geometry import Size
from lmanet_core.stream import motion
from lmanet_core.stream.picture_tensors import Places, blurred, box, filtered, resized, slope_kernels, solved

_ROUNDS = 5  # of fitting, each of which takes a GPU thirty kernels; on the host there are three more


class BlockMotion:
    """How far blocks of a thumbnail have moved, and with them remembered positions, see `motion.PictureMotion`.

    Args:
        size: of the thumbnails.
        grid: of the features.
        device: where they are.
    """

    def __init__(self, size: Size, grid: Size, device: torch.device) -> None:
        self._places = Places(size, device)
        blocks = Size(*(max(1, side // motion.BLOCK) for side in size))
        self._coarser, self._blurred = resized(size, blocks, device), blurred(blocks, motion.SPREAD, device)
        self._to_grid = resized(blocks, grid, device)
        self._cells = torch.tensor([grid.width / size.width, grid.height / size.height], device=device)[:, None, None]
        terms = motion.quadratic_terms(*blocks)
        self._terms = torch.from_numpy(terms).float().to(device)  # (n, 6)
        self._ridge = torch.from_numpy(motion.RIDGE).float().to(device)
        self._least = 1e-6 * torch.eye(6, device=device)
        self._slopes = slope_kernels(device)
        self._unit = 2.0 / torch.tensor([max(1, side - 1) for side in grid], device=device).float()[:, None, None]

    def __call__(self, before: torch.Tensor, after: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Where each cell of the features has moved to.

        Args:
            before, after: (h, w), grey.
            flow: (2, h, w), pixels to the right and down from each pixel of `before`.

        Returns:
            (2, rows, columns) float32, cells down and right.
        """
        trust = self._trust(before, after, flow)
        block_trust, *mean = self._coarser(torch.cat((trust[None], flow * trust)))
        flows = torch.stack(mean) / block_trust.clamp(min=1e-4)
        smooth = self._fit(flows, block_trust)
        own = flows - smooth
        block_trust = block_trust * (own.square().sum(0) < motion.FARTHEST**2)
        share, *own_parts = self._blurred(torch.cat((block_trust[None], own * block_trust)))
        moved = smooth + torch.stack(own_parts) / (share + motion.LEAST_TRUST)
        return self._to_grid(moved).mul_(self._cells).flip(0)

    def move(self, positions: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Places (T, 2, rows, columns) in one frame, in cells down and right → the same in the next."""
        places = (positions * self._unit - 1.0).permute(0, 2, 3, 1).flip(-1)
        steps = grid_sample(shift.expand(len(positions), -1, -1, -1), places, align_corners=True, padding_mode="border")
        return positions + steps

    def _trust(self, before: torch.Tensor, after: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        arrived, margin = self._places.arrive(after[None], flow)
        arrived, inside = arrived[0].round_(), margin > 0
        disagreement = box((arrived * inside - before).abs(), motion.BLUR)
        texture = filtered(before, self._slopes).square().sum(0).sqrt_()
        return inside * torch.exp(disagreement / -motion.DISAGREEMENT) * texture / (texture + motion.TEXTURE)

    def _fit(self, flow: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """The motion, quadratic in x and y, that most of a flow (2, rows, columns) follows."""
        wanted = flow.flatten(1).T
        weight = trust.flatten() + 1e-4
        near = torch.ones_like(weight)
        fitted = wanted
        for tolerance in motion.TOLERANCES[:_ROUNDS]:
            counts = weight * near
            weighted = self._terms.T * counts
            matrix = weighted @ self._terms + counts.sum() * self._ridge + self._least
            fitted = self._terms @ solved(matrix, weighted @ wanted)
            near = (1.0 + (wanted - fitted).square().sum(1) / tolerance**2).pow_(-2.0)
        return fitted.T.reshape(flow.shape)
