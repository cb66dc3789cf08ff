"""Draws a scene: polygon numbers first, far to near, then colour, label and distance of every pixel from its polygon.

Polygons are filled into one plane of numbers at twice the image's size. Colours are looked up there and averaged, which smooths
edges; labels are read at one sample per pixel and never mixed. A flat polygon's inverse distance and texture coordinates are
ratios of affine functions of the pixel, so texture is exact in perspective and stays on its surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.street.atlas import Atlas
from lmanet_core.street.camera import Lens
from lmanet_core.street.clipping import NEAR_M, clip_polygons
from lmanet_core.street.mesh import CONCAVE, GROUND, LABEL, LIT, TWO_SIDED
from lmanet_core.street.scene import Scene
from lmanet_core.street.textures import CLOUDS, GRASS, TILE_M

IntArray = npt.NDArray[np.int64]

_SCALE = 2  # samples per pixel along each side
_SHIFT = 4  # fractional bits of polygon corners
_LIMIT = 30000.0  # samples; corners further out are moved in
_SKY_M = 55.0  # height of the plane that stands for the sky; sets how fast haze thins out upwards
_SKY_TILES = 0.35  # cloud tiles per unit of (horizontal / vertical)
_MAX_DEPTH = 4000.0
_SHADOW_REACH_M = 110.0
_FIRST_ID = 2  # 0 is the sky, 1 the open ground


class Light(NamedTuple):
    """Daylight: sun direction in camera coordinates, and colours as factors (ambient, sun) or 0–255 (sky, haze)."""

    sun_direction: Float32Array
    up: Float32Array
    east: Float32Array
    north: Float32Array
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sky: tuple[float, float, float]
    haze: tuple[float, float, float]
    haze_per_m: float
    shadow: float  # how much of the ground's light a shadow takes, 0–1
    grass: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the renderer knows of every pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB in daylight and clear air.
        labels: (H, W) uint8 class ids.
        depth: (H, W) float32 metres along the optical axis; large for the sky.
        glow: (H, W) uint8, 255 where a lamp shines by itself.
    """

    image: UInt8Array
    labels: UInt8Array
    depth: Float32Array
    glow: UInt8Array


class _Drawn(NamedTuple):
    """Polygons that survived culling, in the order they are painted."""

    faces: IntArray
    planes: Float32Array  # (F, 3): 1/z = plane · ray
    centers: Float32Array  # (F, 3)


class Renderer:
    """Draws scenes for one lens with one set of textures. Keeps buffers; not for several threads at once."""

    def __init__(self, lens: Lens, atlas: Atlas) -> None:
        self._lens, self._atlas = lens, atlas
        height, width = lens.height, lens.width
        self._size = (width, height)
        self._ids = np.zeros((_SCALE * height, _SCALE * width), np.int32)
        self._rays_x = ((np.arange(width, dtype=np.float32) - 0.25 - lens.cx) / lens.focal)[None, :]
        self._rays_y = ((np.arange(height, dtype=np.float32) - 0.25 - lens.cy) / lens.focal)[:, None]
        self._planes = [np.empty((height, width), np.float32) for _ in range(6)]

    def render(self, scene: Scene, light: Light) -> Rendered:
        """Draw one frame."""
        drawn = self._paint(scene, light)
        return self._shade(scene, drawn, light)

    def _paint(self, scene: Scene, light: Light) -> _Drawn:
        starts = np.cumsum(scene.counts) - scene.counts
        faces, planes, centers = self._visible(scene, starts)
        corners, counts = self._project(scene, starts, faces)
        keep, outlines = self._on_screen(corners, counts)
        faces, planes, centers = faces[keep], planes[keep], centers[keep]
        ids = self._ids
        ids[:] = 0
        self._fill_ground(light)
        concave = (scene.flags[faces] & CONCAVE).astype(bool).tolist()
        fill, fill_any = cv2.fillConvexPoly, cv2.fillPoly
        for number, (outline, any_shape) in enumerate(zip(outlines, concave, strict=True), _FIRST_ID):
            if any_shape:
                fill_any(ids, [outline], (number,), cv2.LINE_8, _SHIFT)
            else:
                fill(ids, outline, (number,), cv2.LINE_8, _SHIFT)
        return _Drawn(faces, planes, centers)

    def _visible(self, scene: Scene, starts: IntArray) -> tuple[IntArray, Float32Array, Float32Array]:
        """Polygons in the field of view whose front we see, in painting order, with their planes and centres."""
        lens = self._lens
        x, y, z = scene.points.T
        wide = 1.05 * max(lens.cx + 1, lens.width - lens.cx) / lens.focal
        tall = 1.05 * max(lens.cy + 1, lens.height - lens.cy) / lens.focal
        inside = (
            (np.maximum.reduceat(z, starts) > NEAR_M)
            & (np.minimum.reduceat(x - wide * z, starts) < 0)
            & (np.minimum.reduceat(-x - wide * z, starts) < 0)
            & (np.minimum.reduceat(y - tall * z, starts) < 0)
            & (np.minimum.reduceat(-y - tall * z, starts) < 0)
        )
        offset = (scene.points[starts] * scene.normals).sum(axis=1)
        inside &= (offset < 0) | ((scene.flags & TWO_SIDED) != 0)
        order = self._painting_order(scene, z, starts)
        faces = order[inside[order]]
        offset = offset[faces]
        offset = np.where(np.abs(offset) < 1e-3, np.float32(-1e-3), offset)
        planes = scene.normals[faces] / offset[:, None]
        centers = np.add.reduceat(scene.points, starts)[faces] / scene.counts[faces][:, None]
        return faces, planes, centers.astype(np.float32)

    def _painting_order(self, scene: Scene, z: Float32Array, starts: IntArray) -> IntArray:
        part_starts = np.flatnonzero(np.diff(scene.parts, prepend=-1))
        nearest = np.minimum.reduceat(np.minimum.reduceat(z, starts), part_starts)
        farthest = np.maximum.reduceat(np.maximum.reduceat(z, starts), part_starts)
        distance = np.where(scene.part_far, farthest, nearest) + scene.part_bias
        key = distance[scene.parts]
        key[(scene.flags & GROUND) != 0] += 1e5
        return np.argsort(-key, kind="stable")

    def _project(self, scene: Scene, starts: IntArray, faces: IntArray) -> tuple[Float32Array, IntArray]:
        """Image corners in samples, all polygons after each other, clipped at the near plane."""
        counts = scene.counts[faces].astype(np.int64)
        firsts = np.cumsum(counts) - counts
        points = scene.points[_ranges(starts[faces], counts)]
        behind = points[:, 2] < NEAR_M
        if behind.any():
            points, counts = clip_polygons(points, counts, firsts, behind)
        lens = self._lens
        scale = _SCALE * lens.focal / points[:, 2]
        center = np.array([_SCALE * lens.cx, _SCALE * lens.cy], np.float32) + (_SCALE - 1) / 2
        corners = points[:, :2] * scale[:, None] + center
        return np.clip(corners, -_LIMIT, _LIMIT).astype(np.float32), counts

    def _on_screen(self, corners: Float32Array, counts: IntArray) -> tuple[npt.NDArray[np.bool_], list[npt.NDArray[np.int32]]]:
        """Which polygons cover something, and their outlines in fixed-point samples."""
        firsts = np.cumsum(counts) - counts
        low = np.minimum.reduceat(corners, firsts)
        high = np.maximum.reduceat(corners, firsts)
        height, width = self._ids.shape
        size = high - low
        keep = (high[:, 0] >= 0) & (high[:, 1] >= 0) & (low[:, 0] < width) & (low[:, 1] < height)
        keep &= (size[:, 0] * size[:, 1] > 1.0) | (size.max(axis=1) > 4.0)
        fixed = np.rint(corners * (1 << _SHIFT)).astype(np.int32)
        kept = np.flatnonzero(keep)
        bounds = zip(firsts[kept].tolist(), (firsts[kept] + counts[kept]).tolist(), strict=True)
        return keep, [fixed[a:b] for a, b in bounds]

    def _fill_ground(self, light: Light) -> None:
        """Everything below the horizon."""
        lens = self._lens
        ux, uy, uz = light.up.tolist()  # the horizon: up · ray = 0
        height, width = self._ids.shape
        line = []
        for column in (-_SCALE, width + _SCALE):
            ray_x = (column / _SCALE - lens.cx) / lens.focal
            line.append((column, _SCALE * (lens.cy + lens.focal * -(uz + ux * ray_x) / uy)))
        below = [*line, (width + _SCALE, 4 * height), (-_SCALE, 4 * height)]
        cv2.fillConvexPoly(self._ids, np.array(np.rint(np.array(below)), np.int32), (1,))

    def _shade(self, scene: Scene, drawn: _Drawn, light: Light) -> Rendered:
        colors, labels = _tables(scene, drawn, light)
        fine = np.take(colors.view(np.uint32).ravel(), self._ids, mode="clip")  # one texel of four bytes per sample
        base = cv2.resize(fine.view(np.uint8).reshape(*self._ids.shape, 4), self._size, interpolation=cv2.INTER_AREA)
        ids = self._ids[::_SCALE, ::_SCALE].astype(np.intp)
        label_map = np.take(labels, ids, mode="clip")
        inverse = self._inverse_depth(drawn, ids, light)
        surface = self._surface(scene, drawn, ids, inverse, light)
        m = self._shadowed(scene, drawn, ids, surface[..., 3], light)
        image = np.minimum(np.multiply(base[..., :3], cv2.cvtColor(m, cv2.COLOR_GRAY2BGR), dtype=np.uint16) >> 7, 255)
        added = cv2.convertScaleAbs(cv2.cvtColor(surface, cv2.COLOR_RGBA2RGB), alpha=_mean_light(light))
        image = cv2.add(image.astype(np.uint8), added)
        depth = 1.0 / inverse
        image = haze_over(np.asarray(image, np.uint8), depth, light.haze, light.haze_per_m)
        return Rendered(image, label_map, depth, np.ascontiguousarray(base[..., 3]))

    def _ratio(self, table: Float32Array, ids: npt.NDArray[np.intp], out: Float32Array) -> Float32Array:
        """table[id] · (ray_x, ray_y, 1) for every pixel."""
        scratch = self._planes[5]
        np.take(table[2], ids, mode="clip", out=out)
        for row, rays in ((0, self._rays_x), (1, self._rays_y)):
            np.take(table[row], ids, mode="clip", out=scratch)
            scratch *= rays
            out += scratch
        return out

    def _inverse_depth(self, drawn: _Drawn, ids: npt.NDArray[np.intp], light: Light) -> Float32Array:
        special = np.stack([light.up / _SKY_M, light.up / -_GROUND_DROP_M]).astype(np.float32)
        table = np.ascontiguousarray(np.concatenate([special, drawn.planes]).T)
        inverse = self._ratio(table, ids, self._planes[0])
        np.maximum(inverse, 1 / _MAX_DEPTH, out=inverse)
        np.minimum(inverse, 1 / NEAR_M, out=inverse)
        return inverse

    def _surface(
        self, scene: Scene, drawn: _Drawn, ids: npt.NDArray[np.intp], inverse: Float32Array, light: Light
    ) -> UInt8Array:
        """(H, W, 4) texels: r, g, b to add and m to multiply by."""
        faces = drawn.faces
        textures = np.concatenate([[CLOUDS, GRASS], scene.textures[faces]])
        levels = np.concatenate([[0, 4], _levels(scene, drawn, self._atlas, self._lens.focal)])
        size = self._atlas.size[textures, levels]
        maps = []
        for axes, sky_axis, left, out in (
            (scene.u, light.east, self._atlas.x, self._planes[1]),
            (scene.v, light.north, self._atlas.y, self._planes[2]),
        ):
            rows = axes[faces, :3] + axes[faces, 3:] * drawn.planes
            special = np.stack([sky_axis * (_SKY_TILES / _SKY_M), sky_axis / TILE_M[GRASS]])
            table = np.ascontiguousarray(np.concatenate([special, rows]).T.astype(np.float32))
            at = self._ratio(table, ids, out)
            at /= inverse
            at -= np.floor(at, out=self._planes[5])
            at *= np.take(size, ids, mode="clip", out=self._planes[5])
            at += np.take(left[textures, levels] - np.float32(0.5), ids, mode="clip", out=self._planes[5])
            maps.append(at)
        return np.asarray(cv2.remap(self._atlas.image, maps[0], maps[1], cv2.INTER_LINEAR), np.uint8)

    def _shadowed(self, scene: Scene, drawn: _Drawn, ids: npt.NDArray[np.intp], m: UInt8Array, light: Light) -> UInt8Array:
        """The textures' m with shadows on the ground."""
        mask = self._shadow_mask(scene)
        takes = np.zeros(len(drawn.faces) + _FIRST_ID, np.uint8)
        takes[_FIRST_ID:][(scene.flags[drawn.faces] & GROUND) != 0] = 255
        on_ground = np.take(takes, ids, mode="clip")
        shade = cv2.bitwise_and(mask, on_ground)
        kept = np.asarray(255 - cv2.convertScaleAbs(shade, alpha=light.shadow), np.uint16)
        return np.asarray(kept * m // np.uint16(255), np.uint8)

    def _shadow_mask(self, scene: Scene) -> UInt8Array:
        lens = self._lens
        mask = np.zeros((lens.height, lens.width), np.uint8)
        if not len(scene.shadow_counts):
            return mask
        counts = scene.shadow_counts.astype(np.int64)
        firsts = np.cumsum(counts) - counts
        z = scene.shadow_points[:, 2]
        near, far = np.minimum.reduceat(z, firsts), np.maximum.reduceat(z, firsts)
        chosen = np.flatnonzero((near < _SHADOW_REACH_M) & (far > NEAR_M))
        if not len(chosen):
            return mask
        firsts, counts = firsts[chosen], counts[chosen]
        points = scene.shadow_points[_ranges(firsts, counts)]
        firsts = np.cumsum(counts) - counts
        behind = points[:, 2] < NEAR_M
        if behind.any():
            points, counts = clip_polygons(points, counts, firsts, behind)
        corners = points[:, :2] * (lens.focal / points[:, 2:]) + np.array([lens.cx, lens.cy], np.float32)
        fixed = np.rint(np.clip(corners, -_LIMIT, _LIMIT) * (1 << _SHIFT)).astype(np.int32)
        stops = np.cumsum(counts)
        for a, b in zip((stops - counts).tolist(), stops.tolist(), strict=True):
            cv2.fillConvexPoly(mask, fixed[a:b], (255,), cv2.LINE_AA, _SHIFT)
        return mask


_GROUND_DROP_M = 1.45  # depth of the open ground below the camera


def haze_over(image: UInt8Array, depth: Float32Array, color: tuple[float, float, float], per_m: float) -> UInt8Array:
    """Let the air's own colour grow over an image with distance (Koschmieder's law)."""
    clear = cv2.exp(depth * np.float32(-per_m))
    air = np.empty_like(image)
    air[:] = np.clip(color, 0, 255)
    return np.asarray(cv2.blendLinear(image, air, clear, 1.0 - clear), np.uint8)


def _ranges(firsts: IntArray, counts: IntArray) -> IntArray:
    """first, first + 1 … of every range, one after the other."""
    ends = np.cumsum(counts)
    return np.asarray(np.repeat(firsts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0), np.int64)


def _mean_light(light: Light) -> float:
    return (sum(light.ambient) + 0.5 * sum(light.sun)) / 3


def _tables(scene: Scene, drawn: _Drawn, light: Light) -> tuple[UInt8Array, UInt8Array]:
    """Colour with glow (N, 4) and label (N,) of every polygon number."""
    faces = drawn.faces
    normals = scene.normals[faces]
    sun = np.maximum(normals @ light.sun_direction, 0.0)
    open_sky = 0.82 + 0.18 * (normals @ light.up)
    factor = open_sky[:, None] * np.array(light.ambient, np.float32) + sun[:, None] * np.array(light.sun, np.float32)
    lit = (scene.flags[faces] & LIT) != 0
    factor[lit] = 1.0
    colors = np.zeros((len(faces) + _FIRST_ID, 4), np.uint8)
    colors[_FIRST_ID:, :3] = np.clip(scene.colors[faces] * factor, 0, 255)
    colors[_FIRST_ID:, 3] = np.where(lit, 255, 0)
    ground = np.array(light.ambient) + np.array(light.sun) * max(0.0, float(light.up @ light.sun_direction))
    colors[0, :3] = light.sky
    colors[1, :3] = np.clip(np.array(light.grass) * ground, 0, 255)
    labels = np.empty(len(faces) + _FIRST_ID, np.uint8)
    labels[:_FIRST_ID] = LABEL["sky"], LABEL["terrain"]
    labels[_FIRST_ID:] = scene.labels[faces]
    return colors, labels


def _levels(scene: Scene, drawn: _Drawn, atlas: Atlas, focal: float) -> IntArray:
    """Which size of its texture each polygon reads, from how many texels fall on a pixel."""
    faces, centers = drawn.faces, drawn.centers
    distance = np.maximum(centers[:, 2], 1.5)
    slant = np.abs((centers * scene.normals[faces]).sum(axis=1)) / np.maximum(np.linalg.norm(centers, axis=1), 0.1)
    # The ground is averaged over the long side of a pixel's footprint, or it would shimmer; facades may stay crisper.
    power = np.where((scene.flags[faces] & GROUND) != 0, 0.9, 0.6)
    metres = distance / focal / np.maximum(slant, 0.02) ** power
    tiles = np.sqrt(np.linalg.norm(scene.u[faces, :3], axis=1) * np.linalg.norm(scene.v[faces, :3], axis=1))
    texels = metres * tiles * atlas.size[scene.textures[faces], 0]
    level = np.rint(np.log2(np.maximum(texels, 1e-3)) + 0.1)
    return np.asarray(np.clip(level, 0, atlas.size.shape[1] - 1), np.int64)
