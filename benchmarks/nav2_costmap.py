"""What the memory does for nav2's costmap with its semantic segmentation layer: flips of cost, and how soon a thing is marked.

Needs a sourced ROS 2 with nav2_costmap_2d and semantic_segmentation_layer:

    python benchmarks/nav2_costmap.py --json benchmarks/results/nav2_costmap.json --picture docs/nav2_costmap.png

`--without-nav2` needs no ROS: the same drives, the labels of the same weights, and the layer's rule in Python (nav2_rule.py).

Drives of the generated street, which nothing was trained on, go through segment_node, semantic_points and nav2's own costmap
(`config/nav2_costmap.yaml`): with both memories off, with both on, and with the true labels in place of the node's. Poses are
the true ones. This script is camera, odometry and clock (`use_sim_time`). It is played in lock-step: the clock stands still
until labels and points of a frame are there, so that a busy machine loses nothing. Costs have three levels: free, to avoid,
lethal.

Measured where a frame's points fall, up to the layer's `max_obstacle_distance`:

* flips: a known tile whose level is another than one frame before; a tile and minute in view.
  With the true labels there are some, too, for things move and tiles at their edges are seen now and then.
* wrong: tiles whose level is another than with the true labels.
* delay: from the frame in which a thing (what belongs together of the tiles that hold a person or a vehicle) is first in
  range to the costmap in which the first of its tiles is lethal, in frames' times. The costmap of the very frame is 0 s.
* marked at once: of the tiles that first hold a person or a vehicle, those that are lethal in the costmap of the very frame.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 50))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from recording import ROOT, describe_run, finish

from lmanet_core.geometry.points import depth_in_metres, drop_depth_edges
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street import DEGRADATIONS, Street, StreetConfig, StreetFrame

PARAMETERS = ROOT / "config" / "nav2_costmap.yaml"
SETTINGS = ("off", "on", "truth")  # both memories off, both on, the true labels in place of the node's
SECOND = 1_000_000_000
FIRST_NS = 1000 * SECOND
PERIOD_NS = SECOND // 10
LOOKS_NS = (PERIOD_NS // 2, 9 * PERIOD_NS // 10)  # after a frame, when costmaps are asked for; the last one counts
SETTLE_S = 0.1  # time of day that the layer has for the points of a frame, before the clock goes on
RATE_HZ = 40.0  # of the costmap, for it has to follow a clock that stands and jumps
ANSWER_S = 30.0
START_S = 120.0  # on a machine that others use, too
UNKNOWN, FREE, AVOID, LETHAL = -1, 0, 1, 2
DANGER = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LEAST_FRAMES = 5  # that a thing is in range, to count
CAMERA_UP_M = StreetConfig().camera_height_m
IN_BASE = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, CAMERA_UP_M], [0.0, 0.0, 0.0, 1.0]])

Grid = npt.NDArray[np.int8]
Drive = Sequence[tuple[StreetFrame, npt.NDArray[np.float64]]]  # frames, and poses of the camera


@dataclass
class Played:
    """What came of one drive.

    Attributes:
        grids: (frames, rows, columns) levels; a row is a step in y.
        origins: (frames, 2) tile (x, y) of each grid's first cell.
        answer_ms: time of day from a frame's image to its labels, for each frame.
        unanswered: frames without labels or without points.
        complaints: lines that the costmap's process logged as errors.
        late: share of known tiles that changed between the two looks of a frame.
    """

    grids: Grid
    origins: npt.NDArray[np.int64]
    answer_ms: npt.NDArray[np.float64]
    unanswered: int
    complaints: int
    late: float

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Played:
        with np.load(path) as held:
            numbers = {name: held[name].item() for name in ("unanswered", "complaints", "late")}
            return cls(held["grids"], held["origins"], held["answer_ms"], **numbers)


# ---- playing a drive ------------------------------------------------------------------------------------------------------


class Robot:
    """The processes of one setting, and the camera, odometry and clock around them."""

    def __init__(self, setting: str, folder: Path, edge_px: int) -> None:
        import rclpy
        from geometry_msgs.msg import TransformStamped
        from nav_msgs.msg import OccupancyGrid
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, Image, PointCloud2
        from tf2_msgs.msg import TFMessage
        from vision_msgs.msg import LabelInfo

        from lmanet_ros.conversions import stamp_ns

        self._stamp_ns = stamp_ns
        self.setting, self._edge_px = setting, edge_px
        self._log = (folder / f"{setting}.log").open("w+")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._labels_ns = self._points_ns = -1
        self._costmap: tuple[int, npt.NDArray[np.int64], Grid] | None = None
        self._clock_type, self._transform_type, self._tf_type = Clock, TransformStamped, TFMessage
        node = self._node = rclpy.create_node("robot")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        many = QoSProfile(depth=20)
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        self._tf = node.create_publisher(TFMessage, "/tf", many)
        self._tf_static = node.create_publisher(TFMessage, "/tf_static", latched)
        types = {"depth": Image, "camera/camera_info": CameraInfo, "camera/image": Image}
        if setting == "truth":
            outputs = dict.fromkeys(("labels", "confidence", "color"), Image) | {"camera_info": CameraInfo}
            types = {"depth": Image, **{f"segmentation/{name}": kind for name, kind in outputs.items()}}
            self._label_info = node.create_publisher(LabelInfo, "segmentation/label_info", latched)
        self._outputs = {topic: node.create_publisher(kind, topic, many) for topic, kind in types.items()}
        node.create_subscription(Image, "segmentation/labels", self._on_labels, many)
        node.create_subscription(PointCloud2, "segmentation/points", self._on_points, many)
        node.create_subscription(OccupancyGrid, "/local_costmap/costmap", self._on_costmap, latched)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)

    def start(self, pose: npt.NDArray[np.float64]) -> None:
        """Start the processes, and wait until each hears what it needs.

        Args:
            pose: of the camera in the first frame.
        """
        from lmanet_ros.conversions import label_info_to_message

        self.set_clock(FIRST_NS, pose)
        if self.setting == "truth":
            self._label_info.publish(label_info_to_message(CITYSCAPES, as_time(FIRST_NS)))
        else:
            on = str(self.setting == "on").lower()
            reliable = "qos_overrides./camera/image.subscription.reliability:=reliable"
            memories = [f"{name}.enabled:={on}" for name in ("memory", "label_memory")]
            words = [word for value in (reliable, *memories) for word in ("-p", value)]
            topics = ["-r", "image:=/camera/image", "-r", "camera_info:=/camera/camera_info"]
            self._run(sys.executable, "-m", "lmanet_ros.segment_node", "--ros-args", *topics, *words)
        self._run(sys.executable, "-m", "lmanet_ros.semantic_points", "--ros-args", "-p", f"edge_px:={self._edge_px}")
        rates = [word for name in ("update", "publish") for word in ("-p", f"{name}_frequency:={RATE_HZ}")]
        names = ["-r", "__ns:=/local_costmap", "-r", "__node:=local_costmap"]
        self._run(executable("nav2_costmap_2d"), "--ros-args", *names, "--params-file", str(PARAMETERS), *rates)
        self._bring_up(pose)
        needed = {
            "segmentation/labels": 3,
            "segmentation/confidence": 2,
            "segmentation/points": 2,
            "segmentation/label_info": 1,
        }
        needed |= {"depth": 1, "segmentation/color": 1, "segmentation/camera_info": 1}
        needed |= {} if self.setting == "truth" else {"camera/image": 1, "camera/camera_info": 1}
        self.wait(
            lambda: all(self._node.count_subscribers(topic) >= count for topic, count in needed.items()),
            f"listeners to {', '.join(needed)}",
            START_S,
        )
        self.spin(2.0)  # the latched classes arrive

    def play(self, drive: Drive) -> Played:
        """Show the frames one after the other."""
        grids, origins, answers, changes, unanswered = [], [], [], [], 0
        for index, (frame, pose) in enumerate(drive):
            now = FIRST_NS + index * PERIOD_NS
            self.set_clock(now, pose)
            begun = time.perf_counter()
            self._send(frame, now)
            labelled = self.wait(lambda now=now: self._labels_ns == now)
            answers.append(1e3 * (time.perf_counter() - begun))
            unanswered += not (labelled and self.wait(lambda now=now: self._points_ns == now))
            self.spin(SETTLE_S)
            looks = [self._look(now + later, pose) for later in LOOKS_NS]
            (first_origin, first), (origin, grid) = looks
            grids.append(grid)
            origins.append(origin)
            if (first_origin == origin).all():
                known = (first != UNKNOWN) | (grid != UNKNOWN)
                changes.append(float((first != grid)[known].mean()) if known.any() else 0.0)
        self._log.seek(0)
        complaints = sum("[ERROR]" in line for line in self._log)
        return Played(
            np.array(grids), np.array(origins), np.array(answers), unanswered, complaints, float(np.mean(changes or [0.0]))
        )

    def set_clock(self, now_ns: int, pose: npt.NDArray[np.float64]) -> None:
        """Tell the time, and where the camera is."""
        base = pose @ np.linalg.inv(IN_BASE)
        self._tf.publish(self._tf_type(transforms=[self._transform(now_ns, "odom", "base_link", base)]))
        self._clock.publish(self._clock_type(clock=as_time(now_ns)))

    def wait(self, condition: Callable[[], Any], wanted: str = "", timeout_s: float = ANSWER_S) -> bool:
        """Spin until a condition holds; False where it does not in time, or SystemExit where `wanted` says what for."""
        end = time.monotonic() + timeout_s
        while not condition():
            for process in self._processes:
                if process.poll() is not None:
                    raise SystemExit(f"{process.args} ended with {process.returncode}\n{self._tail()}")
            if time.monotonic() > end:
                if wanted:
                    raise SystemExit(f"no {wanted} within {timeout_s:g} s\n{self._tail()}")
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end)

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._node.destroy_node()
        self._log.close()

    def _run(self, *command: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        words = [*command, "-p", "use_sim_time:=true"]
        self._processes.append(subprocess.Popen(words, env=environment, stdout=self._log, stderr=subprocess.STDOUT))

    def _tail(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-20:])

    def _bring_up(self, pose: npt.NDArray[np.float64]) -> None:
        """Configure and activate the costmap, which waits for a pose meanwhile."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        still = [self._transform(FIRST_NS, "map", "odom", np.eye(4)), self._transform(FIRST_NS, "base_link", "camera", IN_BASE)]
        self._tf_static.publish(self._tf_type(transforms=still))
        client = self._node.create_client(ChangeState, "/local_costmap/local_costmap/change_state")
        self.wait(client.service_is_ready, "costmap", START_S)
        timer = self._node.create_timer(0.05, lambda: self.set_clock(FIRST_NS, pose))
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            answer = client.call_async(ChangeState.Request(transition=Transition(id=number)))
            self.wait(answer.done, "answer of the costmap", START_S)
            if not answer.result().success:
                raise SystemExit(f"the costmap refuses transition {number}\n{self._tail()}")
        self._node.destroy_timer(timer)

    def _send(self, frame: StreetFrame, stamp_ns: int) -> None:
        from std_msgs.msg import Header

        from lmanet_ros.conversions import camera_info_to_message, image_to_message

        header = Header(stamp=as_time(stamp_ns), frame_id="camera")
        images = {"depth": frame.depth_m, "camera/image": frame.image, "segmentation/labels": frame.labels}
        images["segmentation/confidence"] = np.full(frame.labels.shape, 255, np.uint8)
        images["segmentation/color"] = frame.image  # nobody looks at it
        for topic, publisher in self._outputs.items():
            info = topic.endswith("camera_info")
            publisher.publish(
                camera_info_to_message(frame.camera_info, header) if info else image_to_message(images[topic], header)
            )

    def _look(self, now_ns: int, pose: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], Grid]:
        """The costmap of a time: tile of its first cell, and levels."""
        self.set_clock(now_ns, pose)
        self.wait(lambda: self._costmap is not None and self._costmap[0] >= now_ns, "costmap")
        assert self._costmap is not None
        return self._costmap[1:]

    def _transform(self, stamp_ns: int, parent: str, child: str, matrix: npt.NDArray[np.float64]) -> Any:
        message = self._transform_type(child_frame_id=child)
        message.header.stamp, message.header.frame_id = as_time(stamp_ns), parent
        shift, turn = message.transform.translation, message.transform.rotation
        shift.x, shift.y, shift.z = matrix[:3, 3].tolist()
        turn.x, turn.y, turn.z, turn.w = quaternion(matrix[:3, :3])
        return message

    def _on_labels(self, message: Any) -> None:
        self._labels_ns = self._stamp_ns(message.header)

    def _on_points(self, message: Any) -> None:
        self._points_ns = self._stamp_ns(message.header)

    def _on_costmap(self, message: Any) -> None:
        info = message.info
        origin = np.rint(np.array([info.origin.position.x, info.origin.position.y]) / info.resolution).astype(np.int64)
        occupancy = np.array(message.data, np.int8).reshape(info.height, info.width)
        levels = np.select([occupancy < 0, occupancy == 0, occupancy < 99], [UNKNOWN, FREE, AVOID], LETHAL)
        self._costmap = (self._stamp_ns(message.header), origin, levels.astype(np.int8))


def as_time(nanoseconds: int) -> Any:
    from builtin_interfaces.msg import Time

    return Time(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


def executable(package: str) -> str:
    """The file of a package's executable of the same name."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / package / package
        if path.is_file():
            return str(path)
    raise SystemExit(f"{package} is not installed below AMENT_PREFIX_PATH; source the workspace that has it")


def quaternion(turn: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """(3, 3) rotation → x, y, z, w."""
    axis, _ = cv2.Rodrigues(turn)
    angle = float(np.linalg.norm(axis))
    x, y, z = (np.sin(angle / 2) / angle * axis.ravel() if angle > 1e-9 else axis.ravel() / 2).tolist()
    return x, y, z, float(np.cos(angle / 2))


# ---- the same without nav2 ------------------------------------------------------------------------------------------------


def play_by_rule(drive: Drive, setting: str, parameters: dict[str, Any], edge_px: int) -> Played:
    """A drive by the layer's rule, `nav2_rule.Layer`, in this process."""
    from nav2_rule import Layer

    from lmanet_core.stream.segmenter import SegmenterConfig, VideoSegmenter
    from lmanet_core.weights.shipped import default_weights

    on = setting == "on"
    segmenter = VideoSegmenter.from_weights(default_weights(), SegmenterConfig(memory=on, label_memory=on))
    source, resolution = parameters["semantic_layer"]["camera"], parameters["resolution"]
    layer = Layer(source, CITYSCAPES.names, resolution)
    wide, tall = (round(parameters[name] / resolution) for name in ("width", "height"))
    grids, origins, answers = [], [], []
    for index, (frame, pose) in enumerate(drive):
        now_s = index * PERIOD_NS / SECOND
        labels, confidence = frame.labels, np.full(frame.labels.shape, 255, np.uint8)
        begun = time.perf_counter()
        if setting != "truth":
            result = segmenter.step(frame.image, index * PERIOD_NS)
            assert result.labels is not None and result.confidence is not None
            labels, confidence = result.labels, result.confidence
        answers.append(1e3 * (time.perf_counter() - begun))
        layer.add(labels, confidence, points_in_town(frame, pose, edge_px), pose[:3, 3], now_s)
        layer.update(now_s + LOOKS_NS[-1] / SECOND)
        origin = np.floor(pose[:2, 3] / resolution).astype(np.int64) - (wide // 2, tall // 2)
        grid = np.full((tall, wide), UNKNOWN, np.int8)
        tiles = np.array(list(layer.costs), np.int64).reshape(-1, 2) - origin
        costs = np.array(list(layer.costs.values()))
        inside = ((tiles >= 0) & (tiles < (wide, tall))).all(1)
        grid[tiles[inside, 1], tiles[inside, 0]] = np.select([costs == 0, costs < 253], [FREE, AVOID], LETHAL)[inside]
        grids.append(grid)
        origins.append(origin)
    return Played(np.array(grids), np.array(origins), np.array(answers), 0, 0, 0.0)


def points_in_town(frame: StreetFrame, pose: npt.NDArray[np.float64], edge_px: int = 0) -> npt.NDArray[np.float64]:
    """(H, W, 3) points of a frame in the costmap's frame, metres; NaN in the sky."""
    k = frame.camera_info.k
    depth = drop_depth_edges(depth_in_metres(frame.depth_m), edge_px).astype(np.float64)
    height, width = depth.shape
    x = (np.arange(width) - k[2]) / k[0] * depth
    y = (np.arange(height)[:, None] - k[5]) / k[4] * depth
    return np.stack([x, y, depth], axis=-1) @ pose[:3, :3].T + pose[:3, 3]


# ---- what is measured -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Tiles that a frame's points fall into.

    Attributes:
        tiles: (N, 2) x and y.
        danger: (N,) bool, whether a person or a vehicle is among the points.
    """

    tiles: npt.NDArray[np.int64]
    danger: npt.NDArray[np.bool_]


def look_at(frame: StreetFrame, pose: npt.NDArray[np.float64], resolution_m: float, near_m: float, far_m: float) -> Seen:
    """The tiles as the layer counts them, with the true labels."""
    points = points_in_town(frame, pose)
    away = np.linalg.norm(points - pose[:3, 3], axis=-1)
    inside = (away > near_m) & (away < far_m)
    at = np.floor(points[inside][:, :2] / resolution_m).astype(np.int64)
    tiles, which = np.unique(at, axis=0, return_inverse=True)
    ids = [CITYSCAPES.names.index(name) for name in DANGER]
    danger = np.zeros(len(tiles), bool)
    danger[which.ravel()[np.isin(frame.labels[inside], ids)]] = True
    return Seen(tiles, danger)


def levels_at(played: Played, index: int, tiles: npt.NDArray[np.int64]) -> Grid:
    """(N,) levels of tiles in the costmap of a frame; unknown where it does not reach."""
    grid = played.grids[index]
    x, y = (tiles - played.origins[index]).T
    inside = (x >= 0) & (y >= 0) & (x < grid.shape[1]) & (y < grid.shape[0])
    found = np.full(len(tiles), UNKNOWN, np.int8)
    found[inside] = grid[y[inside], x[inside]]
    return found


def count_flips(played: Played, seen: Sequence[Seen]) -> tuple[int, int]:
    """Flips, and tiles times frames in which there could have been one."""
    flips = chances = 0
    for index in range(1, len(seen)):
        before, now = (levels_at(played, at, seen[index].tiles) for at in (index - 1, index))
        known = (before != UNKNOWN) & (now != UNKNOWN)
        flips += int((before != now)[known].sum())
        chances += int(known.sum())
    return flips, chances


def count_wrong(played: Played, truth: Played, seen: Sequence[Seen]) -> tuple[float, float]:
    """Share of tiles that are lethal and should not be, and of those that are not and should be."""
    false = missing = tiles = 0
    for index, each in enumerate(seen):
        here, wanted = levels_at(played, index, each.tiles), levels_at(truth, index, each.tiles)
        known = (here != UNKNOWN) & (wanted != UNKNOWN)
        false += int(((here == LETHAL) & (wanted != LETHAL))[known].sum())
        missing += int(((here != LETHAL) & (wanted == LETHAL))[known].sum())
        tiles += int(known.sum())
    return false / tiles, missing / tiles


def find_things(seen: Sequence[Seen]) -> list[dict[int, npt.NDArray[np.int64]]]:
    """What belongs together of the tiles with a person or a vehicle, from its first frame on.

    Tiles belong together that touch, and with what lay within two tiles one frame before. What meets goes on as the older one.

    Returns:
        for each thing: frame → (N, 2) tiles.
    """
    things: list[dict[int, npt.NDArray[np.int64]]] = []
    before: dict[tuple[int, int], int] = {}
    for index, each in enumerate(seen):
        now: dict[tuple[int, int], int] = {}
        tiles = each.tiles[each.danger]
        if len(tiles):
            low = tiles.min(0)
            mask = np.zeros((tiles.max(0) - low + 1)[::-1], np.uint8)
            mask[tiles[:, 1] - low[1], tiles[:, 0] - low[0]] = 1
            _, parts = cv2.connectedComponents(mask, connectivity=8)
            part_of = parts[tiles[:, 1] - low[1], tiles[:, 0] - low[0]]
            for part in range(1, int(part_of.max()) + 1):
                own = tiles[part_of == part]
                near = {before[at] for x, y in own.tolist() for at in _around(x, y) if at in before}
                number = min(near, default=len(things))
                if number == len(things):
                    things.append({})
                held = things[number].get(index)
                things[number][index] = own if held is None else np.concatenate([held, own])
                now |= dict.fromkeys(map(tuple, own.tolist()), number)
        before = now
    return things


def _around(x: int, y: int, reach: int = 2) -> Iterator[tuple[int, int]]:
    return ((x + i, y + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1))


def delays_s(played: Played, things: Sequence[dict[int, npt.NDArray[np.int64]]]) -> list[float]:
    """Seconds from each thing's first frame to its first lethal tile, infinite where it never was; see the module."""
    found = []
    for thing in things:
        if len(thing) >= LEAST_FRAMES:
            marked = (at for at in sorted(thing) if (levels_at(played, at, thing[at]) == LETHAL).any())
            found.append((next(marked, np.inf) - min(thing)) * PERIOD_NS / SECOND)
    return found


def marked_at_once(played: Played, seen: Sequence[Seen]) -> float:
    """Of the tiles that first hold a person or a vehicle, the share that is lethal in the costmap of the very frame."""
    known: set[tuple[int, int]] = set()
    lethal = tiles = 0
    for index, each in enumerate(seen):
        new = np.array([tile for tile in map(tuple, each.tiles[each.danger].tolist()) if tile not in known], np.int64)
        if len(new):
            known.update(map(tuple, new.tolist()))
            lethal += int((levels_at(played, index, new) == LETHAL).sum())
            tiles += len(new)
    return lethal / max(1, tiles)


def measure(played: Played, truth: Played, seen: Sequence[Seen]) -> dict[str, float]:
    """The figures of one drive."""
    counts = (count_flips(one, seen) for one in (played, truth))
    per_minute = [flips / (chances * PERIOD_NS / SECOND / 60.0) for flips, chances in counts]
    false, missing = count_wrong(played, truth, seen)
    delays = delays_s(played, find_things(seen))
    marked = [delay for delay in delays if np.isfinite(delay)]
    return {
        "flips_per_tile_and_minute": per_minute[0],
        "beyond_those_with_true_labels": per_minute[0] - per_minute[1],
        "falsely_lethal_percent": 100 * false,
        "falsely_not_lethal_percent": 100 * missing,
        "things": len(delays),
        "things_never_marked": len(delays) - len(marked),
        "delay_mean_s": statistics.mean(marked),
        "delay_median_s": statistics.median(marked),
        "delay_p95_s": float(np.percentile(marked, 95)),
        "tiles_marked_at_once_percent": 100 * marked_at_once(played, seen),
        "image_to_labels_median_ms": float(np.median(played.answer_ms)),
        "unanswered": played.unanswered,
        "complaints": played.complaints,
        "changed_between_looks_percent": 100 * played.late,
    }


# ---- the picture ----------------------------------------------------------------------------------------------------------

COLORS = {UNKNOWN: (205, 205, 205), FREE: (255, 255, 255), AVOID: (240, 190, 80), LETHAL: (40, 40, 40)}  # RGB


def draw(runs: dict[str, Played], frame: StreetFrame, index: int, seen: Sequence[Seen]) -> npt.NDArray[np.uint8]:
    """Camera and true labels, the costmap of a frame with each setting, how often its tiles flipped in the whole drive."""
    names = {"off": "memories off", "on": "memories on", "truth": "true labels"}
    reach, scale = 56, 3  # tiles around the middle of what is seen
    middle = np.rint(seen[index].tiles.mean(0)).astype(np.int64)
    size = 2 * reach * scale
    around = np.stack(np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach)), -1).reshape(-1, 2) + middle
    rows = []
    for kind in ("costmap", "flips"):
        panels = []
        for name, played in runs.items():
            if kind == "costmap":
                levels = levels_at(played, index, around)
                pixels = np.array([COLORS[level] for level in levels.tolist()], np.uint8)
                title = f"costmap, {names[name]}"
            else:
                times = np.zeros(len(around), np.int64)
                for at in range(1, len(seen)):
                    before, now = (levels_at(played, one, around) for one in (at - 1, at))
                    times += (before != now) & (before != UNKNOWN) & (now != UNKNOWN)
                heat = cv2.applyColorMap(np.minimum(times * 25, 255).astype(np.uint8)[:, None], cv2.COLORMAP_HOT)
                pixels = 255 - cv2.cvtColor(255 - heat, cv2.COLOR_BGR2RGB)[:, 0]
                title = f"flips of a tile, {names[name]}: {int(times.sum())}"
            panel = pixels.reshape(2 * reach, 2 * reach, 3)[::-1]  # y is up
            panel = cv2.resize(np.ascontiguousarray(panel), (size, size), interpolation=cv2.INTER_NEAREST)
            panels.append(_titled(panel, title))
        rows.append(np.hstack(panels))
    picture = np.vstack(rows)
    wide = cv2.resize(frame.image, (picture.shape[1] // 2, picture.shape[1] // 4), interpolation=cv2.INTER_AREA)
    truth = cv2.resize(CITYSCAPES.overlay(frame.image, frame.labels), wide.shape[1::-1], interpolation=cv2.INTER_AREA)
    top = np.hstack([wide, truth])
    pad = np.full((top.shape[0], picture.shape[1] - top.shape[1], 3), 255, np.uint8)
    return np.vstack([np.hstack([top, pad]), picture])


def _titled(panel: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    framed = cv2.copyMakeBorder(panel, 26, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(framed, np.uint8)


# ---------------------------------------------------------------------------------------------------------------------------


def play_with_nav2(drive: Drive, setting: str, folder: Path, edge_px: int) -> Played:
    """A drive through the node and nav2's costmap; logs of the processes go into the folder."""
    robot = Robot(setting, folder, edge_px)
    try:
        robot.start(drive[0][1])
        return robot.play(drive)
    finally:
        robot.stop()


def play_all(
    options: argparse.Namespace, seed: int, folder: Path, parameters: dict[str, Any]
) -> tuple[Drive, dict[str, Played]]:
    """A drive with every setting; what was played lies in the folder, so that a benchmark that was broken off goes on."""
    street = Street(StreetConfig(seed=seed, degradation=options.degradation, level=options.level))
    drive = [(street.frame(index), street.camera_pose(index)) for index in range(options.frames)]
    runs = {}
    for setting in SETTINGS:
        camera = "" if setting == "truth" or options.degradation == "none" else f"_{options.degradation}{options.level}"
        way = "rule" if options.without_nav2 else "nav2"
        path = folder / f"{way}_{seed}_{setting}_{options.frames}{camera}_edge{options.edge_px}.npz"
        if not path.is_file():
            if options.without_nav2:
                played = play_by_rule(drive, setting, parameters, options.edge_px)
            else:
                played = play_with_nav2(drive, setting, folder, options.edge_px)
            played.save(path)
        runs[setting] = Played.load(path)
    return drive, runs


def summarize(drives: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the drives, by setting."""
    return {
        setting: {name: round(statistics.median(d[setting][name] for d in drives), 3) for name in drives[0][setting]}
        for setting in drives[0]
    }


def check(drives: Sequence[dict[str, dict[str, float]]], medians: dict[str, dict[str, float]]) -> dict[str, bool]:
    """The goals."""
    off, on = medians["off"], medians["on"]
    of_all, beyond = (
        statistics.median(d["on"][name] / d["off"][name] for d in drives)
        for name in ("flips_per_tile_and_minute", "beyond_those_with_true_labels")
    )
    lost = sum(one["unanswered"] for d in drives for one in d.values())
    said = sum(one["complaints"] for d in drives for one in d.values())
    return {
        f"flips with memories over without, median of drives ≤ 0.5: {of_all:.2f}": of_all <= 0.5,
        f"the same of the flips beyond those with true labels: {beyond:.2f}": beyond <= 0.5,
        f"mean delay with memories no longer: {on['delay_mean_s']} s, without {off['delay_mean_s']} s": on["delay_mean_s"]
        <= off["delay_mean_s"],
        f"things never marked with memories no more: {on['things_never_marked']}, without {off['things_never_marked']}": on[
            "things_never_marked"
        ]
        <= off["things_never_marked"],
        f"frames lost on the way: {lost:g}": lost == 0,
        f"errors that the costmap logged: {said:g}": said == 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5_000_000, 5_000_001, 5_000_002])
    parser.add_argument("--frames", type=int, default=300, help="of each drive, ten a second")
    parser.add_argument("--degradation", default="none", choices=DEGRADATIONS)
    parser.add_argument("--level", type=int, default=2, help="of the degradation")
    parser.add_argument("--edge-px", type=int, default=4, help="semantic_points' edge_px")
    parser.add_argument("--without-nav2", action="store_true", help="the layer's rule in Python in place of nav2")
    parser.add_argument("--runs", type=Path, help="folder that keeps what was played, and goes on from there")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--picture", type=Path, help="write a PNG of the first drive here")
    parser.add_argument("--at", type=int, help="frame of the picture; default: where the settings differ most")
    options = parser.parse_args()
    parameters = yaml.safe_load(PARAMETERS.read_text())["local_costmap"]["local_costmap"]["ros__parameters"]
    source = parameters["semantic_layer"]["camera"]
    ranges = (parameters["resolution"], source["min_obstacle_distance"], source["max_obstacle_distance"])
    if not options.without_nav2:
        import rclpy

        rclpy.init()
    drives = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(options.seeds):
            drive, runs = play_all(options, seed, folder, parameters)
            seen = [look_at(frame, pose, *ranges) for frame, pose in drive]
            drives.append({setting: measure(played, runs["truth"], seen) for setting, played in runs.items()})
            print(seed, drives[-1], flush=True)
            if options.picture and number == 0:
                differs = [
                    (levels_at(runs["off"], i, s.tiles) != levels_at(runs["on"], i, s.tiles)).sum() for i, s in enumerate(seen)
                ]
                at = int(np.argmax(differs)) if options.at is None else options.at
                cv2.imwrite(str(options.picture), cv2.cvtColor(draw(runs, drive[at][0], at, seen), cv2.COLOR_RGB2BGR))
    if not options.without_nav2:
        rclpy.try_shutdown()
    medians = summarize(drives)
    result: dict[str, Any] = {
        **describe_run(),
        **{name.lower(): os.environ.get(name, "") for name in ("ROS_DISTRO", "RMW_IMPLEMENTATION")},
        "costmap": "the layer's rule in Python" if options.without_nav2 else "nav2's",
        "frames": options.frames,
        "edge_px": options.edge_px,
        "degradation": f"{options.degradation} {options.level}" if options.degradation != "none" else "none",
        "medians": medians,
        "drives": dict(zip(map(str, options.seeds), drives, strict=True)),
    }
    return finish(result, check(drives, medians), ("medians",), options.json)


if __name__ == "__main__":
    sys.exit(main())
