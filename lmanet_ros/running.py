"""How our small executables run: one node, one thread, until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from lmanet_core.errors import LmanetError


def run_node(name: str, make: Callable[[], Node], arguments: list[str] | None) -> int:
    """Run a node until it is stopped; returns the exit code.

    Args:
        name: of the executable, for messages.
        make: makes the node; a LmanetError is said on standard error, and its exit code returned.
        arguments: of ROS; None: the process's own.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        try:
            node = make()
        except LmanetError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return error.exit_code
        executor = SingleThreadedExecutor()
        try:
            executor.add_node(node)
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
        finally:
            executor.shutdown()  # else it may complain, collected in any order at the end
        node.destroy_node()
    except ExternalShutdownException:
        pass  # somebody else has ended ROS in this process
    finally:
        rclpy.try_shutdown()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the interpreter's own farewell is not to be disturbed
    return 0
