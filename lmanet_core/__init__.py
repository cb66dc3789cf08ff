"""Video semantic segmentation with a local attention memory; everything here works without ROS."""

__version__ = "0.1.0"
