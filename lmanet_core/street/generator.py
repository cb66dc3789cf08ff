"""An endless drive through a made-up town, with the true label of every pixel.

`Street.frame(index)` is a function of the configuration and the index alone: any frame can be made at any time and is the same
to the byte. Chunks, figures and textures are kept only as caches. Nothing is global; use one `Street` per thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lmanet_core.arrays import Float32Array, Float64Array, UInt8Array
from lmanet_core.geometry import CameraInfo
from lmanet_core.street.atlas import build_atlas
from lmanet_core.street.camera import Lens, Pose, Rig, Transform
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.drive import BLOCK_S, Drive
from lmanet_core.street.figures import Bars
from lmanet_core.street.ground import KERB_UP_M
from lmanet_core.street.mesh import LABEL, Mesh, coarse_mesh
from lmanet_core.street.render import Light, Rendered, Renderer
from lmanet_core.street.road import CHUNK_M, Road
from lmanet_core.street.scene import Figure, Scene, figures_scene, join_scenes, mesh_scene, rise_with_distance
from lmanet_core.street.seeding import Topic, generator
from lmanet_core.street.skyline import skyline_mesh
from lmanet_core.street.town import Town
from lmanet_core.street.traffic import PEOPLE_VIEW_M, VIEW_M, Mover, Traffic
from lmanet_core.street.weather import Weather

_CHUNKS_BEHIND = 1
_DETAIL_M = (130.0, 70.0, 35.0, 18.0)  # distances from which smaller things are left out
_CHUNKS_AHEAD = math.ceil(VIEW_M / CHUNK_M)


@dataclass(frozen=True, slots=True)
class StreetFrame:
    """One image of the drive with its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB, with the configured degradation.
        labels: (H, W) uint8, ids of `CITYSCAPES`; every pixel has a class. Untouched by any degradation.
        stamp_ns: simulated time of the frame since the start of the drive, nanoseconds.
        camera_info: calibration of the camera.
        depth_m: (H, W) float32 metres along the optical axis, infinite in the sky. Untouched by any degradation.
    """

    image: UInt8Array
    labels: UInt8Array
    stamp_ns: int
    camera_info: CameraInfo
    depth_m: Float32Array


class Street:
    """The drive that a configuration describes."""

    def __init__(self, config: StreetConfig | None = None) -> None:
        self.config = config or StreetConfig()
        seed = self.config.seed
        self._lens = Lens.from_config(self.config)
        self._info = self._lens.camera_info()
        self._road = Road(seed)
        self._drive = Drive(seed, self.config.traffic)
        self._rig = Rig(self.config, self._road, self._drive)
        self._town = Town(seed, self._road, self.config.traffic)
        self._traffic = Traffic(seed, self._drive, self._town, self.config.traffic, self.config.pedestrians)
        self._skyline = skyline_mesh(seed, self._town.style)
        self._renderer = Renderer(self._lens, build_atlas(seed))
        self._coarse = lru_cache(maxsize=256)(coarse_mesh)
        self._weather = Weather(self.config, self._lens)
        self._first_s = float(generator(seed, Topic.TOWN, 1).uniform(0, BLOCK_S))

    @property
    def camera_info(self) -> CameraInfo:
        """Calibration of the camera, the same for every frame."""
        return self._info

    def frame(self, index: int) -> StreetFrame:
        """Make frame `index` (0 or more).

        Raises:
            ValueError: a negative index.
        """
        time_s = self._time(index)
        pose = self._rig.pose(time_s)
        rendered = self._render(pose, time_s)
        image = self._weather.degrade(rendered, index, time_s, pose.speed)
        depth = np.where(rendered.labels == LABEL["sky"], np.float32(np.inf), rendered.depth)
        return StreetFrame(image, rendered.labels, round(index * 1e9 / self.config.fps), self._info, depth)

    def frames(self, start: int = 0, count: int | None = None) -> Iterator[StreetFrame]:
        """Frames `start`, `start + 1` …; `count` of them, or without end."""
        index = start
        while count is None or index < start + count:
            yield self.frame(index)
            index += 1

    def driven_m(self, index: int) -> float:
        """Metres along the road that the camera has come to in frame `index`; only differences matter."""
        return self._drive.driven(self._time(index))

    def camera_pose(self, index: int) -> Float64Array:
        """Where the camera of frame `index` is, as a robot with perfect odometry knows it.

        Returns:
            (4, 4): camera coordinates (x right, y down, z forward; REP 104) → a frame fixed in the town (x forward, y left,
            z up; REP 103), metres. Its origin lies on the carriageway a little behind the camera of frame 0.

        Raises:
            ValueError: a negative index.
        """
        start = self._rig.pose(self._time(0))
        return self._rig.in_town(self._rig.pose(self._time(index)), start.chunk)

    def project(self, index: int, along_m: float, across_m: float, up_m: float = 0.0) -> tuple[float, float]:
        """Where a point of the town appears in frame `index`.

        Args:
            along_m: metres along the road ahead of the camera.
            across_m: metres to the right of the road's centre line.
            up_m: metres above the carriageway.

        Returns:
            (x, y) pixels; may lie outside the image.

        Raises:
            ValueError: a point behind the camera or beyond the view, or a negative index.
        """
        pose = self._rig.pose(self._time(index))
        transforms = self._rig.chunk_transforms(pose, _CHUNKS_BEHIND, _CHUNKS_AHEAD)
        place = self._road.locate(pose.along + along_m, across_m)
        if place.chunk in transforms:
            into_camera = transforms[place.chunk]
            x, y, z = (into_camera.turn @ np.array([place.x, up_m, place.z]) + into_camera.shift).tolist()
            if z > 0:
                return self._lens.focal * x / z + self._lens.cx, self._lens.focal * y / z + self._lens.cy
        raise ValueError(
            f"a point in view lies ahead of the camera by less than {VIEW_M:g} m, got {along_m:g} m along the road"
        )

    def _time(self, index: int) -> float:
        if index < 0:
            raise ValueError(f"frame index must be 0 or more, got {index}")
        return self._first_s + index / self.config.fps

    def _render(self, pose: Pose, time_s: float) -> Rendered:
        transforms = self._rig.chunk_transforms(pose, _CHUNKS_BEHIND, _CHUNKS_AHEAD)
        scenes = [mesh_scene(self._skyline, Transform(pose.compass, np.zeros(3)), None, bias_m=1e6)]
        figures: list[Figure] = []
        for chunk in sorted(transforms, reverse=True):
            self._add_chunk(scenes, figures, chunk, transforms[chunk], pose)
        for mover in self._traffic.movers(time_s):
            self._add_mover(scenes, figures, mover, transforms, pose)
        people = figures_scene(figures, self._lens.focal)
        if people is not None:
            scenes.append(people)
        return self._renderer.render(join_scenes(scenes), self._light(pose, self._weather.sunlight(time_s)))

    def _seen_from(self, mesh: Mesh, distance: float) -> Mesh:
        """The mesh with no more detail than shows at a distance."""
        step = next((d for d in _DETAIL_M if distance > d), None)
        return mesh if step is None else self._coarse(mesh, 0.5 * step / self._lens.focal)

    def _add_chunk(self, scenes: list[Scene], figures: list[Figure], chunk: int, into_camera: Transform, pose: Pose) -> None:
        content = self._town.chunk(chunk)
        ahead = chunk * CHUNK_M - pose.along
        rise = None
        if ahead + 2 * CHUNK_M > VIEW_M - 50.0:
            rise = rise_with_distance(content.mesh.part_along + np.float32(ahead), VIEW_M)
            rise[0] = 1.0  # the ground
        scenes.append(mesh_scene(self._seen_from(content.mesh, ahead), into_camera, rise))
        for bars, place in content.figures:
            far = ahead + place.z
            if -5.0 < far < PEOPLE_VIEW_M:
                placed = into_camera.placed(place.x, KERB_UP_M, place.z, place.heading)
                figures.append(Figure(bars, placed, _rise(far, PEOPLE_VIEW_M)))

    def _add_mover(
        self, scenes: list[Scene], figures: list[Figure], mover: Mover, transforms: dict[int, Transform], pose: Pose
    ) -> None:
        place = self._road.locate(mover.along, mover.across)
        if place.chunk not in transforms:
            return
        into_camera = transforms[place.chunk].placed(place.x, mover.up, place.z, place.heading + mover.heading)
        distance = mover.along - pose.along
        rise = _rise(distance, mover.view_m)
        if isinstance(mover.body, Bars):
            figures.append(Figure(mover.body, into_camera, rise))
        else:
            mesh = self._seen_from(mover.body, distance - 6.0)
            parts = np.full(len(mesh.part_far), rise, np.float32) if rise < 1 else None
            scenes.append(mesh_scene(mesh, into_camera, parts, mover.bias_m))

    def _light(self, pose: Pose, sunlight: float) -> Light:
        style = self._town.style
        flat = math.cos(style.sun_height)
        sun = np.array([math.sin(style.sun_heading) * flat, math.sin(style.sun_height), math.cos(style.sun_heading) * flat])
        east, up, north = (pose.compass @ axis for axis in np.eye(3))
        ambient = [a + 0.55 * (1 - sunlight) * s for a, s in zip(style.ambient, style.sun, strict=True)]
        return Light(
            sun_direction=(pose.compass @ sun).astype(np.float32),
            up=up.astype(np.float32),
            east=east.astype(np.float32),
            north=north.astype(np.float32),
            sun=(style.sun[0] * sunlight, style.sun[1] * sunlight, style.sun[2] * sunlight),
            ambient=(ambient[0], ambient[1], ambient[2]),
            sky=style.sky,
            haze=style.haze,
            haze_per_m=style.haze_per_m,
            shadow=0.3 + (0.15 * sunlight if style.sunny else 0.0),
            grass=style.grass,
        )


def _rise(distance: float, view_m: float) -> float:
    return float(rise_with_distance(np.array([distance], np.float32), view_m)[0])
