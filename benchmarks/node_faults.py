"""What the node says of a drive that goes wrong at random: every fault, and nothing else, clears the memory.

Needs a sourced ROS 2: python benchmarks/node_faults.py --seconds 600 --json benchmarks/results/node_faults.json

The node is a process of its own, this script is its camera and its clock (`use_sim_time`): two drives of the generated street,
with a camera's noise, one cut to the other. Every few seconds something is injected, see `FAULTS`. An image is sent once the
labels of the one before are there, so that a busy machine loses none; stamps are 0.1 s apart all the same.

Wanted: each reset the node logs has the cause and the stamp of an injected fault, none is missing; the diagnostics count the
same resets and the same frames that showed nothing; resident memory stays within 2 %.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 50))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from recording import ROOT, describe_run, finish, resident_mb
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmanet_core.street import Street, StreetConfig
from lmanet_ros.conversions import image_to_message, stamp_ns

Pixels = npt.NDArray[np.uint8]
SECOND = 1_000_000_000
PERIOD_NS = SECOND // 10
SEEDS = (5_000_000, 5_000_001)
SETTLED_S = 60.0  # from when on resident memory has to stay
MOST_SPREAD = 0.02
FROZEN_REPEATS = 10  # the node's default
BETWEEN = (25, 60)  # frames from fault to fault
ANSWER_S = 30.0
CLEARED = re.compile(r"memory cleared: (\w+) at stamp (\d+\.\d+)")


class Drive:
    """A camera's images of a drive, there and back again without end."""

    def __init__(self, seed: int, frames: int) -> None:
        self._images = [frame.image for frame in Street(StreetConfig(seed=seed)).frames(0, frames)]
        self._place = 0

    def next(self) -> Pixels:
        last = len(self._images) - 1
        image = self._images[last - abs(last - self._place % (2 * last))]
        self._place += 1
        return image


class Robot:
    """The node, and what it hears and says.

    Attributes:
        resets: (cause, stamp in milliseconds) as logged.
        counts: the camera's values in the newest diagnostics.
        unanswered: images that no labels came of.
    """

    def __init__(self) -> None:
        parameters = {
            "use_sim_time": "true", "threads": "1", "qos_overrides./image.subscription.reliability": "reliable",
        }  # fmt: skip
        words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", "lmanet_ros.segment_node", "--ros-args", *words]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        self.resets: list[tuple[str, int]] = []
        self.counts: dict[str, str] = {}
        self.unanswered = 0
        self._node_ns = self._answered_ns = -1  # the node's clock; stamp of the newest labels
        self._node = rclpy.create_node("faults")
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._image = self._node.create_publisher(Image, "image", QoSProfile(depth=5))
        self._clock = self._node.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        self._node.create_subscription(Image, "segmentation/labels", self._on_labels, QoSProfile(depth=5))
        self._node.create_subscription(Log, "/rosout", self._on_log, latched)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def wait(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Spin until a condition holds; False where it does not in time."""
        end = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise SystemExit(f"the node ended with {self.process.returncode}")
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def hears(self) -> bool:
        return self._image.get_subscription_count() > 0 and self._node.count_publishers("segmentation/labels") > 0

    def set_clock(self, now_ns: int) -> None:
        self._clock.publish(Clock(clock=as_time(now_ns)))

    def wait_for_clock(self, now_ns: int) -> None:
        """Until the node's diagnostics have this time, which may lie before the one they had."""

        def told() -> bool:
            self.set_clock(now_ns)
            return self._node_ns == now_ns

        if not self.wait(told, ANSWER_S):
            raise SystemExit(f"the node's clock is {self._node_ns} ns, wanted {now_ns}")

    def send(self, image: Pixels, stamp: int) -> None:
        """One image; comes back with its labels."""
        self._image.publish(image_to_message(image, Header(stamp=as_time(stamp), frame_id="camera")))
        self.unanswered += not self.wait(lambda: self._answered_ns == stamp, ANSWER_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        self._executor.shutdown()
        self._node.destroy_node()
        return code

    def _on_labels(self, message: Image) -> None:
        self._answered_ns = stamp_ns(message.header)

    def _on_log(self, message: Log) -> None:
        found = CLEARED.search(message.msg)
        if found:
            self.resets.append((found[1], round(1000 * float(found[2]))))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._node_ns = stamp_ns(message.header)
        for status in message.status:
            if ": " in status.name:  # of the camera
                self.counts = {pair.key: pair.value for pair in status.values}


def as_time(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


@dataclass
class Run:
    """A drive with its faults, and what has to be said of it.

    Attributes:
        expected: (cause, stamp in milliseconds) of every reset.
        blind: frames that show nothing, by why.
        injected: faults, by name.
    """

    robot: Robot
    drives: list[Drive]
    rng: np.random.Generator
    rate_hz: float
    clock_ns: int = 1000 * SECOND
    behind_ns: int = 0  # how far the camera's stamps lie behind the clock
    frames: int = 0
    expected: list[tuple[str, int]] = field(default_factory=list)
    blind: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    shown: Pixels = field(default_factory=lambda: np.zeros(0, np.uint8))
    _due_s: float = 0.0

    def step(self, image: Pixels | None = None, cause: str = "") -> None:
        """The next frame, at the camera's rate; `cause`: of the reset that it has to bring."""
        self.shown = self.noisy(self.drives[0].next()) if image is None else image
        now_s = time.monotonic()
        self._due_s = max(now_s, self._due_s + 1.0 / self.rate_hz) if self._due_s else now_s
        self.robot.wait(lambda: time.monotonic() >= self._due_s, 1.0 / self.rate_hz + 1.0)
        self.clock_ns += PERIOD_NS
        self.robot.set_clock(self.clock_ns)
        stamp = self.clock_ns - self.behind_ns
        if cause:
            self.expected.append((cause, stamp // 1_000_000))
        self.robot.send(self.shown, stamp)
        self.frames += 1

    def skip(self, frames: int) -> None:
        """The drive goes on unseen."""
        for _ in range(frames):
            self.drives[0].next()
        self.clock_ns += frames * PERIOD_NS

    def noisy(self, image: Pixels) -> Pixels:
        """With the noise of a camera, sigma 2, which no two pictures share."""
        noise = np.empty(image.shape, np.int16)
        cv2.randn(noise, 0, 2)
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)

    def inject(self) -> None:
        name = list(FAULTS)[int(self.rng.integers(len(FAULTS)))]
        self.injected[name] += 1
        FAULTS[name](self)

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))


# ---- what goes wrong ------------------------------------------------------------------------------------------------------


def cover(run: Run) -> None:
    """Black, white or grey for half a second to two; the drive goes on behind."""
    level, why = ((0, "black"), (255, "saturated"), (120, "covered"))[run.number(0, 2)]
    for _ in range(count := run.number(5, 20)):
        run.drives[0].next()
        run.step(run.noisy(np.full(run.shown.shape, level, np.uint8)))
    run.blind[why] += count
    run.step(cause="blind")


def cut(run: Run) -> None:
    """The other drive."""
    run.drives.reverse()
    run.step(cause="scene_cut")


def drop(run: Run) -> None:
    """Two to ten frames are lost."""
    run.skip(run.number(2, 10))
    run.step(cause="gap")


def drop_one(run: Run) -> None:
    """One frame is lost, which is no gap."""
    run.skip(1)
    run.step()


def camera_clock(run: Run) -> None:
    """The camera's clock steps back, and forward again the next time; the robot's goes on."""
    cause = "gap" if run.behind_ns else "backward_stamp"
    run.behind_ns = 0 if run.behind_ns else run.number(5, 60) * SECOND
    run.step(cause=cause)


def clock_back(run: Run) -> None:
    """Everybody's clock jumps back, as that of a bag that begins anew. Behind a camera that lags by more, it tells nothing."""
    newest_ns = run.clock_ns - run.behind_ns
    run.clock_ns -= run.number(5, 60) * SECOND
    run.robot.wait_for_clock(run.clock_ns)
    run.step(cause="clock_jump" if newest_ns > run.clock_ns else "backward_stamp")


def freeze(run: Run) -> None:
    """The same bytes for more than a second; the drive goes on behind."""
    for _ in range(count := run.number(FROZEN_REPEATS + 2, 30)):
        run.drives[0].next()
        run.step(run.shown)
    run.blind["frozen"] += count - FROZEN_REPEATS + 1
    run.step(cause="frozen")


def stutter(run: Run) -> None:
    """The same bytes for half a second, then on from there: no freeze."""
    for _ in range(run.number(2, 5)):
        run.step(run.shown)
    run.step()


def flash(run: Run) -> None:
    """×3 + 40 for one to five frames, which clears nothing."""
    for _ in range(run.number(1, 5)):
        run.step(np.asarray(cv2.convertScaleAbs(run.noisy(run.drives[0].next()), alpha=3, beta=40), np.uint8))
    run.step()


FAULTS: dict[str, Callable[[Run], None]] = {
    one.__name__: one for one in (cover, cut, drop, drop_one, camera_clock, clock_back, freeze, stutter, flash)
}


# ---- running --------------------------------------------------------------------------------------------------------------


def measure(seconds: float, seed: int, rate_hz: float, length: int) -> dict[str, Any]:
    """Drive for a while; what was injected, what the node said of it."""
    drives = [Drive(one, length) for one in SEEDS]
    robot = Robot()
    run = Run(robot, drives, np.random.default_rng(seed), rate_hz)
    memory: list[float] = []
    try:
        if not robot.wait(robot.hears, 60.0):
            raise SystemExit("the node does not listen to /image")
        cv2.setRNGSeed(seed)
        start = time.monotonic()
        run.step(cause="first_frame")
        quiet = run.number(*BETWEEN)
        while time.monotonic() - start < seconds:
            if quiet == 0:
                run.inject()
                quiet = run.number(*BETWEEN)
            quiet -= 1
            run.step()
            if time.monotonic() - start - SETTLED_S >= len(memory):
                memory.append(resident_mb(robot.process.pid))
        lasted = time.monotonic() - start
        robot.wait(lambda: False, 2.5)  # the last diagnostics
    finally:
        code = robot.stop()
    return {
        "seconds": round(lasted, 1),
        "frames": run.frames,
        "injected": dict(sorted(run.injected.items())),
        "unanswered": robot.unanswered,
        "exit_code": code,
        **compare(run, robot),
        "resident_mb": spread(memory),
    }


def compare(run: Run, robot: Robot) -> dict[str, Any]:
    """Resets and frames that showed nothing, as they should be and as they were said."""
    expected, said = Counter(run.expected), Counter(robot.resets)
    causes = Counter(cause for cause, _ in run.expected)
    counted = {name: int(robot.counts.get(f"resets: {name}", 0)) for name in causes}
    others = {
        name.removeprefix("resets: "): int(value)
        for name, value in robot.counts.items()
        if name.startswith("resets: ") and name.removeprefix("resets: ") not in causes
    }
    blind = {why: int(robot.counts.get(f"frames that showed nothing: {why}", 0)) for why in sorted(run.blind)}
    return {
        "resets_injected": dict(sorted(causes.items())),
        "resets_counted": dict(sorted((counted | others).items())),
        "missing": sorted((expected - said).elements()),
        "unexplained": sorted((said - expected).elements()),
        "blind_injected": dict(sorted(run.blind.items())),
        "blind_counted": blind,
    }


def spread(memory: list[float]) -> dict[str, float]:
    middle = statistics.median(memory) if memory else 0.0
    most = max((abs(value - middle) for value in memory), default=0.0)
    return {"median": round(middle, 1), "least": min(memory, default=0.0), "most": max(memory, default=0.0),
            "spread_percent": round(100 * most / middle, 2) if middle else 0.0, "samples": len(memory)}  # fmt: skip


def check(drive: dict[str, Any]) -> dict[str, bool]:
    """The goals."""
    return {
        f"every fault clears the memory on its frame; missing: {drive['missing']}": not drive["missing"],
        f"every reset has its fault; unexplained: {drive['unexplained']}": not drive["unexplained"],
        f"the diagnostics count the same resets: {drive['resets_counted']}": (
            drive["resets_counted"] == drive["resets_injected"]
        ),
        f"the diagnostics count the same frames that show nothing: {drive['blind_counted']}": (
            drive["blind_counted"] == drive["blind_injected"]
        ),
        f"every image has its labels; without: {drive['unanswered']}": drive["unanswered"] == 0,
        f"resident memory within ±{MOST_SPREAD:.0%}: {drive['resident_mb']}": (
            drive["resident_mb"]["spread_percent"] <= 100 * MOST_SPREAD
        ),
        f"the node ends with 0: {drive['exit_code']}": drive["exit_code"] == 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="of driving")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second, at most")
    parser.add_argument("--frames", type=int, default=300, help="of each drive, there and back again")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    rclpy.init()
    result: dict[str, Any] = {"run": describe_run()}
    result["run"] |= {name.lower(): os.environ.get(name, "") for name in ("ROS_DISTRO", "RMW_IMPLEMENTATION")}
    result["drive"] = measure(options.seconds, options.seed, options.rate, options.frames)
    rclpy.try_shutdown()
    return finish(result, check(result["drive"]), ("drive",), options.json)


if __name__ == "__main__":
    sys.exit(main())
