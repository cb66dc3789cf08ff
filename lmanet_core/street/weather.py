"""What stands between the street and a perfect picture: weather, light, lens and sensor.

Every effect has a strength from 0 (absent) over 1 (light) to 3 (heavy), changes smoothly in time and is a function of seed and
time; only sensor noise and rain streaks are new in every frame. Effects change images, never labels: what is hidden keeps its
class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from lmanet_core.arrays import Float32Array, UInt8Array
from lmanet_core.street.camera import Lens
from lmanet_core.street.config import StreetConfig
from lmanet_core.street.render import Rendered, haze_over
from lmanet_core.street.seeding import Topic, Wobble, generator

_USUAL_WIDTH = 512  # sizes in pixels below are for this width and grow with the image
_FOG_COLOR = (198.0, 202.0, 206.0)
_NOISE_SIGMA = 10.0  # grey levels per strength
_EPISODE_S, _RAMP_S = 9.0, 1.5

_SUNLESS = ("fog", "rain", "night")

#: Effects that each degradation applies, in order, at the configured level.
EFFECTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "noise": ("noise",),
    "fog": ("fog",),
    "rain": ("rain",),
    "night": ("night",),
    "blur": ("blur", "jpeg"),
    "occlusion": ("occlusion",),
    "mixed": ("fog", "rain", "night", "glare", "contrast", "blur", "occlusion", "flicker", "noise", "jpeg"),
}


class _Moment(NamedTuple):
    """What an effect may know about a frame."""

    depth: Float32Array
    glow: UInt8Array
    day: UInt8Array
    number: int
    time_s: float
    speed: float


class Weather:
    """Degrades the frames of one configuration."""

    def __init__(self, config: StreetConfig, lens: Lens) -> None:
        self._seed, self._level = config.seed, config.level
        self._width, self._height = lens.width, lens.height
        self._pixel = lens.width / _USUAL_WIDTH
        self._effects = EFFECTS[config.degradation] if config.level else ()
        self._mixed = config.degradation == "mixed"
        rng = generator(config.seed, Topic.EXPOSURE)
        self._drift = [Wobble(rng, 0.03, 0.2) for _ in range(4)]
        self._flicker = Wobble(rng, 0.8, 4.5)
        self._shake = [Wobble(rng, 0.4, 2.5) for _ in range(2)]
        self._headlights = _headlight_mask(lens)
        self._apply: dict[str, Callable[[UInt8Array, float, _Moment], UInt8Array]] = {
            "fog": self._fog,
            "rain": self._rain,
            "night": self._night,
            "glare": self._glare,
            "contrast": self._contrast,
            "blur": self._blur,
            "occlusion": self._occlusion,
            "flicker": self._exposure,
            "noise": self._noise,
            "jpeg": self._jpeg,
        }

    def sunlight(self, time_s: float) -> float:
        """Share of the direct sun that comes through, 0–1: no hard shadows in rain, in fog and at night."""
        hidden = max((self._strength(n, time_s) for n, name in enumerate(self._effects) if name in _SUNLESS), default=0.0)
        return max(0.0, 1.0 - 0.8 * hidden)

    def degrade(self, rendered: Rendered, index: int, time_s: float, speed: float) -> UInt8Array:
        """The image (H, W, 3) as the camera would deliver it."""
        image = rendered.image
        moment = _Moment(rendered.depth, rendered.glow, rendered.image, index, time_s, speed)
        for number, name in enumerate(self._effects):
            strength = self._strength(number, time_s)
            if strength > 0.02:
                image = self._apply[name](image, strength, moment)
        return image

    def _strength(self, effect: int, time_s: float) -> float:
        """The configured level; mixed effects come and go in episodes of their own, some at a time."""
        if not self._mixed:
            return float(self._level)
        shifted = time_s + effect * 2.9
        episode = math.floor(shifted / _EPISODE_S)
        rng = generator(self._seed, Topic.MIX, effect, episode)
        if rng.random() > 0.3:
            return 0.0
        into = shifted - episode * _EPISODE_S
        ramp = min(1.0, into / _RAMP_S, (_EPISODE_S - into) / _RAMP_S)
        return ramp * self._level * float(rng.uniform(0.4, 1.0))

    def _fog(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        per_m = 0.009 * strength**1.35 * (1 + 0.15 * self._drift[0](moment.time_s))
        return haze_over(image, moment.depth, _FOG_COLOR, per_m)

    def _night(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        gain = 0.92 * math.exp(-0.52 * strength)
        dark = _toned(image, (gain * 0.86, gain * 0.93, gain * 1.12), 1.15)
        near = _toned(image, (gain + 0.6, gain + 0.56, gain + 0.46), 1.1)
        beam = self._headlights * cv2.exp(moment.depth * np.float32(-1 / 26.0))
        dark = np.asarray(cv2.blendLinear(near, dark, beam, 1.0 - beam), np.uint8)
        shining = cv2.bitwise_and(moment.day, cv2.cvtColor(moment.glow, cv2.COLOR_GRAY2BGR))
        dark = np.asarray(cv2.max(dark, shining), np.uint8)
        side = 2 * round(5 * self._pixel) + 1
        halo = cv2.blur(cv2.blur(shining, (side, side)), (side, side))
        dark = np.asarray(cv2.add(dark, cv2.convertScaleAbs(halo, alpha=0.5 * strength)), np.uint8)
        return self._noise(dark, 0.32 * strength, moment)

    def _rain(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        image = haze_over(image, moment.depth, (178.0, 184.0, 190.0), 0.0035 * strength)
        image = np.asarray(cv2.convertScaleAbs(image, alpha=1 - 0.09 * strength, beta=8), np.uint8)
        image = np.asarray(cv2.add(image, cv2.cvtColor(self._streaks(strength, moment), cv2.COLOR_GRAY2BGR)), np.uint8)
        for drop in range(round(9 * strength)):
            self._drop(image, drop, moment.time_s)
        return image

    def _streaks(self, strength: float, moment: _Moment) -> UInt8Array:
        rng = generator(self._seed, Topic.RAIN, moment.number)
        layer = np.zeros((self._height, self._width), np.uint8)
        count = round(70 * strength * (self._height / self._width) * 2)
        near = rng.uniform(0.3, 1.0, count)
        start = rng.uniform(0, 1, (count, 2)) * (self._width, self._height)
        slant = (start[:, 0] - self._width / 2) / self._width * 0.03 * moment.speed + 0.1 * self._drift[1](moment.time_s)
        length = near * 26 * self._pixel
        stop = start + np.stack([slant * length, length], axis=1)
        lines = np.rint(np.stack([start, stop], axis=1) * 16).astype(np.int32)
        for line, tone in zip(lines, (near * (26 + 16 * strength)).tolist(), strict=True):
            cv2.line(layer, line[0], line[1], (tone,), max(1, round(self._pixel)), cv2.LINE_AA, 4)
        return layer

    def _drop(self, image: UInt8Array, slot: int, time_s: float) -> None:
        """One drop on the lens: an upside-down, soft view of what is around it. Drops land, slide a little and go."""
        timing = generator(self._seed, Topic.DROPS, slot)
        period, phase = float(timing.uniform(2.0, 6.0)), float(timing.uniform(0, 6))
        life = math.floor((time_s + phase) / period)
        age = (time_s + phase) / period - life
        rng = generator(self._seed, Topic.DROPS, slot, life)
        radius = float(rng.uniform(4, 13)) * self._pixel * min(1.0, 12 * age, 4 * (1 - age) + 0.05)
        x = float(rng.uniform(0, self._width))
        y = float(rng.uniform(0, self._height * 0.95)) + age**2 * float(rng.uniform(0, 26)) * self._pixel
        r = round(radius)
        left, right = max(0, round(x) - r), min(self._width, round(x) + r)
        top, low = max(0, round(y) - r), min(self._height, round(y) + r)
        if r < 2 or right - left < 3 or low - top < 3:
            return
        patch = image[top:low, left:right]
        view = cv2.flip(np.ascontiguousarray(patch), -1)
        view = cv2.convertScaleAbs(cv2.blur(view, (3, 3)), alpha=0.95, beta=14)
        mask = np.zeros(patch.shape[:2], np.float32)
        cv2.circle(mask, (round(x) - left, round(y) - top), max(1, r - 1), 0.85, -1, cv2.LINE_AA)
        soft = np.asarray(cv2.blur(mask, (3, 3)))
        patch[:] = cv2.blendLinear(view, np.ascontiguousarray(patch), soft, 1.0 - soft)

    def _noise(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        """Independent in every pixel, channel and frame."""
        rng = generator(self._seed, Topic.NOISE, moment.number)
        noise = rng.standard_normal(image.shape, np.float32)
        noise *= np.float32(_NOISE_SIGMA * strength)
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)

    def _blur(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        dx, dy = (shake(moment.time_s) for shake in self._shake)
        length = self._pixel * strength * (1.0 + 1.6 * math.hypot(dx, dy))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.3 * self._pixel * strength), np.uint8)
        return np.asarray(cv2.filter2D(image, -1, _line_kernel(length, math.atan2(dy, dx))), np.uint8)

    def _jpeg(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        del moment
        quality = round(70 - 15 * strength)
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
        assert done
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

    def _contrast(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        del moment
        alpha = 1 - 0.2 * strength
        return np.asarray(cv2.convertScaleAbs(image, alpha=alpha, beta=(1 - alpha) * 135), np.uint8)

    def _exposure(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        gain = math.exp(0.11 * strength * self._flicker(moment.time_s) + 0.12 * strength * self._drift[2](moment.time_s))
        return np.asarray(cv2.convertScaleAbs(image, alpha=gain), np.uint8)

    def _glare(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        """A low sun in the picture: light that spreads over it and takes the contrast."""
        x = self._width * (0.5 + 0.35 * self._drift[3](moment.time_s))
        y = self._height * (0.16 + 0.1 * self._drift[0](moment.time_s))
        rows = (np.arange(self._height, dtype=np.float32) - np.float32(y))[:, None] / self._width
        columns = (np.arange(self._width, dtype=np.float32) - np.float32(x))[None, :] / self._width
        distance = np.sqrt(rows * rows + columns * columns)
        disc, veil = cv2.exp(distance * distance * np.float32(-100.0)), cv2.exp(distance * np.float32(-4.5))
        halo = np.minimum((90 * strength) * disc + (42 * strength) * veil, 255).astype(np.uint8)
        warm = cv2.merge([halo, cv2.convertScaleAbs(halo, alpha=0.94), cv2.convertScaleAbs(halo, alpha=0.8)])
        return np.asarray(cv2.add(image, warm), np.uint8)

    def _occlusion(self, image: UInt8Array, strength: float, moment: _Moment) -> UInt8Array:
        image = image.copy()
        for slot in range(round(2.4 * strength)):
            self._dirt(image, slot, moment.time_s)
        self._wiper(image, moment.time_s)
        for slot in range(math.ceil(strength)):
            self._blackout(image, slot, moment.time_s, strength)
        return image

    def _life(self, topic: Topic, slot: int, low_s: float, high_s: float, time_s: float) -> tuple[np.random.Generator, float]:
        """The draws of whatever lives in a slot now, and its age as a share of its life."""
        period = float(generator(self._seed, topic, slot).uniform(low_s, high_s))
        turn = time_s / period + slot * 0.37
        return generator(self._seed, topic, slot, math.floor(turn)), turn - math.floor(turn)

    def _dirt(self, image: UInt8Array, slot: int, time_s: float) -> None:
        """A splash of mud on the glass that dries and stays a while."""
        rng, age = self._life(Topic.DIRT, slot, 12.0, 30.0, time_s)
        radius = float(rng.uniform(10, 34)) * self._pixel
        x, y = float(rng.uniform(0, self._width)), float(rng.uniform(0, self._height))
        angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        rough = radius * rng.uniform(0.5, 1.15, 14)
        reach = round(radius * 1.4)
        left, top = max(0, round(x) - reach), max(0, round(y) - reach)
        patch = image[top : round(y) + reach, left : round(x) + reach]
        if min(patch.shape[:2]) < 3:
            return
        mask = np.zeros(patch.shape[:2], np.float32)
        outline = np.stack([x - left + rough * np.cos(angles), y - top + rough * np.sin(angles)], axis=1)
        opacity = float(rng.uniform(0.75, 1.0)) * min(1.0, 20 * age, 6 * (1 - age))
        cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], opacity, cv2.LINE_AA, 4)
        soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.6 * self._pixel))
        mud = np.empty_like(patch)
        mud[:] = (rng.uniform(0.3, 1.2) * np.array((74, 62, 50))).astype(np.uint8)
        patch[:] = cv2.blendLinear(mud, np.ascontiguousarray(patch), soft, 1.0 - soft)

    def _wiper(self, image: UInt8Array, time_s: float) -> None:
        """A blade that passes every few seconds."""
        period, sweep = 3.4, 0.9
        into = (time_s + self._seed % 7) % period
        if into > sweep:
            return
        angle = math.pi * (0.06 + 0.88 * abs(1 - 2 * into / sweep))
        pivot = np.array([self._width * 0.42, self._height * 1.25])
        tip = pivot + self._width * 0.95 * np.array([math.cos(angle), -math.sin(angle)])
        ends = [(round(float(p[0]) * 16), round(float(p[1]) * 16)) for p in (pivot, tip)]
        cv2.line(image, ends[0], ends[1], (16, 16, 18), max(2, round(9 * self._pixel)), cv2.LINE_AA, 4)

    def _blackout(self, image: UInt8Array, slot: int, time_s: float, strength: float) -> None:
        """A block of lost picture for a few frames."""
        rng, age = self._life(Topic.BLACKOUT, slot, 0.4, 1.2, time_s)
        if rng.random() > 0.45 or age > float(rng.uniform(0.3, 1.0)):
            return
        width, height = (float(side * rng.uniform(0.06, 0.09 + 0.08 * strength)) for side in (self._width, self._height))
        x, y = float(rng.uniform(0, self._width - width)), float(rng.uniform(0, self._height - height))
        image[round(y) : round(y + height), round(x) : round(x + width)] = int(rng.choice((0, 0, 0, 114)))


def _toned(image: UInt8Array, gains: tuple[float, float, float], gamma: float) -> UInt8Array:
    tone = (np.arange(256) / 255) ** gamma * 255
    table = np.stack([np.clip(tone * gain, 0, 255) for gain in gains], axis=1).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table.reshape(256, 1, 3)), np.uint8)


def _headlight_mask(lens: Lens) -> Float32Array:
    """(H, W) 0–1: where the own lights reach, by direction."""
    x = (np.arange(lens.width, dtype=np.float32) - lens.cx)[None, :] / lens.focal
    y = (np.arange(lens.height, dtype=np.float32) - lens.cy)[:, None] / lens.focal
    wide = np.exp(-((x / 0.34) ** 2))
    return np.asarray(wide * np.clip((y + 0.035) / 0.05, 0, 1), np.float32)


def _line_kernel(length: float, angle: float) -> Float32Array:
    """A normalised line through the centre; the camera's path during exposure."""
    half = max(1, math.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    reach = (math.cos(angle) * length / 2, math.sin(angle) * length / 2)
    ends = [(round((half + sign * reach[0]) * 256), round((half + sign * reach[1]) * 256)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], (1.0,), 1, cv2.LINE_8, 8)
    kernel[half, half] = 1.0
    return np.asarray(kernel / kernel.sum(), np.float32)
