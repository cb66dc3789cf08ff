"""Installs both Python packages with pip, and the ROS 2 package with colcon (build type ament_python)."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "lmanet_ros"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Video semantic segmentation for robots with a local attention memory (LMANet)",
    long_description=open("README.md", encoding="utf-8").read(),  # noqa: PTH123, SIM115 (setup.py stays plain)
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The lmanet_ros developers",
    maintainer="The lmanet_ros developers",
    maintainer_email="lmanet_ros@users.noreply.github.com",
    packages=find_packages(include=["lmanet_core", "lmanet_core.*", "lmanet_ros", "lmanet_ros.*"]),
    package_data={"lmanet_core": ["py.typed", "assets/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),  # noqa: PTH207
        (f"share/{PACKAGE}/config", glob("config/*.*")),  # noqa: PTH207
    ],
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4,<3",  # 2.4: set_submodule and inference_mode as used here
        "numpy>=1.23,<3",
        "opencv-python-headless>=4.8,<5",  # OpenCV 5 renumbered its types and breaks cv_bridge
        "safetensors>=0.4",
        "rosbags>=0.11,<0.12",  # bags of ROS 1 and ROS 2 without ROS
        "rosbags-image>=0.10,<0.11",
        "jsonargparse>=4.30",
        "PyYAML>=6",
        "rich>=13",
    ],
    entry_points={"console_scripts": ["lmanet = lmanet_core.cli:main"]},
    zip_safe=True,
)
