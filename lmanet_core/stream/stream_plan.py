"""What size the network sees of a stream's images, and the plan of how they get there and back."""

from __future__ import annotations

from lmanet_core.errors import ConfigError
from lmanet_core.geometry import GeometryPlan, Size, fit_network_size, parse_size, plan_geometry, turn_plan, turn_size
from lmanet_core.network.backbone import Backbone
from lmanet_core.stream.segmenter_config import SegmenterConfig

_SQUARE = 0.02  # pixels that are this nearly square are taken for it: broadcast's 136:135


def plan_stream(
    config: SegmenterConfig, backbone: Backbone, trained: Size, camera_size: Size, pixel_aspect: float = 1.0
) -> GeometryPlan:
    """The plan for images of one size.

    Args:
        config: sizes, resizing, and how the camera is turned.
        backbone: of the network.
        trained: size that it was trained at.
        camera_size: of the images, as they come.
        pixel_aspect: width of their pixels over the height; the network sees square ones.

    Raises:
        ConfigError: a network size that the network does not take.
    """
    upright = turn_size(camera_size, config.rotate)
    aspect = 1.0 if abs(pixel_aspect - 1.0) < _SQUARE else pixel_aspect if config.rotate % 180 == 0 else 1.0 / pixel_aspect
    if config.network_size == "auto":
        squared = Size(upright.height, max(1, round(upright.width * aspect)))
        network_size = fit_to_backbone(squared, trained.height * trained.width, backbone)
    else:
        network_size = parse_size(config.network_size)
    output = config.output_size
    if output not in ("input", "network"):
        output = str(turn_size(parse_size(output), config.rotate))
    return turn_plan(plan_geometry(upright, network_size, output, config.resize, aspect), config.rotate)


def fit_to_backbone(camera_size: Size, max_pixels: int, backbone: Backbone) -> Size:
    """The size of the network's input for a camera, see `fit_network_size`; the only one where the network takes but one."""
    if backbone.fixed_size is not None:
        return Size(*backbone.fixed_size)
    return fit_network_size(camera_size, max_pixels, backbone.size_multiple or backbone.stride, backbone.size_remainder)


def require_allowed(size: Size, backbone: Backbone) -> None:
    """Raise ConfigError where the network does not take images of this size."""
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
