"""Whether an exported step gives the labels of our own: both run side by side in one stream, each with its own memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmanet_core.arrays import UInt8Array
from lmanet_core.frame import Frame
from lmanet_core.stream.exported_step import Signature
from lmanet_core.stream.segmenter import VideoSegmenter
from lmanet_core.stream.step import HostRunner, Lap, StepResult, StreamPast, Wanted

Arrays = Mapping[str, Any]
#: Takes the inputs of a signature by name, gives its outputs by name; arrays of NumPy.
Program = Callable[[dict[str, Any]], Arrays]


@dataclass
class Agreement:
    """How often two ways to segment a stream agree.

    Attributes:
        frames, resets: compared so far.
        pixels, equal: labels compared, and those that are the same.
        least: share of equal labels in the frame where it is lowest.
    """

    frames: int = 0
    resets: int = 0
    pixels: int = 0
    equal: int = 0
    least: float = 1.0

    @property
    def share(self) -> float:
        """Of labels that are the same, 0–1; 1 before the first frame."""
        return self.equal / max(1, self.pixels) if self.pixels else 1.0

    def add(self, one: UInt8Array, other: UInt8Array, reset: bool) -> None:
        """Count a frame."""
        equal = int((one == other).sum())
        self.frames += 1
        self.resets += reset
        self.pixels += one.size
        self.equal += equal
        self.least = min(self.least, equal / one.size)


def compare_with_program(
    segmenter: VideoSegmenter, program: Program, signature: Signature, frames: Iterable[Frame]
) -> Agreement:
    """Segment frames with both.

    Args:
        segmenter: of the exported model, on the CPU in float32, with the exported size as network and output size.
        program: the exported step.
        signature: of the exported step.
        frames: of one stream.
    """
    follower, agreement = _Follower(program, signature), Agreement()
    own = segmenter._runner_for

    def beside(plan: Any) -> Any:
        runner = own(plan)
        assert isinstance(runner, HostRunner)
        return _Both(runner, follower)

    segmenter._runner_for = beside  # type: ignore[method-assign]
    try:
        for frame in frames:
            result = segmenter.step(frame.image, frame.stamp_ns, frame.frame_id)
            agreement.add(result.labels, follower.labels, result.discontinuity is not None)
    finally:
        del segmenter._runner_for  # the class's own again
    return agreement


class _Follower:
    """The exported step in a stream, its state beside it."""

    def __init__(self, program: Program, signature: Signature) -> None:
        self._program, self._names = program, signature.state
        self._zeros = {name: tensor.numpy() for name, tensor in signature.inputs.items()}
        self._state = {name: self._zeros[name] for name in self._names}
        self.labels: UInt8Array = np.empty((0, 0), np.uint8)

    def step(self, pixels: UInt8Array, past: StreamPast, wanted: Wanted) -> None:
        """The frame that our own step gets at the same time, before that has changed its memories."""
        given = {**self._zeros, **self._state, "image": pixels}
        if past.memory is not None and not len(past.memory):
            self._clear(given, "keys", "values", "held")
        if past.label_memory is not None and past.label_memory.belief is None:
            self._clear(given, "belief")
        if past.label_view is not None and past.label_view.evidence is not None:
            given["evidence"] = past.label_view.evidence
        if past.memory is not None and past.view is not None and past.view.positions is not None and past.view.count:
            oldest_first = np.argsort(past.memory.buffer.slots_ns)
            tracked = past.view.positions[0].numpy()[oldest_first]
            moved = tracked - np.indices(tracked.shape[2:]).astype(np.float32)
            given["moved"] = np.concatenate((given["moved"][len(moved) :], moved))
        outputs = self._program({name: given[name] for name in self._zeros})
        self.labels = np.asarray(outputs["labels"], np.uint8)
        kept = {"belief"} if past.follows else set()
        if wanted.key_value:
            kept |= {"keys", "values", "held"}
        for name in kept & set(self._names):
            self._state[name] = np.asarray(outputs[f"next_{name}"])

    def _clear(self, given: dict[str, Any], *names: str) -> None:
        for name in names:
            if name in self._names:
                given[name] = self._state[name] = self._zeros[name]


class _Both:
    """A runner that lets another one see the same frame first."""

    def __init__(self, runner: HostRunner, follower: _Follower) -> None:
        self._runner, self._follower = runner, follower

    def run(
        self, image: UInt8Array, seen: UInt8Array | None, past: StreamPast, wanted: Wanted, stamp_ns: int, lap: Lap
    ) -> StepResult:
        """See `HostRunner.run`."""
        assert seen is not None  # as on every CPU
        self._follower.step(seen, past, wanted)
        return self._runner.run(image, seen, past, wanted, stamp_ns, lap)
