"""Training data: labelled clips from Cityscapes, from still images, from labelled videos and from the generated street.

A `ClipSource` makes clips at the network's size; a `ClipDataset` augments them and hands tensors to the trainer. Nothing here
depends on the trainer.
"""

from lmanet_core.data.augment import AugmentConfig
from lmanet_core.data.cityscapes import CityscapesSource
from lmanet_core.data.clips import Clip, ClipDataset, ClipSource
from lmanet_core.data.stills import StillsSource
from lmanet_core.data.street_clips import StreetSource

__all__ = ["AugmentConfig", "CityscapesSource", "Clip", "ClipDataset", "ClipSource", "StillsSource", "StreetSource"]
