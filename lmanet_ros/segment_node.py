"""The executable `segment_node`: start the node, spin it, leave it cleanly on SIGINT and SIGTERM, however often they come.

Signals are taken care of before anything large is imported; a single-threaded executor then spins in this thread. Exit codes: 0
stopped, 1 this interpreter cannot run the node, 2 wrong parameters.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from types import FrameType

from lmanet_ros.requirements import complaint_of_missing, complaint_of_versions


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is stopped; returns the exit code."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    missing = complaint_of_missing()
    if missing:
        print(f"segment_node: {missing}", file=sys.stderr)
        return 1
    return _run(arguments, stop)


def _run(arguments: list[str] | None, stop: threading.Event) -> int:
    from lmanet_core.process import prepare_process

    prepare_process()  # before PyTorch is imported
    wrong = complaint_of_versions()
    if wrong:
        print(f"segment_node: {wrong}", file=sys.stderr)
        return 1
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
        executor.shutdown()  # else it may complain, collected in any order at the end
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the interpreter's own farewell is not to be disturbed either


if __name__ == "__main__":
    sys.exit(main())
