"""A geometry plan carried out on a device: the image to the network's size, planes back to the output's.

Two kernels behind one pair of calls. On a CPU OpenCV resizes; on a GPU, where an image must not come back to the host, gathers
with the same weights do. Labels and confidence come back by exactly the same pixels either way; a resized image may differ by 1
of 255 in few pixels, where an average lies between two numbers (`test_cuda_graph.py`).
"""

from __future__ import annotations

import torch

from lmanet_core.geometry import LETTERBOX_GREY, GeometryPlan
from lmanet_core.labels import UNLABELLED


class HostResampling:
    """By OpenCV. Images are given at the network's size already, since motion is measured on the host, too.

    Args:
        plan: for images of one size.
    """

    def __init__(self, plan: GeometryPlan) -> None:
        self._plan = plan

    def to_network(self, image: torch.Tensor) -> torch.Tensor:
        """(h, w, 3) uint8 → the same as float32."""
        return image.float()

    def labels_to_output(self, labels: torch.Tensor) -> torch.Tensor:
        """(h, w) uint8 at the network's size → (H, W) at the output's."""
        return torch.from_numpy(self._plan.labels_to_output(labels.numpy()))

    def confidence_to_output(self, confidence: torch.Tensor) -> torch.Tensor:
        """(h, w) uint8 at the network's size → (H, W) at the output's."""
        return torch.from_numpy(self._plan.confidence_to_output(confidence.numpy()))


class DeviceResampling:
    """By gathers, whose tables are made once.

    Args:
        plan: for images of one size.
        device: where they are.
    """

    def __init__(self, plan: GeometryPlan, device: torch.device) -> None:
        self._plan = plan
        (rows, row_weights), (columns, column_weights) = plan.input_taps()
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
        weights = (torch.from_numpy(one).to(device) for one in (row_weights, column_weights))
        self._row_weights, self._column_weights = weights if plan.averages else (one.mul(2048).int() for one in weights)
        self._resizes = plan.camera_size != plan.network_size
        canvas = torch.full((*plan.network_size, 3), float(LETTERBOX_GREY), device=device)
        self._canvas = canvas if plan.has_bars else None
        row_source, column_source = (torch.from_numpy(source).to(device) for source in plan.output_sources())
        self._row_source, self._column_source = row_source.clamp(min=0), column_source.clamp(min=0)
        outside = (row_source < 0)[:, None] | (column_source < 0)[None, :]
        self._outside = outside if bool(outside.any()) else None

    def to_network(self, image: torch.Tensor) -> torch.Tensor:
        """(H, W, 3) uint8 at the camera's size → (h, w, 3) float32, whole numbers of 0–255."""
        if not self._resizes:
            return image.float()
        pixels = image.float() if self._plan.averages else image.int()
        total = pixels.dtype
        across = (pixels[:, self._columns] * self._column_weights[:, :, None]).sum(2, dtype=total)  # (H, w, 3)
        weights = self._row_weights[:, :, None, None]
        if self._plan.averages:
            pixels = (across[self._rows] * weights).sum(1).add_(0.5).floor_()  # halves go up
        else:  # in whole numbers, rounded where OpenCV rounds
            pixels = ((across[self._rows] >> 4) * weights >> 16).sum(1, dtype=total).add_(2).bitwise_right_shift_(2).float()
        if self._canvas is None:
            return pixels
        canvas = self._canvas.clone()
        canvas[self._plan.landing] = pixels
        return canvas

    def labels_to_output(self, labels: torch.Tensor) -> torch.Tensor:
        """(h, w) uint8 at the network's size → (H, W) at the output's."""
        return self._to_output(labels, UNLABELLED)

    def confidence_to_output(self, confidence: torch.Tensor) -> torch.Tensor:
        """(h, w) uint8 at the network's size → (H, W) at the output's."""
        return self._to_output(confidence, 0)

    def _to_output(self, plane: torch.Tensor, outside: int) -> torch.Tensor:
        plane = plane[self._row_source][:, self._column_source]
        return plane if self._outside is None else plane.masked_fill(self._outside, outside)


def resampling_for(plan: GeometryPlan, device: torch.device) -> HostResampling | DeviceResampling:
    """What carries out a plan on a device."""
    return HostResampling(plan) if device.type == "cpu" else DeviceResampling(plan, device)
