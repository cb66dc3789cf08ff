"""Installs both Python packages with pip, and the ROS 2 package with colcon (build type ament_python)."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "lmanet_ros"
HERE = Path(__file__).resolve().parent  # colcon build --symlink-install runs a link to this file in its build folder


def listed(pattern):
    """Files of the checkout, relative to it, as setuptools wants them."""
    return sorted(str(path.relative_to(HERE)) for path in HERE.glob(pattern))


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Video semantic segmentation for robots with a local attention memory (LMANet)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The lmanet_ros developers",
    maintainer="The lmanet_ros developers",
    maintainer_email="lmanet_ros@users.noreply.github.com",
    packages=find_packages(include=["lmanet_core", "lmanet_core.*", "lmanet_ros", "lmanet_ros.*"]),
    package_data={"lmanet_core": ["py.typed", "assets/*", "evaluation/*.css", "evaluation/*.j2", "labels/*/*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", listed("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", listed("config/*.*")),
        (f"share/{PACKAGE}/config/train", listed("config/train/*.yaml")),
    ],
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6,<3",  # 2.6: safe_globals with names
        "numpy>=1.23,<3",
        "opencv-python-headless>=4.8,<5",  # OpenCV 5 renumbered its types and breaks cv_bridge
        "safetensors>=0.4",
        "rosbags>=0.11,<0.12",  # bags of ROS 1 and ROS 2 without ROS
        "rosbags-image>=0.10,<0.11",
        "jsonargparse>=4.30",
        "PyYAML>=6",
        "Jinja2>=3.1",  # the page of a report
        "rich>=13",
    ],
    extras_require={
        "heic": ["pi-heif>=0.18,<2"],  # photographs of telephones
        "hf": ["transformers>=4.50,<6"],  # models of Hugging Face
        "onnx": ["onnx>=1.17,<2", "onnxscript>=0.5,<1", "onnxruntime>=1.20,<2"],  # networks from ONNX, and to it
        # pytest is named so that colcon test runs it; 9 cannot load ROS's launch_testing
        "test": ["pytest<9", "hypothesis>=6.100,<7"],
        "video": ["av>=14,<19"],  # video in messages, interlaced video, VP9 with true times
        "train": ["lightning>=2.6,<3", "tensorboard>=2.15,<3"],
    },
    entry_points={
        "console_scripts": [
            "lmanet = lmanet_core.commands.main:script",
            "train = lmanet_core.commands.train:main",
            "segment_node = lmanet_ros.segment_node:main",
            "open_rviz = lmanet_ros.open_rviz:main",
            "replay = lmanet_ros.replay:main",
            "semantic_points = lmanet_ros.semantic_points:main",
            "street_camera = lmanet_ros.street_camera:main",
        ]
    },
    zip_safe=True,
)
