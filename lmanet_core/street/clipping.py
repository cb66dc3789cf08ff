"""Polygons cut at the plane just before the camera (Sutherland and Hodgman 1974)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lmanet_core.arrays import Float32Array

IntArray = npt.NDArray[np.int64]

NEAR_M = 0.3


def clip_polygons(
    points: Float32Array, counts: IntArray, firsts: IntArray, behind: npt.NDArray[np.bool_]
) -> tuple[Float32Array, IntArray]:
    """Cut polygons at the near plane; most pass untouched.

    Args:
        points: (N, 3) corners of all polygons, one polygon after the other, metres; z runs away from the camera.
        counts, firsts: of each polygon, its number of corners and its first one.
        behind: (N,) which corners lie before the near plane.

    Returns:
        Corners and counts of what is left, in the same order.
    """
    crossing = np.add.reduceat(behind, firsts) > 0
    pieces: list[Float32Array] = []
    counts = counts.copy()
    done = 0
    for face in np.flatnonzero(crossing).tolist():
        first = int(firsts[face])
        pieces.append(points[done:first])
        done = first + int(counts[face])
        clipped = _clip_one(points[first:done])
        counts[face] = len(clipped)
        pieces.append(clipped)
    pieces.append(points[done:])
    return np.concatenate(pieces), counts


def _clip_one(polygon: Float32Array) -> Float32Array:
    corners = polygon.tolist()
    kept: list[list[float]] = []
    for (ax, ay, az), (bx, by, bz) in zip(corners[-1:] + corners[:-1], corners, strict=True):
        if (az < NEAR_M) != (bz < NEAR_M):
            t = (NEAR_M - az) / (bz - az)
            kept.append([ax + t * (bx - ax), ay + t * (by - ay), NEAR_M])
        if bz >= NEAR_M:
            kept.append([bx, by, bz])
    if len(kept) < 3:  # touches the plane only: keep it as a point, drawn nowhere
        kept = [[*corners[0][:2], NEAR_M]] * 3
    return np.array(kept, np.float32)
