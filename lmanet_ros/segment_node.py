"""The executable `segment_node`: start the node, spin it, leave it cleanly on SIGINT and SIGTERM, however often they come.

Signals are taken care of before anything large is imported; a single-threaded executor then spins in this thread. Exit codes: 0
stopped, 1 this interpreter cannot run the node, 2 wrong parameters.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from importlib.util import find_spec
from types import FrameType

_NEEDED = ("rclpy", "numpy", "cv2", "torch", "safetensors", "rosbags.image")


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is stopped; returns the exit code."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    missing = [name for name in _NEEDED if not _is_importable(name)]
    if missing:
        print(
            f"segment_node: {sys.executable} cannot import {', '.join(missing)}. Run it with an interpreter that can: "
            "ros2 launch lmanet_ros segment.launch.py python:=/path/to/venv/bin/python, or activate that environment "
            "(docs/ros.md, 'Install')",
            file=sys.stderr,
        )
        return 1
    return _run(arguments, stop)


def _run(arguments: list[str] | None, stop: threading.Event) -> int:
    from lmanet_core.process import prepare_process

    prepare_process()  # before PyTorch is imported
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from lmanet_core.errors import LmanetError
    from lmanet_ros.lifecycle_node import SegmentNode

    if stop.is_set():
        return 0
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        try:
            node = SegmentNode()
        except (LmanetError, ParameterException) as error:
            print(f"segment_node: wrong parameter: {error}", file=sys.stderr)
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        while not stop.is_set():
            try:
                executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                break
            except Exception:  # of a callback: a robot is better served by a node that goes on
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
        executor.remove_node(node)
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the interpreter's own farewell is not to be disturbed either


def _is_importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # the parent is missing
        return False


if __name__ == "__main__":
    sys.exit(main())
