"""A generated street: an endless, seeded drive through a town, image and true labels frame by frame.

Training data for networks from scratch, a demonstration without a camera, and a stand-in for one. Needs NumPy and OpenCV only.
"""

from lmanet_core.street.config import DEGRADATIONS, Degradation, StreetConfig
from lmanet_core.street.generator import Street, StreetFrame

__all__ = ["DEGRADATIONS", "Degradation", "Street", "StreetConfig", "StreetFrame"]
