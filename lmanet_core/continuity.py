"""Decide whether a frame goes on from the one before."""

from __future__ import annotations

from enum import Enum


class Discontinuity(str, Enum):
    """Why the memory is cleared before a frame."""

    FIRST_FRAME = "first_frame"
    BACKWARD_STAMP = "backward_stamp"
    GAP = "gap"
    SIZE_CHANGE = "size_change"
    FRAME_ID_CHANGE = "frame_id_change"
    SCENE_CUT = "scene_cut"
    CLOCK_JUMP = "clock_jump"
    MANUAL = "manual"
