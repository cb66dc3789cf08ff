"""Which sizes of input a network takes."""

from __future__ import annotations

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import Size, fit_network_size
from lmanet_core.network import Backbone


def fit_to_backbone(camera_size: Size, max_pixels: int, backbone: Backbone) -> Size:
    """The size of the network's input for a camera, see `fit_network_size`; the only one where the network takes but one."""
    if backbone.fixed_size is not None:
        return Size(*backbone.fixed_size)
    return fit_network_size(camera_size, max_pixels, backbone.size_multiple or backbone.stride, backbone.size_remainder)


def require_allowed(size: Size, backbone: Backbone) -> None:
    """Raises ConfigError where a network does not take input of this size; the nearest one is named."""
    if backbone.fixed_size is not None:
        if size != backbone.fixed_size:
            raise ConfigError(f"network_size: this network takes {Size(*backbone.fixed_size)} only, got {size}; leave it out")
        return
    multiple, remainder = backbone.size_multiple or backbone.stride, backbone.size_remainder
    if any(side % multiple != remainder for side in size):
        raise ConfigError(
            f"network sides must be {multiple}·n{f' + {remainder}' if remainder else ''}, got {size}; "
            f"nearest is {fit_to_backbone(size, size.height * size.width, backbone)}"
        )
