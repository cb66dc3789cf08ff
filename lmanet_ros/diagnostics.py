"""What the node says on /diagnostics, once a second: one status for the node, one for each camera. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from lmanet_ros.parameters import Settings
from lmanet_ros.statistics import Snapshot

_OTHER_CLOCK_S = 3600.0  # so old is no image; its stamp belongs to another clock

_OFTEN = 0.5  # share of frames at which the memory is cleared, and may as well be switched off
_EXPLAINED = {
    "gap": "mostly for gaps: frames are further apart than the memory was trained with, see continuity.gap_intervals",
    "scene_cut": "mostly for scene cuts: do two cameras publish on one topic?",
    "frame_id_change": "mostly as the frame_id changes: two cameras publish on one topic",
    "size_change": "mostly as the image size changes: two cameras publish on one topic",
    "backward_stamp": "mostly as stamps go back: two cameras or clocks on one topic?",
}

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def camera_status(
    name: str, topic: str, now: Snapshot, before: Snapshot | None, dropped: int, capacity: int, settings: Settings, hint: str
) -> DiagnosticStatus:
    """How one camera does.

    Args:
        name: of the status.
        topic: images come from here.
        now, before: statistics now and at the last status.
        dropped: images replaced by newer ones so far.
        capacity: of the memory, frames; 0 where there is none.
        settings: thresholds.
        hint: why no images come, as far as known; used when none came for `no_image_warn_s`.
    """
    complaints = _complaints(topic, now, before, settings, hint)
    level = max((level for level, _ in complaints), default=OK, key=lambda level: level[0])
    message = "; ".join(text for _, text in complaints) or f"{now.output_hz:.1f} Hz"
    values: dict[str, object] = {
        "topic": topic,
        "input rate (Hz)": f"{now.input_hz:.2f}",
        "output rate (Hz)": f"{now.output_hz:.2f}",
        "input age at publish (s)": "none yet" if now.age_s is None else f"{now.age_s:.3f}",
        "images received": now.received,
        "frames published": now.published,
        "frames only remembered": now.fed,
        "dropped for a newer image": dropped,
        "dropped as too old": now.too_old,
        "bad images": now.bad,
        "frames lost to errors": now.failed,
        "memory": f"{now.memory_frames} of {capacity} frames" if capacity else "none in these weights",
        "not remembered": now.not_remembered,
        "resets": sum(now.resets.values()),
        **{f"resets: {cause}": count for cause, count in sorted(now.resets.items())},
        "frames that showed nothing": sum(now.blind_frames.values()),
        **{f"frames that showed nothing: {why}": count for why, count in sorted(now.blind_frames.items())},
        **{
            f"{stage} p50/p95/p99 (ms)": " / ".join(f"{value:.1f}" for value in percentiles)
            for stage, percentiles in now.latency_ms.items()
        },
    }
    return make_status(name, level, message, values)


def _complaints(topic: str, now: Snapshot, before: Snapshot | None, settings: Settings, hint: str) -> list[tuple[bytes, str]]:
    found: list[tuple[bytes, str]] = []
    silent = now.since_image_s > settings.no_image_warn_s
    if silent:
        found.append((ERROR, f"no image on {topic} for {now.since_image_s:.0f} s: {hint}"))
    if before is not None and now.failed > before.failed:
        found.append((ERROR, f"{now.failed - before.failed} frames lost to errors, see the log"))
    if before is not None and now.bad > before.bad:
        found.append((WARN, f"{now.bad - before.bad} bad images"))
    if now.age_s is not None and not silent:
        if abs(now.age_s) > _OTHER_CLOCK_S:
            found.append((WARN, "stamps belong to another clock (a bag? ros2 bag play --clock and use_sim_time:=true)"))
        elif now.age_s > settings.age_warn_s:
            level = ERROR if now.age_s > settings.age_error_s else WARN
            found.append((level, f"results are {now.age_s:.2f} s old when published"))
    if now.blind is not None and not silent:
        found.append((WARN, f"the camera sees nothing: the picture is {now.blind}"))
    if now.reset_share >= _OFTEN and not silent:
        often = max(now.resets, key=lambda cause: now.resets[cause])
        found.append((WARN, f"the memory is cleared at {now.reset_share:.0%} of the frames, {_EXPLAINED.get(often, often)}"))
    if settings.rate_warn_hz and not silent and now.age_s is not None and now.output_hz < settings.rate_warn_hz:
        found.append((WARN, f"{now.output_hz:.1f} Hz, wanted {settings.rate_warn_hz:g} Hz"))
    return found


def make_status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """A status with its values as text."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id="lmanet_ros", values=pairs)


def used_memory(device: torch.device) -> dict[str, object]:
    """Memory in use, MB (10⁶ bytes): of the process, and of the device where that is a GPU."""
    values: dict[str, object] = {"resident memory (MB)": f"{_resident_mb():.0f}"}
    if device.type == "cuda":
        values["device memory allocated (MB)"] = f"{torch.cuda.memory_allocated(device) / 1e6:.0f}"
        values["device memory reserved (MB)"] = f"{torch.cuda.memory_reserved(device) / 1e6:.0f}"
    return values


def _resident_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)
