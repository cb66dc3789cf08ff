"""What the ROS 2 node costs around the network, and how it behaves when the camera is faster than the network.

Needs a sourced ROS 2: python benchmarks/ros_node.py [--seconds 60] [--out benchmarks/results/ros_node.json]

    cost         1280x720 rgb8 at 10 Hz, labels and colour subscribed, network at 128x64: receiving (CPU time of the executor's
                 thread), converting, publishing; stamp to published against inference
    overload     640x360 at 30 Hz and a network slower than that: input age, drops, resident memory over time
    two_cameras  the same with two cameras: how the inference rate is shared

The node is a process of its own, this script is camera and listener; weights are random. Latencies are the node's own, from
/diagnostics.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 50))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from recording import ROOT, describe_run, write_json
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmanet_core.checkpoint import ModelConfig, build_network, save_model
from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import MemoryConfig
from lmanet_ros.conversions import image_to_message

WARM_UP_S = 5.0
SLOW_SIZE = "416x224"  # about 5 Hz on a core of the machine this was written on


def run(
    weights: Path, seconds: float, size: tuple[int, int], rate_hz: float, parameters: list[str], cameras: list[str]
) -> dict:
    """One node and its cameras for a while; what its diagnostics said last, and what arrived."""
    arguments = [word for parameter in [f"weights:={weights}", "threads:=1", *parameters] for word in ("-p", parameter)]
    if len(cameras) > 1:
        arguments += ["-p", f"cameras:=[{', '.join(cameras)}]"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "lmanet_ros.segment_node", "--ros-args", "--log-level", "warn", *arguments]
    process = subprocess.Popen(command, env=environment)
    node = rclpy.create_node("bench")
    prefixes = [f"{camera}/" if len(cameras) > 1 else "" for camera in cameras]
    publishers = [node.create_publisher(Image, f"{prefix}image", qos_profile_sensor_data) for prefix in prefixes]
    arrived: Counter[str] = Counter()
    last: dict[str, dict[str, str]] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            last[status.name] = {pair.key: pair.value for pair in status.values}

    for prefix in prefixes:
        outputs = f"{prefix}segmentation/"
        node.create_subscription(Image, f"{outputs}labels", lambda m, p=prefix: arrived.update([p]), QoSProfile(depth=5))
        node.create_subscription(Image, f"{outputs}color", lambda m: None, QoSProfile(depth=5))
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    images = [image_to_message(pixels, Header(frame_id="camera")) for pixels in make_images(*size)]
    sent = 0

    def publish() -> None:
        nonlocal sent
        image = images[sent % len(images)]
        sent += 1
        image.header.stamp = node.get_clock().now().to_msg()
        for publisher in publishers:
            publisher.publish(image)

    node.create_timer(1.0 / rate_hz, publish)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin_for(duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)

    try:
        while not arrived:
            spin_for(0.2)
            if process.poll() is not None:
                raise SystemExit(f"the node ended with {process.returncode}")
        spin_for(WARM_UP_S)
        resident, ages = [], []
        before, cpu, start = dict(arrived), executor_cpu_s(process.pid), time.monotonic()
        received = sum(int(values["images received"]) for name, values in last.items() if ": " in name)
        for _ in range(max(2, round(seconds))):
            spin_for(1.0)
            resident.append(float(last["segment_node"]["resident memory (MB)"]))
            ages.append(max(percentiles(values, "stamp_to_publish")[2] for name, values in last.items() if ": " in name))
        elapsed = time.monotonic() - start
        cpu = executor_cpu_s(process.pid) - cpu
        received = sum(int(values["images received"]) for name, values in last.items() if ": " in name) - received
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        executor.shutdown()
        node.destroy_node()
    half = len(resident) // 2
    cameras_said = {name: values for name, values in last.items() if ": " in name}
    return {
        "seconds": round(elapsed, 1),
        "published_hz": {p or "camera": round((arrived[p] - before.get(p, 0)) / elapsed, 2) for p in prefixes},
        "receive_ms": round(1e3 * cpu / max(1, received), 2),
        "stages_ms": {
            name: {
                stage: dict(zip(("p50", "p95", "p99"), percentiles(values, stage), strict=True))
                for stage in ("wait", "convert", "segment", "publish", "receive_to_publish", "stamp_to_publish")
            }
            for name, values in cameras_said.items()
        },
        "dropped": {name: int(values["dropped for a newer image"]) for name, values in cameras_said.items()},
        "age_p99_ms_first_and_second_half": [round(float(np.median(part)), 1) for part in (ages[:half], ages[half:])],
        "resident_mb_first_and_second_half": [round(float(np.median(part)), 1) for part in (resident[:half], resident[half:])],
        "exit_code": process.returncode,
    }


def percentiles(values: dict[str, str], stage: str) -> list[float]:
    return [float(number) for number in values[f"{stage} p50/p95/p99 (ms)"].split(" / ")]


def executor_cpu_s(pid: int) -> float:
    """CPU time of the process's first thread, which spins the executor."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_images(width: int, height: int) -> list[np.ndarray]:
    """A scene that moves a little from image to image."""
    scene = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(scene[:, 4 * index : 4 * index + width]) for index in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--slow-size", default=SLOW_SIZE, help="network size of overload and two_cameras")
    parser.add_argument("--only", choices=("cost", "overload", "two_cameras"), default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ros_node.json")
    options = parser.parse_args()
    rclpy.init()
    slow = f"network_size:={options.slow_size}"
    scenarios = {
        "cost": ((1280, 720), 10.0, ["network_size:=128x64"], ["camera"]),
        "overload": ((640, 360), 30.0, [slow], ["camera"]),
        "two_cameras": ((640, 360), 30.0, [slow], ["front", "rear"]),
    }
    result: dict = {**describe_run(), "ros_distro": os.environ.get("ROS_DISTRO", "")}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        config = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig(memory_frames=4))
        save_model(weights, build_network(config).eval(), config)
        for name, scenario in scenarios.items():
            if options.only in (None, name):
                size, rate_hz, parameters, cameras = scenario
                result[name] = run(weights, options.seconds, size, rate_hz, parameters, cameras)
                print(name, result[name], flush=True)
    rclpy.try_shutdown()
    if "cost" in result:
        stages = result["cost"]["stages_ms"]["segment_node: camera"]
        result["cost"]["node_ms_per_frame"] = round(
            result["cost"]["receive_ms"] + stages["convert"]["p50"] + stages["publish"]["p50"], 2
        )
        result["cost"]["stamp_to_publish_beyond_inference_p95_ms"] = round(
            stages["stamp_to_publish"]["p95"] - stages["segment"]["p95"], 1
        )
    write_json(options.out, result)


if __name__ == "__main__":
    main()
