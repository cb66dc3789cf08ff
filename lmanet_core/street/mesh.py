"""Flat polygons in three dimensions, and the builder that things of the street are made with.

Coordinates are x right, y up, z forward, in metres. A polygon's vertices run counter-clockwise as seen from its front; its back
is not drawn unless it is two-sided. Polygons belong to parts: a part is what the painter orders by distance, and within a part
later polygons cover earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array
from lmanet_core.labels import CITYSCAPES
from lmanet_core.street.textures import PLAIN, TILE_M

IntArray = npt.NDArray[np.int32]
Color = tuple[float, float, float]
Point = tuple[float, float, float]

TWO_SIDED, CONCAVE, LIT, GROUND = 1, 2, 4, 8

LABEL = {name: index for index, name in enumerate(CITYSCAPES.names)}


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Polygons as arrays; V vertices, F polygons.

    Attributes:
        points: (V, 3) vertices, polygon after polygon.
        counts: (F,) vertices of each polygon.
        colors: (F, 3) 0–255, unlit.
        labels: (F,) class ids.
        textures: (F,) texture ids.
        u, v: (F, 4) texture coordinates in tiles: u = U[:3]·p + U[3].
        normals: (F, 3) unit vectors to the front.
        flags: (F,) of TWO_SIDED, CONCAVE, LIT (shines by itself), GROUND (flat on the ground: drawn first, takes shadows).
        parts: (F,) index of the part, rising.
        part_far: (P,) whether the part is ordered by its farthest point (house rows) or its nearest (things on the road).
        part_along: (P,) where the part stands along z, for the far distance where things rise.
        shadow_points, shadow_counts: outlines of shadows on the ground, as points and counts.
    """

    points: Float32Array
    counts: IntArray
    colors: Float32Array
    labels: npt.NDArray[np.uint8]
    textures: IntArray
    u: Float32Array
    v: Float32Array
    normals: Float32Array
    flags: npt.NDArray[np.uint8]
    parts: IntArray
    part_far: npt.NDArray[np.bool_]
    part_along: Float32Array
    shadow_points: Float32Array
    shadow_counts: IntArray


class MeshBuilder:
    """Collects polygons; `place` says where the local frame of what is added next lies."""

    def __init__(self, sun: tuple[float, float, float] | None = None) -> None:
        self._sun = sun  # towards the sun, in the builder's frame; None: no shadows
        self._points: list[Point] = []
        self._counts: list[int] = []
        self._colors: list[Color] = []
        self._labels: list[int] = []
        self._textures: list[int] = []
        self._axes: list[tuple[Point, Point, Point, float, float, float, float]] = []
        self._flags: list[int] = []
        self._parts: list[int] = []
        self._part_far: list[bool] = []
        self._part_along: list[float] = []
        self._shadow_points: list[Point] = []
        self._shadow_counts: list[int] = []
        self.place(0.0, 0.0, 0.0)

    def place(self, x: float, z: float, heading: float, mirror: bool = False) -> None:
        """Put the local frame at (x, 0, z), turned right by `heading`; mirrored: local x runs to the left."""
        self._x, self._z, self._mirror = x, z, mirror
        self._cos, self._sin = math.cos(heading), math.sin(heading)

    def begin_part(self, far: bool = False) -> None:
        """Start a new part at the current place."""
        self._part_far.append(far)
        self._part_along.append(self._z)

    def _to_frame(self, p: Point) -> Point:
        x = -p[0] if self._mirror else p[0]
        return self._x + x * self._cos + p[2] * self._sin, p[1], self._z - x * self._sin + p[2] * self._cos

    def polygon(
        self,
        points: Sequence[Point],
        color: Color,
        label: int,
        texture: int = PLAIN,
        *,
        tiles: tuple[float, float] | None = None,
        offset: tuple[float, float] = (0.0, 0.0),
        flags: int = 0,
    ) -> None:
        """Add one polygon.

        Args:
            points: counter-clockwise from the front. The texture's u runs along the first edge, v towards the last point.
            color: RGB 0–255.
            label: class id.
            texture: texture id.
            tiles: texture tiles along the first and along the last edge; None: by the texture's own size in metres.
            offset: texture coordinates of the first point, tiles.
            flags: of TWO_SIDED, CONCAVE, LIT, GROUND.
        """
        if not self._part_far:
            self.begin_part()
        placed = [self._to_frame(p) for p in points]
        tile = TILE_M[texture]
        per_u, per_v = tiles if tiles is not None else (0.0, 0.0)
        self._axes.append((placed[0], placed[1], placed[-1], per_u, per_v, offset[0], offset[1]))
        if tiles is None:
            self._axes[-1] = (placed[0], placed[1], placed[-1], -1.0 / tile, -1.0 / tile, offset[0], offset[1])
        self._points.extend(reversed(placed) if self._mirror else placed)
        self._counts.append(len(placed))
        self._colors.append(color)
        self._labels.append(label)
        self._textures.append(texture)
        self._flags.append(flags)
        self._parts.append(len(self._part_far) - 1)

    def inset(
        self,
        quad: Sequence[Point],
        u0: float,
        u1: float,
        v0: float,
        v1: float,
        color: Color,
        label: int,
        texture: int = PLAIN,
        *,
        flags: int = 0,
    ) -> list[Point]:
        """A rectangle on a quad, given in fractions along its first and last edges; returns its corners."""
        corners = [_between(quad, u, v) for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))]
        self.polygon(corners, color, label, texture, flags=flags)
        return corners

    def disc(
        self, center: Point, radius: float, axis: str, color: Color, label: int, corners: int = 10, *, flags: int = 0
    ) -> None:
        """A regular polygon whose front looks along `axis`: "-z", "+x" or "-x"."""
        ring = [(math.cos(a) * radius, math.sin(a) * radius) for a in _angles(corners)]
        cx, cy, cz = center
        if axis == "-z":
            points = [(cx + a, cy + b, cz) for a, b in ring]
        elif axis == "-x":
            points = [(cx, cy + b, cz - a) for a, b in ring]
        else:
            points = [(cx, cy + b, cz + a) for a, b in ring]
        self.polygon(points, color, label, flags=flags)

    def tapered(
        self,
        bottom: tuple[float, float, float, float],
        top: tuple[float, float, float, float],
        y0: float,
        y1: float,
        color: Color,
        label: int,
        texture: int = PLAIN,
        *,
        faces: str = "lrnft",
        top_color: Color | None = None,
    ) -> dict[str, list[Point]]:
        """A box between two rectangles (x0, x1, z0, z1) at heights y0 and y1.

        Args:
            faces: which to draw: l (−x), r (+x), n (−z, near), f (+z, far), t (top).

        Returns:
            The corners of every face by its letter, for `inset`.
        """
        a0, a1, c0, c1 = bottom
        b0, b1, d0, d1 = top
        quads: dict[str, list[Point]] = {
            "f": [(a1, y0, c1), (a0, y0, c1), (b0, y1, d1), (b1, y1, d1)],
            "l": [(a0, y0, c1), (a0, y0, c0), (b0, y1, d0), (b0, y1, d1)],
            "r": [(a1, y0, c0), (a1, y0, c1), (b1, y1, d1), (b1, y1, d0)],
            "t": [(b0, y1, d0), (b1, y1, d0), (b1, y1, d1), (b0, y1, d1)],
            "n": [(a0, y0, c0), (a1, y0, c0), (b1, y1, d0), (b0, y1, d0)],
        }
        for name, quad in quads.items():
            if name in faces:
                self.polygon(quad, top_color if name == "t" and top_color else color, label, texture)
        return quads

    def shadow(
        self, x0: float, x1: float, z0: float, z1: float, height: float, lift: float = 0.0, rounded: bool = False
    ) -> None:
        """The shadow of a box from `lift` to `height` metres over the rectangle; its footprint where there is no sun."""
        rectangle = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
        if rounded:
            middle, half = ((x0 + x1) / 2, (z0 + z1) / 2), ((x1 - x0) / 2, (z1 - z0) / 2)
            rectangle = [(middle[0] + half[0] * math.cos(a), middle[1] + half[1] * math.sin(a)) for a in _angles(10)]
        corners = [self._to_frame((x, 0.0, z)) for x, z in rectangle]
        outline = [(x, z) for x, _, z in corners]
        if self._sun is not None:
            sx, sy, sz = self._sun
            reach = min(height / max(sy, 0.2), 25.0)
            low = min(lift / max(sy, 0.2), 25.0)
            outline = [(x - sx * r, z - sz * r) for x, z in outline for r in (low, reach)]
        hull = _convex_hull(outline)
        self._shadow_points.extend((x, 0.0, z) for x, z in hull)
        self._shadow_counts.append(len(hull))

    def finish(self) -> Mesh:
        """Everything added so far as arrays."""
        points = np.array(self._points, np.float32).reshape(-1, 3)
        counts = np.array(self._counts, np.int32)
        starts = np.cumsum(counts) - counts
        first = points[starts]
        normals = -np.cross(points[starts + 1] - first, points[starts + 2] - first)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        u, v = self._texture_axes()
        return Mesh(
            points=points,
            counts=counts,
            colors=np.array(self._colors, np.float32).reshape(-1, 3),
            labels=np.array(self._labels, np.uint8),
            textures=np.array(self._textures, np.int32),
            u=u,
            v=v,
            normals=normals.astype(np.float32),
            flags=np.array(self._flags, np.uint8),
            parts=np.array(self._parts, np.int32),
            part_far=np.array(self._part_far, np.bool_),
            part_along=np.array(self._part_along, np.float32),
            shadow_points=np.array(self._shadow_points, np.float32).reshape(-1, 3),
            shadow_counts=np.array(self._shadow_counts, np.int32),
        )

    def _texture_axes(self) -> tuple[Float32Array, Float32Array]:
        origin = np.array([a[0] for a in self._axes], np.float64).reshape(-1, 3)
        along = np.array([a[1] for a in self._axes], np.float64).reshape(-1, 3) - origin
        away = np.array([a[2] for a in self._axes], np.float64).reshape(-1, 3) - origin
        wanted = np.array([a[3:] for a in self._axes], np.float64).reshape(-1, 4)
        length = np.maximum(np.linalg.norm(along, axis=1), 1e-6)
        along /= length[:, None]
        away -= along * (along * away).sum(axis=1, keepdims=True)  # square to u, so that nothing shears
        height = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
        away /= height[:, None]
        axes = []
        for axis, size, per, start in ((along, length, wanted[:, 0], wanted[:, 2]), (away, height, wanted[:, 1], wanted[:, 3])):
            scale = np.where(per < 0, -per, per / size)
            vector = axis * scale[:, None]
            axes.append(np.concatenate([vector, (start - (vector * origin).sum(axis=1))[:, None]], axis=1).astype(np.float32))
        return axes[0], axes[1]


def move_mesh(mesh: Mesh, x: float, z: float, heading: float) -> Mesh:
    """The mesh put at (x, 0, z) and turned right by `heading`."""
    cos, sin = math.cos(heading), math.sin(heading)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32)
    shift = np.array([x, 0, z], np.float32)
    axes = []
    for axis in (mesh.u, mesh.v):
        vector = axis[:, :3] @ turn.T
        axes.append(np.concatenate([vector, axis[:, 3:] - (vector @ shift)[:, None]], axis=1))
    return replace(
        mesh,
        points=mesh.points @ turn.T + shift,
        u=axes[0],
        v=axes[1],
        normals=mesh.normals @ turn.T,
        part_along=mesh.part_along + np.float32(z),
        shadow_points=mesh.shadow_points @ turn.T + shift,
    )


def join_meshes(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh with the parts of all, in order."""
    offsets = np.cumsum([0, *(len(mesh.part_far) for mesh in meshes[:-1])])
    joined = {
        field.name: np.concatenate([getattr(mesh, field.name) for mesh in meshes])
        for field in fields(Mesh)
        if field.name != "parts"
    }
    parts = np.concatenate([mesh.parts + np.int32(offset) for mesh, offset in zip(meshes, offsets, strict=True)])
    return Mesh(**joined, parts=parts)


def coarse_mesh(mesh: Mesh, smallest_m: float) -> Mesh:
    """The mesh without polygons that are smaller, or thinner than half of, `smallest_m`: what is left to see from afar."""
    starts = np.cumsum(mesh.counts) - mesh.counts
    spans = np.maximum.reduceat(mesh.points, starts) - np.minimum.reduceat(mesh.points, starts)
    longest = np.linalg.norm(spans, axis=1)
    after = np.arange(len(mesh.points)) + 1
    after[starts + mesh.counts - 1] = starts
    area = np.linalg.norm(np.add.reduceat(np.cross(mesh.points, mesh.points[after]), starts), axis=1) / 2
    keep = (longest > smallest_m) & (area > longest * smallest_m / 2)
    keep[np.unique(mesh.parts, return_index=True)[1]] = True  # no part without polygons
    faces = {name: getattr(mesh, name)[keep] for name in _BY_FACE}
    return replace(mesh, points=mesh.points[np.repeat(keep, mesh.counts)], **faces)


_BY_FACE = ("counts", "colors", "labels", "textures", "u", "v", "normals", "flags", "parts")


def _angles(corners: int) -> list[float]:
    return [2 * math.pi * (i + 0.5) / corners for i in range(corners)]


def _between(quad: Sequence[Point], u: float, v: float) -> Point:
    a, b, c, d = quad
    x, y, z = ((a[i] * (1 - u) + b[i] * u) * (1 - v) + (d[i] * (1 - u) + c[i] * u) * v for i in range(3))
    return x, y, z


def _convex_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Monotone chain (Andrew 1979)."""
    ordered = sorted(set(points))

    def half(chain: list[tuple[float, float]]) -> list[tuple[float, float]]:
        hull: list[tuple[float, float]] = []
        for p in chain:
            while len(hull) > 1:
                (ax, ay), (bx, by) = hull[-2], hull[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                hull.pop()
            hull.append(p)
        return hull[:-1]

    return half(ordered) + half(ordered[::-1])
