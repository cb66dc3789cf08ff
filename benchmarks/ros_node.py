"""What the ROS 2 node costs around the network, and how it behaves when the camera is faster than the network.

Needs a sourced ROS 2: python benchmarks/ros_node.py [--only cost] [--seconds 60] [--out FILE]

    cost         1280x720 rgb8 at 10 Hz, labels and colour subscribed, network at 128x64. Three nodes in turn, several rounds:
                 a bare one that copies and publishes as much, the same with our allocator settings, and the real one
    overload     640x360 at 30 Hz, inference of 0.2 s (simulated by a pause): age of what is published, resident memory
    two_cameras  the same with two cameras: how the inference rate is shared
    busy         cost's node alone and beside two processes that never rest, in turn: stamp to published

Every node is a process of its own, this script is camera and listener; weights are random. CPU time of receiving is that of the
thread that spins the executor, CPU time of publishing that of the thread that publishes; times of day ("wall") are the nodes'
own, from /diagnostics. Where other programs want the same cores only CPU times tell what a node costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from recording import ROOT, describe_run, finish, resident_mb
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmanet_core.labels import CITYSCAPES
from lmanet_core.network import MemoryConfig
from lmanet_core.process import keep_freed_memory
from lmanet_core.weights.checkpoint import ModelConfig, build_network, save_model
from lmanet_ros.conversions import image_to_message, stamp_ns

BENCHMARKS = ROOT / "benchmarks"
WARM_UP_S = 5.0
INFERENCE_S = 0.2
BUSY = 2  # processes
STAGES = ("wait", "convert", "segment", "publish", "receive_to_publish", "stamp_to_publish")


@dataclass
class Run:
    """What one node did for a while.

    Attributes:
        seconds: how long it was watched.
        statuses: camera's status → key → value, as the node said last.
        received: images.
        receive_ms: CPU time an image costs the thread that spins the executor, without what a callback does with it.
        publish_cpu_ms: of the thread that publishes, one value a frame, from the start on.
        published: label maps that arrived here, by prefix of the topic.
        ages_ms: stamp to arrival here, of every label map.
        age_p99_ms: the node's own p99 of stamp to published, once a second; the worst of all cameras.
        resident_mb: once a second.
    """

    seconds: float = 0.0
    statuses: dict[str, dict[str, str]] = field(default_factory=dict)
    received: int = 0
    receive_ms: float = 0.0
    publish_cpu_ms: list[float] = field(default_factory=list)
    published: Counter[str] = field(default_factory=Counter)
    ages_ms: list[float] = field(default_factory=list)
    age_p99_ms: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    exit_code: int | None = None

    def percentile(self, stage: str, which: str) -> float:
        """p50, p95 or p99 of a stage in milliseconds; the worst of all cameras. 0 where the node has no such stage."""
        return max(percentiles(values, stage)[which] for values in self.statuses.values())


def run(command: list[str], seconds: float, size: tuple[int, int], rate_hz: float, cameras: Sequence[str] = ()) -> Run:
    """One node with its cameras for a while."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
    node = rclpy.create_node("bench")
    prefixes = [f"{camera}/" for camera in cameras] or [""]
    publishers = [node.create_publisher(Image, f"{prefix}image", qos_profile_sensor_data) for prefix in prefixes]
    done = Run()

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if ": " in status.name:  # of a camera
                done.statuses[status.name] = {pair.key: pair.value for pair in status.values}

    def on_labels(message: Image, prefix: str) -> None:
        done.published[prefix] += 1
        done.ages_ms.append((node.get_clock().now().nanoseconds - stamp_ns(message.header)) / 1e6)

    for prefix in prefixes:
        outputs = f"{prefix}segmentation/"
        node.create_subscription(Image, f"{outputs}labels", lambda m, p=prefix: on_labels(m, p), QoSProfile(depth=5))
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

    def totals() -> tuple[float, int, float]:
        received = sum(int(values["images received"]) for values in done.statuses.values())
        besides = sum(float(values.get("callback cpu (s)", 0)) for values in done.statuses.values())
        return executor_cpu_s(process.pid), received, besides

    try:
        while not done.published:
            spin_for(0.2)
            if process.poll() is not None:
                raise SystemExit(f"the node ended with {process.returncode}")
        spin_for(WARM_UP_S)
        done.published.clear()
        done.ages_ms.clear()
        before, start = totals(), time.monotonic()
        for _ in range(max(2, round(seconds))):
            spin_for(1.0)
            done.resident_mb.append(resident_mb(process.pid))
            done.age_p99_ms.append(done.percentile("stamp_to_publish", "p99"))
        done.seconds = time.monotonic() - start
        cpu_s, received, besides_s = (after - earlier for after, earlier in zip(totals(), before, strict=True))
        done.received, done.receive_ms = received, 1e3 * (cpu_s - besides_s) / max(1, received)
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
        done.exit_code = process.returncode
        executor.shutdown()
        node.destroy_node()
    done.publish_cpu_ms = json.loads(said.splitlines()[-1])["publish_cpu_ms"]
    return done


def percentiles(values: dict[str, str], stage: str) -> dict[str, float]:
    numbers = values.get(f"{stage} p50/p95/p99 (ms)", "0 / 0 / 0").split(" / ")
    return dict(zip(("p50", "p95", "p99"), map(float, numbers), strict=True))


def executor_cpu_s(pid: int) -> float:
    """CPU time of the process's first thread, which spins the executor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def make_images(width: int, height: int) -> list[np.ndarray]:
    """A scene that moves a little from image to image."""
    scene = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8 + 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(scene[:, 4 * index : 4 * index + width]) for index in range(10)]


def measure_cost(node: Sequence[str], seconds: float, rounds: int) -> dict:
    """The three nodes in turn."""
    bare = str(BENCHMARKS / "bare_node.py")
    commands = {
        "bare": [bare],
        "bare_keeping_memory": [bare, "--keep-memory"],
        "node": [str(BENCHMARKS / "measured_node.py"), "0", *node, "-p", "network_size:=128x64"],
    }
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(run(command, seconds, (1280, 720), 10.0))
            print(name, summarize_cost(runs[name][-1:]), flush=True)
    costs = {name: summarize_cost(of_name) for name, of_name in runs.items()}
    beyond = [r.percentile("stamp_to_publish", "p95") - r.percentile("segment", "p95") for r in runs["node"]]
    return {
        **costs,
        **{f"node_over_{name}": round(costs["node"]["cpu_ms"] / costs[name]["cpu_ms"], 2) for name in list(costs)[:2]},
        "stamp_to_publish_beyond_inference_p95_ms": round(statistics.median(beyond), 1),
        "stages_ms": {stage: percentiles(next(iter(runs["node"][-1].statuses.values())), stage) for stage in STAGES},
    }


def summarize_cost(runs: Sequence[Run]) -> dict[str, float]:
    """Medians over the rounds, milliseconds: parts, and their sum with publishing as CPU time and as time of day."""
    receive = statistics.median(r.receive_ms for r in runs)
    convert = statistics.median(r.percentile("convert", "p50") for r in runs)
    publish_cpu = statistics.median(statistics.median(r.publish_cpu_ms) for r in runs)
    publish_wall = statistics.median(r.percentile("publish", "p50") for r in runs)
    values = {
        "receive_cpu_ms": receive,
        "convert_ms": convert,
        "publish_cpu_ms": publish_cpu,
        "publish_wall_ms": publish_wall,
        "cpu_ms": receive + convert + publish_cpu,
        "wall_ms": receive + convert + publish_wall,
    }
    return {name: round(value, 2) for name, value in values.items()}


def measure_overload(node: Sequence[str], seconds: float, cameras: Sequence[str] = ()) -> dict:
    """A camera faster than the network."""
    arguments = [*node, "-p", "network_size:=128x64"]
    if cameras:
        arguments += ["-p", f"cameras:=[{', '.join(cameras)}]"]
    done = run([str(BENCHMARKS / "measured_node.py"), str(INFERENCE_S), *arguments], seconds, (640, 360), 30.0, cameras)
    half = len(done.resident_mb) // 2
    middle = statistics.median(done.resident_mb)
    inference_ms = done.percentile("segment", "p50")
    return {
        "seconds": round(done.seconds, 1),
        "inference_p50_ms": inference_ms,
        "published_hz": {name or "camera": round(count / done.seconds, 3) for name, count in sorted(done.published.items())},
        "age_at_publish_p99_of_300_frames_ms": {"median": statistics.median(done.age_p99_ms), "worst": max(done.age_p99_ms)},
        "age_at_arrival_ms": {f"p{p}": round(float(np.percentile(done.ages_ms, p)), 1) for p in (50, 95, 99, 100)},
        "age_at_arrival_p99_in_inference_times": round(float(np.percentile(done.ages_ms, 99)) / inference_ms, 2),
        "age_at_arrival_p50_ms_first_and_second_half": [
            round(statistics.median(part), 1)
            for part in (done.ages_ms[: len(done.ages_ms) // 2], done.ages_ms[len(done.ages_ms) // 2 :])
        ],
        "dropped": {name: int(values["dropped for a newer image"]) for name, values in done.statuses.items()},
        "resident_mb": {"median": round(middle, 1), "least": min(done.resident_mb), "most": max(done.resident_mb)},
        "resident_mb_first_and_second_half": [
            round(statistics.median(part), 1) for part in (done.resident_mb[:half], done.resident_mb[half:])
        ],
        "resident_spread_percent": round(100 * max(max(done.resident_mb) - middle, middle - min(done.resident_mb)) / middle, 2),
        "exit_code": done.exit_code,
    }


def measure_busy(node: Sequence[str], seconds: float, rounds: int) -> dict:
    """Latency alone and beside busy processes: medians over the rounds."""
    command = [str(BENCHMARKS / "measured_node.py"), "0", *node, "-p", "network_size:=128x64"]
    runs: dict[str, list[Run]] = {"quiet": [], "busy": []}
    for _ in range(rounds):
        for name, count in (("quiet", 0), ("busy", BUSY)):
            with busy_processes(count):
                runs[name].append(run(command, seconds, (1280, 720), 10.0))
            print(name, percentiles(next(iter(runs[name][-1].statuses.values())), "stamp_to_publish"), flush=True)
    rows: dict = {
        name: {
            stage: {which: statistics.median(r.percentile(stage, which) for r in done) for which in ("p50", "p95", "p99")}
            for stage in STAGES
        }
        for name, done in runs.items()
    }
    p95 = {name: rows[name]["stamp_to_publish"]["p95"] for name in runs}
    return {"processes": BUSY, **rows, "stamp_to_publish_p95_busy_over_quiet": round(p95["busy"] / p95["quiet"], 2)}


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def check(result: dict) -> dict[str, bool]:
    """The goals of what was measured."""
    checks = {}
    if "cost" in result:
        total = result["cost"]["node"]["cpu_ms"]
        beyond = result["cost"]["stamp_to_publish_beyond_inference_p95_ms"]
        checks[f"receive, convert, publish ≤ 6 ms of CPU: {total}"] = total <= 6.0
        checks[f"stamp to published beyond inference, p95 ≤ 15 ms: {beyond}"] = beyond <= 15.0
    if "overload" in result:
        times, spread = (result["overload"][k] for k in ("age_at_arrival_p99_in_inference_times", "resident_spread_percent"))
        checks[f"age at arrival (later than at publish), p99 ≤ 2 inference times: {times}"] = times <= 2.0
        checks[f"resident memory within ±2 %: {spread}"] = spread <= 2.0
    if "two_cameras" in result:
        rates, inference = result["two_cameras"]["published_hz"], result["two_cameras"]["inference_p50_ms"]
        half = 500.0 / inference
        checks[f"two cameras within 10 % of {half:.2f} Hz each: {rates}"] = all(
            abs(rate - half) <= 0.1 * half for rate in rates.values()
        )
    if "busy" in result:
        times = result["busy"]["stamp_to_publish_p95_busy_over_quiet"]
        checks[f"stamp to published beside {BUSY} busy processes, p95 ≤ 2.5 × alone: {times}"] = times <= 2.5
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="of cost and busy")
    parser.add_argument("--only", choices=("cost", "overload", "two_cameras", "busy"), default=None)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/ros_node[_ONLY].json")
    options = parser.parse_args()
    keep_freed_memory()  # of the camera: its stamps are older than its own copying
    rclpy.init()
    result: dict = {**describe_run(), **{name.lower(): os.environ.get(name, "") for name in ("ROS_DISTRO", "CYCLONEDDS_URI")}}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        config = ModelConfig("erfnet", 20, CITYSCAPES, MemoryConfig(memory_frames=4))
        save_model(weights, build_network(config).eval(), config)
        node = ["--ros-args", "--log-level", "warn", "-p", f"weights:={weights}", "-p", "threads:=1"]
        scenarios = {
            "cost": lambda: measure_cost(node, options.seconds, options.rounds),
            "overload": lambda: measure_overload(node, options.seconds),
            "two_cameras": lambda: measure_overload(node, options.seconds, ("front", "rear")),
            "busy": lambda: measure_busy(node, options.seconds, options.rounds),
        }
        names = [name for name in scenarios if options.only in (None, name)]
        for name in names:
            result[name] = scenarios[name]()
    rclpy.try_shutdown()
    record = BENCHMARKS / f"results/ros_node{f'_{options.only}' if options.only else ''}.json"
    return finish(result, check(result), names, options.out or record)


if __name__ == "__main__":
    sys.exit(main())
