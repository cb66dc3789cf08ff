"""Gathers what the camera may see into arrays of polygons in camera coordinates.

A scene is made for one frame and thrown away. It is ordered by nobody yet: `render.py` sorts and draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array
from lmanet_core.street.camera import Transform
from lmanet_core.street.figures import BAR_CORNERS, Bars
from lmanet_core.street.mesh import LIT, TWO_SIDED, Mesh
from lmanet_core.street.textures import ROUND

IntArray = npt.NDArray[np.int32]

_RISE_M = 50.0  # things grow out of the ground over this distance before the end of the view


@dataclass(slots=True)
class Scene:
    """Polygons in camera coordinates; V vertices, F polygons, P parts.

    Attributes:
        points (V, 3), counts (F,), colors (F, 3), labels (F,), textures (F,), u (F, 4), v (F, 4), normals (F, 3), flags (F,)
            as in `Mesh`.
        parts: (F,) part of each polygon, rising.
        part_far: (P,) painted by the farthest point instead of the nearest.
        part_bias: (P,) metres added to the distance when painting.
        shadow_points, shadow_counts: outlines on the ground.
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
    part_bias: Float32Array
    shadow_points: Float32Array
    shadow_counts: IntArray


def mesh_scene(mesh: Mesh, into_camera: Transform, rise: Float32Array | None, bias_m: float = 0.0) -> Scene:
    """A mesh seen from the camera; `rise` (P,) scales the height of its parts (None: full height)."""
    turn, shift = into_camera.turn.astype(np.float32), into_camera.shift.astype(np.float32)
    points = mesh.points
    if rise is not None:
        points = points.copy()
        points[:, 1] *= np.repeat(rise[mesh.parts], mesh.counts)
    u, v = (np.empty_like(mesh.u) for _ in range(2))
    for new, old in ((u, mesh.u), (v, mesh.v)):
        np.matmul(old[:, :3], turn.T, out=new[:, :3])
        new[:, 3] = old[:, 3] - new[:, :3] @ shift
    return Scene(
        points=points @ turn.T + shift,
        counts=mesh.counts,
        colors=mesh.colors,
        labels=mesh.labels,
        textures=mesh.textures,
        u=u,
        v=v,
        normals=mesh.normals @ turn.T,
        flags=mesh.flags,
        parts=mesh.parts,
        part_far=mesh.part_far,
        part_bias=np.full(len(mesh.part_far), bias_m, np.float32),
        shadow_points=mesh.shadow_points @ turn.T + shift,
        shadow_counts=mesh.shadow_counts,
    )


class Figure(NamedTuple):
    """One posed figure: its bars, where its frame is, and how far it has risen (0–1)."""

    bars: Bars
    into_camera: Transform
    rise: float


def figures_scene(figures: list[Figure], focal: float) -> Scene | None:
    """All figures of a frame: each bar becomes a rounded outline that faces the camera.

    Bars too thin to be seen at the focal length (pixels) are left out. None if nothing is left.
    """
    placed = [_place_bars(figure) for figure in figures]
    if not placed:
        return None
    ends = np.concatenate(placed)  # (N, 2, 3)
    parts = np.repeat(np.arange(len(figures), dtype=np.int32), [len(p) for p in placed])
    radii = np.concatenate([figure.bars.radii for figure in figures])
    depth = ends[:, :, 2].mean(axis=1)
    seen = (depth > 0.5) & (radii.max(axis=1) * focal > 0.24 * depth)
    order = np.lexsort((-depth, parts))
    order = np.asarray(order[seen[order]])
    if not len(order):
        return None
    kept, part_of = np.unique(parts[order], return_inverse=True)
    u, v = np.empty((len(order), 4), np.float32), np.zeros((len(order), 4), np.float32)
    v[:, 3] = 0.5
    points, view = _outline(ends[order], radii[order], u)
    lit = np.concatenate([figure.bars.lit for figure in figures])[order]
    shadows = [_FOOTPRINT @ figures[k].into_camera.turn.T + figures[k].into_camera.shift for k in kept.tolist()]
    return Scene(
        points=points,
        counts=np.full(len(order), BAR_CORNERS, np.int32),
        colors=np.concatenate([figure.bars.colors for figure in figures])[order],
        labels=np.concatenate([figure.bars.labels for figure in figures])[order],
        textures=np.full(len(order), ROUND, np.int32),
        u=u,
        v=v,
        normals=-view,
        flags=(TWO_SIDED + LIT * lit).astype(np.uint8),
        parts=part_of.astype(np.int32),
        part_far=np.zeros(len(kept), np.bool_),
        part_bias=np.zeros(len(kept), np.float32),
        shadow_points=np.concatenate(shadows).astype(np.float32),
        shadow_counts=np.full(len(kept), len(_FOOTPRINT), np.int32),
    )


def _place_bars(figure: Figure) -> Float32Array:
    turn, shift = figure.into_camera.turn.copy(), figure.into_camera.shift
    turn[:, 1] *= figure.rise
    return np.asarray(figure.bars.ends.reshape(-1, 3) @ turn.T.astype(np.float32) + shift.astype(np.float32)).reshape(-1, 2, 3)


def _outline(ends: Float32Array, radii: Float32Array, u: Float32Array) -> tuple[Float32Array, Float32Array]:
    """(N·8, 3) corners and (N, 3) directions of view; writes the texture axis across each bar to `u`."""
    a, b = ends[:, 0], ends[:, 1]
    view = _unit(a + b)
    across = _cross(b - a, view)
    bare = (across * across).sum(axis=1) < 1e-8  # seen end on
    if bare.any():
        across[bare] = _cross(np.array([[0.0, 1.0, 0.02]], np.float32), view[bare])
    across = _unit(across)
    out = _cross(view, across)  # along the bar on the image
    first, last = radii[:, :1], radii[:, 1:]
    near, far, cap = 0.62 * across, 1.0 * across, 0.78 * out
    corners = (
        a + first * far, a + first * (near - cap), a - first * (near + cap), a - first * far,
        b - last * far, b + last * (cap - near), b + last * (near + cap), b + last * far,
    )  # fmt: skip
    u[:, :3] = across * (0.5 / np.maximum(radii.max(axis=1), 1e-3))[:, None]
    u[:, 3] = 0.5 - (u[:, :3] * a).sum(axis=1)
    return np.stack(corners, axis=1).reshape(-1, 3), view


_FOOTPRINT = np.array([(0.3, 0, 0), (0.15, 0, 0.26), (-0.15, 0, 0.26), (-0.3, 0, 0), (-0.15, 0, -0.26), (0.15, 0, -0.26)])


def _cross(a: Float32Array, b: Float32Array) -> Float32Array:
    """np.cross for (N, 3), without its overhead."""
    ax, ay, az = a.T
    bx, by, bz = b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def rise_with_distance(distance: Float32Array, view_m: float) -> Float32Array:
    """How high things stand: 1 near, down to 0 at the end of the view, so that nothing pops up."""
    rise = np.clip((view_m - distance) / min(_RISE_M, 0.25 * view_m), 0.0, 1.0)
    return np.asarray(rise * rise * (3 - 2 * rise), np.float32)


def join_scenes(scenes: list[Scene]) -> Scene:
    """All polygons, in order."""
    offsets = np.cumsum([0, *(len(scene.part_far) for scene in scenes[:-1])])
    parts = np.concatenate([scene.parts + np.int32(offset) for scene, offset in zip(scenes, offsets, strict=True)])
    names = [name for name in Scene.__slots__ if name != "parts"]
    return Scene(parts=parts, **{name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in names})


def _unit(vectors: Float32Array) -> Float32Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6), np.float32)
